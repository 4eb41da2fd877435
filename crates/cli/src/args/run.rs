//! `run`.

use super::{ports, secrets::Secrets, usage::Usage, values};
use clap::{Args, ValueEnum};
use hyperfork_api::port::PublishedPort;
use hyperfork_api::spec::{Disk, DiskFormat, Share};
use hyperfork_api::{Bytes, Egress, VmName, VmSpec};
use std::path::PathBuf;
use std::time::Duration;

/// Boot a VM, and run a command in it
///
/// With -d it returns once the VM is ready, and prints its name; the VM lives on
/// until it is stopped. Otherwise the command's output and exit status are this
/// program's, and the VM ends with the command; without a command it idles until
/// Ctrl-C.
///
/// An image that is missing is built first. The image `nano` is the embedded
/// guest, a few KiB without a kernel, which is there on every host. Its options go
/// to --append: touch_mib=N fills N MiB of its memory, which each clone checks;
/// dirty_pages=N is how many pages each clone writes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hyperfork run --rm --image python -- python3 -c 'print(6 * 7)'
  hyperfork run -d --name p --image python --memory 1GiB
  hyperfork run -d --name web --image python -p 8080:8000 -- python3 -m http.server
  hyperfork run -d --name box --egress dns,public
  hyperfork run -d --name db --disk data.qcow2 --disk /srv/corpus.img:ro
  hyperfork run -d --image nano --append touch_mib=64
  hyperfork run --kernel vmlinux --initrd initrd.cpio --append quiet")]
pub(crate) struct Run {
    /// Return when the VM is ready and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// The VM's name; two words are chosen where none is given
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<VmName>,
    /// What to boot: base, python, or nano [default: base]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Virtual CPUs, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(VmSpec::MAX_CPUS)))]
    pub(crate) cpus: u8,
    /// Guest memory, in steps of 2MiB
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = values::memory)]
    pub(crate) memory: Bytes,
    /// Set a variable for the command; without a value, pass on the caller's
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = values::variable)]
    env: Vec<(String, Option<String>)>,
    /// Boot this kernel (an ELF vmlinux or a bzImage) instead of the image's;
    /// without --image there is no disk and no agent, only this kernel
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,
    /// Give the kernel this initial RAM file system
    #[arg(long, value_name = "PATH", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// Add words to the kernel's command line
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub(crate) append: String,
    /// Share a host directory into the guest
    #[arg(short = 'v', long = "volume", value_name = "HOST:GUEST[:ro]", value_parser = share)]
    pub(crate) volumes: Vec<Share>,
    /// The size of the root disk and its file system, instead of the image's 2GiB: the
    /// most a VM can have in files
    #[arg(long, value_name = "SIZE", value_parser = values::disk_size, conflicts_with = "kernel")]
    pub(crate) disk_size: Option<Bytes>,
    /// Attach a disk: a raw or qcow2 image, or a block device, as /dev/vdb and so on.
    /// What the guest writes goes elsewhere, for each clone by itself; with :ro it
    /// cannot. The format is what it seems to be, or raw or qcow2 at the end
    #[arg(long = "disk", value_name = "PATH[:ro][:FORMAT]", value_parser = disk)]
    pub(crate) disks: Vec<Disk>,
    /// Pass what comes to a port of this host on to one of the guest; HOST 0 is any free
    /// port. Only this host's programs reach it, at 127.0.0.1, unless an ADDRESS is given:
    /// 0.0.0.0 for all. Clones get free ports, which their fork's report tells
    #[arg(short, long = "publish", value_name = "[ADDRESS:]HOST:GUEST[/udp]", value_parser = ports::published)]
    pub(crate) ports: Vec<PublishedPort>,
    /// The network of the VM and its clones [default: own, where this host allows it, or user]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) net: Option<Net>,
    /// Whom the VM and its clones may connect to: all, none, dns (its name servers), host (this
    /// one), public (the internet without private addresses), or addresses, as in 10.0.0.0/8 or
    /// 1.2.3.4:443/tcp; several with commas, or again [default: all]
    #[arg(long, value_name = "WHOM", value_delimiter = ',', value_parser = values::egress)]
    egress: Vec<String>,
    /// Most bytes a second to the network, and from it
    #[arg(long, value_name = "SIZE")]
    pub(crate) net_rate: Option<Bytes>,
    /// How many clones may be made of this VM in its life, also by its own guest
    #[arg(long, value_name = "K")]
    pub(crate) max_forks: Option<u32>,
    /// Let a guest without an agent be forked, though its clones will have the same random
    /// numbers, names and addresses
    #[arg(long)]
    pub(crate) identical_clones: bool,
    #[command(flatten)]
    pub(crate) secrets: Secrets,
    /// Give up on a guest that is not ready after this long
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = values::timeout)]
    pub(crate) ready_timeout: Duration,
    /// Remove the VM when it has ended
    #[arg(long, conflicts_with = "detach")]
    pub(crate) rm: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The VM's main program and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// A VM's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// Each clone has an address of its own, and knows
    Own,
    /// Clones see the addresses of their parent; the host sees others
    Same,
    /// As own, without privileges: this program connects for the guest (TCP and UDP), and
    /// the guest is reached by its published ports
    User,
    /// No network: the guest is reached by this program alone
    None,
}

impl Run {
    /// The variables for the command.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        values::variables(&self.env)
    }

    /// Whom the VM may connect to.
    ///
    /// # Errors
    /// What is wrong with all that was said about it.
    pub(crate) fn egress(&self) -> Result<Egress, Usage> {
        Egress::of(&self.egress).map_err(|message| Usage(format!("--egress: {message}")))
    }

    /// Whether it asks for something that takes a network.
    pub(crate) fn asks_for_network(&self) -> bool {
        !self.ports.is_empty() || !self.egress.is_empty()
    }
}

/// `HOST:GUEST[:ro]`, both absolute or the host's relative to here.
fn share(text: &str) -> Result<Share, String> {
    let form = || "write HOST:GUEST or HOST:GUEST:ro, with GUEST an absolute path".to_owned();
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    let (host, guest) = rest.rsplit_once(':').ok_or_else(form)?;
    if host.is_empty() || !guest.starts_with('/') || guest == "/" {
        return Err(form());
    }
    let path = std::fs::canonicalize(host).map_err(|error| format!("{host}: {error}"))?;
    if !path.is_dir() {
        return Err(format!("{host} is not a directory"));
    }
    Ok(Share {
        path,
        mount_point: guest.to_owned(),
        read_only,
    })
}

/// `PATH[:ro][:raw|:qcow2]`, relative to here.
fn disk(text: &str) -> Result<Disk, String> {
    let (rest, format) = match text.rsplit_once(':') {
        Some((rest, "raw")) => (rest, Some(DiskFormat::Raw)),
        Some((rest, "qcow2")) => (rest, Some(DiskFormat::Qcow2)),
        _ => (text, None),
    };
    let (path, read_only) = match rest.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (rest, false),
    };
    if path.is_empty() {
        return Err("write PATH, PATH:ro, PATH:qcow2 or PATH:ro:qcow2".to_owned());
    }
    let path = std::fs::canonicalize(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(Disk {
        path,
        format,
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_path_and_maybe_how_it_is_attached() {
        let found = |text: &str| disk(text).map(|disk| (disk.read_only, disk.format));
        assert_eq!(found("/proc/version"), Ok((false, None)));
        assert_eq!(found("/proc/version:ro"), Ok((true, None)));
        let (raw, qcow2) = (Some(DiskFormat::Raw), Some(DiskFormat::Qcow2));
        assert_eq!(found("/proc/version:raw"), Ok((false, raw)));
        assert_eq!(found("/proc/version:ro:qcow2"), Ok((true, qcow2)));
        for bad in [
            "",
            ":ro",
            ":raw",
            "/no/such",
            "/proc/version:rw",
            "/proc/version:vmdk",
        ] {
            assert!(disk(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_volume_is_a_host_directory_and_an_absolute_guest_path() {
        let shared = share("/tmp:/data:ro").unwrap();
        assert_eq!(
            (shared.mount_point.as_str(), shared.read_only),
            ("/data", true)
        );
        assert!(!share("/tmp:/data").unwrap().read_only);
        assert!(!share("/tmp:/data:rw").unwrap().read_only);
        for bad in [
            "/tmp",
            "/tmp:data",
            ":/data",
            "/tmp:/",
            "/proc/version:/data",
            "/no/such:/data",
        ] {
            assert!(share(bad).is_err(), "{bad:?} was taken");
        }
    }
}
