//! `bench`.

mod plan;

use super::values;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use hyperfork_api::{Bytes, Strategy, VmSpec};
use hyperfork_bench::NANO;
use hyperfork_bench::fork::Method;
use std::path::PathBuf;

/// Measure what forking costs, as the papers do
///
/// Every result has all samples in it, and says which host, kernel and commit it is
/// of. With --json FILE the file is complete at any moment: when a run is ended, by
/// Ctrl-C or otherwise, the same command goes on where it was. The VMs of a run are
/// named bench-<process>-<k> and are gone when it ends.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Example: hyperfork bench fork -n 100 --json fork.json --plot plots"
)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) verb: BenchVerb,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    Fork(BenchFork),
    Boot(BenchBoot),
    Cow(BenchCow),
    Density(BenchDensity),
    Soak(BenchSoak),
}

/// Where results go.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Write the result, all samples included, to this file, or go on with the
    /// unfinished one that is there; - prints it
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a plot (SVG) and a table (CSV) into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) plot: Option<PathBuf>,
    /// Tell how the medians compare with those of an earlier result; it must be of
    /// this host
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Which guests.
#[derive(Debug, Args)]
pub(crate) struct Guests {
    /// What to boot: nano (the embedded guest), base or python
    #[arg(long, value_name = "IMAGE", default_value = NANO)]
    pub(crate) guest: String,
    /// Virtual CPUs of each guest, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(VmSpec::MAX_CPUS)))]
    cpus: u8,
}

/// Fork time by memory size, beside cold boot (the HyperFork paper's figure 2)
///
/// Each strategy has parents of its own, one for each memory size, number of pages
/// written between forks, number of clones at once and depth of lineage. They take
/// turns, one sample each, as far as memory and the pool have room for them. A fork's time runs
/// from the request to the first instruction that the clone is known to have
/// executed; a boot's to ready.
///
/// Beside the strategies of `hyperfork fork` there are boot, a cold boot of a guest
/// that has filled no memory; and raw, what KVM alone takes: setting the state of a VM
/// that was built before and has the image mapped, and running it until it first exits.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: hyperfork bench fork --memory-mib 64,512 --strategy image,boot -n 50 --json fork.json --plot plots"
)]
pub(crate) struct BenchFork {
    #[command(flatten)]
    pub(crate) guests: Guests,
    /// Guest memory, MiB, each
    #[arg(long, value_name = "LIST", value_delimiter = ',',
          default_value = "64,128,256,512,1024,2048", value_parser = memory_mib)]
    memory_mib: Vec<u64>,
    /// How much of it the guest nano fills before it is forked [default: all it can]
    #[arg(long, value_name = "MIB")]
    touched_mib: Option<u64>,
    /// How many pages a parent writes between two forks, each [default: 0,1000 with
    /// nano; other guests write none]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    dirty_pages: Vec<u64>,
    /// What to compare: image, process-fork, boot, raw [default: all; raw
    /// only with nano]
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide_possible_values = true,
          value_parser = method())]
    strategy: Vec<Method>,
    /// How many clones each fork makes, each, 1 to 1024. The time is until the last of
    /// them runs
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=MAX_CLONES))]
    clones: Vec<u32>,
    /// How many generations the parent is away from the VM that was booted, each, 0 to
    /// 64: 1 is a clone of it, 2 a clone's clone
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0",
          value_parser = clap::value_parser!(u32).range(0..=MAX_DEPTH))]
    depth: Vec<u32>,
    /// Boot a parent for each sample, and take its first fork: the one that has all of
    /// its memory to freeze
    #[arg(long, conflicts_with_all = ["dirty_pages", "depth"])]
    first: bool,
    /// Samples of each
    #[arg(short, value_name = "N", default_value_t = 100, value_parser = samples())]
    n: usize,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Cold boot time by memory size
#[derive(Debug, Args)]
#[command(
    after_help = "Example: hyperfork bench boot --guest base --cpus 2 --memory-mib 512 --json boot.json"
)]
pub(crate) struct BenchBoot {
    #[command(flatten)]
    pub(crate) guests: Guests,
    /// Guest memory, MiB, each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64,512,2048",
          value_parser = memory_mib)]
    memory_mib: Vec<u64>,
    /// Samples of each
    #[arg(short, value_name = "N", default_value_t = 20, value_parser = samples())]
    n: usize,
    /// Have the host drop its page cache before each boot, so that kernel and disk are
    /// read anew; needs root, and slows others down
    #[arg(long)]
    cold: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What writing memory costs before and after a fork (the HyperFork paper's figure 3)
///
/// As its section 5.1 has it: the embedded guest writes 128 random bytes into each
/// 4096-byte page, twice, and is forked; its clone writes them again, twice. The first
/// pass of either has a page fault at every page, the second has none.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork bench cow -n 100 --json cow.json --plot plots")]
pub(crate) struct BenchCow {
    /// Virtual CPUs of the guest, 1 to 8; one writes
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(VmSpec::MAX_CPUS)))]
    cpus: u8,
    /// Guest memory, MiB, each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64,128,256",
          value_parser = memory_mib)]
    memory_mib: Vec<u64>,
    /// How much of it is written [default: all it can]
    #[arg(long, value_name = "MIB")]
    touched_mib: Option<u64>,
    /// How the guest is forked: image, process-fork
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide_possible_values = true,
          default_value = "image,process-fork", value_parser = strategy())]
    strategy: Vec<Strategy>,
    /// Samples of each
    #[arg(short, value_name = "N", default_value_t = 100, value_parser = samples())]
    n: usize,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Memory of a clone, by the number of clones
///
/// Three figures for each clone: its process's proportional set size; of that, guest
/// memory; and how much less the host has available, which also counts what KVM and
/// page tables take.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork bench density -n 256 --json density.json --plot plots")]
pub(crate) struct BenchDensity {
    #[command(flatten)]
    pub(crate) guests: Guests,
    /// Guest memory, MiB, each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512",
          value_parser = memory_mib)]
    memory_mib: Vec<u64>,
    /// How much of it the guest nano fills before it is forked [default: all it can]
    #[arg(long, value_name = "MIB")]
    touched_mib: Option<u64>,
    /// How many pages each clone of nano writes
    #[arg(long, value_name = "PAGES", default_value_t = 16)]
    dirty_pages: u64,
    /// How the guest is forked: image, process-fork
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide_possible_values = true,
          default_value = "image", value_parser = strategy())]
    strategy: Vec<Strategy>,
    /// Most clones; measured are 1, 2, 4 and so on up to this
    #[arg(short, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=MAX_CLONES))]
    n: u32,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Fork again and again, and fail if anything is left behind
///
/// The embedded guest is forked, one clone at a time. After the first 100 forks, now and
/// then, and after the last, this counts descriptors, threads, mappings and memory of the
/// parent and of the pool, what is in the run directory, processes, and the host's memory.
/// The exit status is 1 if there is more of any than what comes and goes.
///
/// A parent that has written 4096 pages (16 MiB) or more is tracked: its memory is
/// frozen in layers.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork bench soak -n 10000 --json soak.json")]
pub(crate) struct BenchSoak {
    /// Virtual CPUs of the guest, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(VmSpec::MAX_CPUS)))]
    cpus: u8,
    /// Guest memory, MiB
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = memory_mib)]
    memory_mib: u64,
    /// How much of it the guest fills before it is forked [default: all it can]
    #[arg(long, value_name = "MIB")]
    touched_mib: Option<u64>,
    /// How many pages the parent writes after its first fork, each
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "100,5000"
    )]
    dirty_pages: Vec<u64>,
    /// How many of those it writes after each later one, others each time
    #[arg(long, value_name = "PAGES", default_value_t = 100)]
    later_pages: u64,
    /// How the guest is forked: image, process-fork
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide_possible_values = true,
          default_value = "image", value_parser = strategy())]
    strategy: Vec<Strategy>,
    /// Forks of each
    #[arg(short, value_name = "N", default_value_t = 10_000,
          value_parser = samples())]
    n: usize,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Most clones of one fork.
const MAX_CLONES: i64 = 1024;

/// Most generations of a line, all of which are there at the same time.
const MAX_DEPTH: i64 = 64;

fn memory_mib(text: &str) -> Result<u64, String> {
    let mib: u64 = text
        .parse()
        .map_err(|_| "write MiB as plain numbers".to_owned())?;
    values::memory(&Bytes::mib(mib).to_string()).map(Bytes::as_mib)
}

fn samples() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..).map(|n| n as usize)
}

fn strategy() -> impl TypedValueParser<Value = Strategy> {
    PossibleValuesParser::new(["image", "process-fork"]).map(|name| match name.as_str() {
        "image" => Strategy::Image,
        _ => Strategy::ProcessFork,
    })
}

fn method() -> impl TypedValueParser<Value = Method> {
    const ALL: [Method; 4] = [
        Method::Image,
        Method::ProcessFork,
        Method::Boot,
        Method::Raw,
    ];
    PossibleValuesParser::new(ALL.map(Method::name)).map(|name| {
        let mut all = ALL.into_iter();
        all.find(|method| method.name() == name)
            .unwrap_or(Method::Image)
    })
}
