//! The host's requirements: the distribution's packages, and the archives that
//! have them.

use crate::{Progress, Tool, ToolError};

/// Why this machine cannot build.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Packages are missing and we may not install them.
    #[error("packages are missing; run: sudo apt-get install -y {}", .0.join(" "))]
    PackagesMissing(Vec<String>),
    /// Packages are missing and could not be installed.
    #[error("cannot install {}", packages.join(" "))]
    Install {
        /// What was missing.
        packages: Vec<String>,
        /// Why.
        #[source]
        source: ToolError,
    },
    /// Not a Debian system.
    #[error("images are built from Debian's packages, and this machine cannot be asked for them")]
    NotDebian(#[source] ToolError),
    /// apt has no source of the release that an image is made of.
    #[error(
        "apt on this machine has no source of Debian {0} (main); \
         add one and run: apt-get update"
    )]
    NoSource(String),
}

/// The version of an installed package.
pub(crate) fn version(package: &str) -> Option<String> {
    let version = Tool::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Version}"])
        .arg(package)
        .output()
        .ok()?;
    version.strip_prefix("installed ").map(str::to_owned)
}

/// Makes sure that packages are installed: as root by installing them.
pub(crate) fn require(packages: &[&str], progress: &mut dyn Progress) -> Result<(), HostError> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(HostError::PackagesMissing(missing));
    }
    let step = "installing packages";
    progress.started(step);
    let mut apt = |arguments: &[&str]| {
        Tool::new("apt-get")
            // Another process may be installing: wait for it.
            .args(["-o", "DPkg::Lock::Timeout=600", "-q", "-y"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .with_proxies()
            .run(|line| progress.advanced(None, line))
    };
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(missing.iter().map(String::as_str));
    // Without package lists, or with old ones, a second try helps.
    apt(&install)
        .or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
        .map_err(|source| HostError::Install {
            packages: missing.clone(),
            source,
        })?;
    progress.finished(step);
    Ok(())
}

/// Those of the packages that are not installed.
pub(crate) fn missing(packages: &[&str]) -> Result<Vec<String>, HostError> {
    // dpkg-query fails when it does not know one of the packages, so it is asked
    // for all that are installed.
    let listing = Tool::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Package}\\n"])
        .output()
        .map_err(HostError::NotDebian)?;
    let installed: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    let absent = packages.iter().filter(|name| !installed.contains(name));
    Ok(absent.map(|name| (*name).to_owned()).collect())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lines for `sources.list`: where apt on this machine gets a Debian release
/// (with its updates and security fixes) from. Other archives it may know are
/// left out, whatever their format and place in apt's configuration.
pub(crate) fn debian_sources(
    codename: &str,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, HostError> {
    let sources = known_sources(codename)?;
    if !sources.is_empty() || !is_root() {
        return non_empty(sources, codename);
    }
    // What an archive says about itself is known only once its lists are here.
    let step = "asking the package archive";
    progress.started(step);
    Tool::new("apt-get")
        .args(["-q", "update"])
        .with_proxies()
        .run(|line| progress.advanced(None, line))
        .map_err(|source| HostError::Install {
            packages: vec!["package lists".to_owned()],
            source,
        })?;
    progress.finished(step);
    non_empty(known_sources(codename)?, codename)
}

fn non_empty(sources: Vec<String>, codename: &str) -> Result<Vec<String>, HostError> {
    match sources.is_empty() {
        true => Err(HostError::NoSource(codename.to_owned())),
        false => Ok(sources),
    }
}

fn known_sources(codename: &str) -> Result<Vec<String>, HostError> {
    let targets = Tool::new("apt-get")
        .arg("indextargets")
        .args(["--format", "$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)"])
        .arg("Created-By: Packages")
        .output()
        .map_err(HostError::NotDebian)?;
    Ok(sources_among(&targets, codename))
}

fn sources_among(targets: &str, codename: &str) -> Vec<String> {
    let suites = ["", "-updates", "-security"].map(|suffix| format!("{codename}{suffix}"));
    let mut sources: Vec<String> = targets
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|');
            let (origin, component) = (fields.next()?, fields.next()?);
            let (suite, uri) = (fields.next()?, fields.next()?);
            let wanted =
                origin == "Debian" && component == "main" && suites.iter().any(|s| s == suite);
            wanted.then(|| format!("deb [signed-by={KEYRING}] {uri} {suite} main"))
        })
        .collect();
    // One line per architecture that apt knows.
    sources.sort();
    sources.dedup();
    match sources
        .iter()
        .any(|s| s.ends_with(&format!(" {codename} main")))
    {
        true => sources,
        false => Vec::new(),
    }
}

/// The keys of Debian's archive, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How apt on this machine reaches its archives (proxies, retries, validity),
/// as a configuration file.
pub(crate) fn apt_transport() -> Result<String, HostError> {
    let dump = Tool::new("apt-config")
        .arg("dump")
        .output()
        .map_err(HostError::NotDebian)?;
    let wanted = [
        "http",
        "https",
        "ftp",
        "Check-",
        "Max-ValidTime",
        "Retries",
        "ForceIP",
    ];
    let lines = dump.lines().filter(|line| {
        let option = line.strip_prefix("Acquire::");
        option.is_some_and(|option| wanted.iter().any(|prefix| option.starts_with(prefix)))
    });
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debians_own_archives_of_the_release_are_used() {
        let targets = "\
Debian|main|bookworm|http://mirror.test/debian/
Debian|main|bookworm|http://mirror.test/debian/
Debian|contrib|bookworm|http://mirror.test/debian/
Debian|main|bookworm-security|http://mirror.test/debian-security/
Debian|main|trixie|http://mirror.test/debian/
Other|main|bookworm|http://elsewhere.test/apt/
|main|bookworm|http://not-yet-updated.test/
";
        let sources = sources_among(targets, "bookworm");
        assert_eq!(sources.len(), 2, "{sources:?}");
        assert!(
            sources[0].ends_with("] http://mirror.test/debian-security/ bookworm-security main")
        );
        assert!(sources[1].ends_with("] http://mirror.test/debian/ bookworm main"));
    }

    #[test]
    fn updates_without_the_release_itself_are_no_source() {
        let targets = "Debian|main|bookworm-security|http://mirror.test/\n";
        assert!(sources_among(targets, "bookworm").is_empty());
    }

    #[test]
    fn installed_packages_are_told_from_missing_ones() {
        let missing = missing(&["dpkg", "hyperfork-no-such-package"]).unwrap();
        assert_eq!(missing, ["hyperfork-no-such-package"]);
        assert!(version("dpkg").is_some());
        assert_eq!(version("hyperfork-no-such-package"), None);
    }

    #[test]
    fn missing_packages_are_told_as_the_line_to_run() {
        let error = HostError::PackagesMissing(vec!["bc".to_owned(), "flex".to_owned()]);
        assert!(
            error
                .to_string()
                .ends_with("run: sudo apt-get install -y bc flex")
        );
    }
}
