//! Results as tables.

use crate::ui::{Table, duration_us, mib};
use hyperfork_bench::cow::CowRow;
use hyperfork_bench::density::DensityRow;
use hyperfork_bench::fork::ForkRow;
use hyperfork_bench::soak::{Census, SoakRow};

/// The cell of a missing value.
const NONE: &str = "-";

fn us(us: Option<f64>) -> String {
    us.map_or_else(|| NONE.to_owned(), |us| duration_us(us.round() as u64))
}

fn kib(kib: Option<f64>) -> String {
    kib.map_or_else(|| NONE.to_owned(), |kib| format!("{kib:.0} KiB"))
}

/// `bench fork`.
pub(super) fn fork(rows: &[ForkRow]) -> Table {
    let mut table = Table::new([
        "STRATEGY",
        ">MEMORY",
        ">TOUCHED",
        ">PAGES WRITTEN",
        ">SAMPLES",
        ">MEDIAN",
        ">2.5 %",
        ">97.5 %",
        ">99 %",
        ">A CLONE",
        ">READY",
        ">PAUSE",
        ">CPU",
    ]);
    for row in rows {
        table.row([
            row.method(),
            mib(row.memory_mib << 10),
            row.touched_mib
                .map_or_else(|| NONE.to_owned(), |touched| mib(touched << 10)),
            row.written_pages.to_string(),
            row.n.to_string(),
            us(row.total.p50_us),
            us(row.total.p2_5_us),
            us(row.total.p97_5_us),
            us(row.total.p99_us),
            us(row.per_clone_us),
            us(row.ready_p50_us),
            us(row.pause_p50_us),
            us(row.cpu_p50_us),
        ]);
    }
    table
}

/// `bench boot`.
pub(super) fn boot(rows: &[ForkRow]) -> Table {
    let mut table = Table::new([
        "GUEST", ">MEMORY", ">CPUS", ">SAMPLES", ">MEDIAN", ">2.5 %", ">97.5 %",
    ]);
    for row in rows {
        table.row([
            row.guest.clone(),
            mib(row.memory_mib << 10),
            row.vcpus.to_string(),
            row.n.to_string(),
            us(row.total.p50_us),
            us(row.total.p2_5_us),
            us(row.total.p97_5_us),
        ]);
    }
    table
}

/// `bench cow`.
pub(super) fn cow(rows: &[CowRow]) -> Table {
    let mut table = Table::new([
        "PASS", ">WRITTEN", ">SAMPLES", ">MEDIAN", ">2.5 %", ">97.5 %", ">A PAGE", ">PENALTY",
    ]);
    for row in rows {
        let page = row
            .ns_per_page
            .map_or_else(|| NONE.to_owned(), |ns| format!("{ns:.0} ns"));
        let penalty = row
            .penalty_percent
            .map_or_else(String::new, |percent| format!("{percent:+.0} %"));
        table.row([
            hyperfork_bench::Row::title(row),
            mib(row.touched_mib << 10),
            row.n.to_string(),
            us(row.total.p50_us),
            us(row.total.p2_5_us),
            us(row.total.p97_5_us),
            page,
            penalty,
        ]);
    }
    table
}

/// `bench density`.
pub(super) fn density(rows: &[DensityRow]) -> Table {
    let mut table = Table::new([
        ">CLONES",
        "STRATEGY",
        ">MEMORY",
        ">PROCESS (PSS)",
        ">OF THAT, GUEST",
        ">HOST'S MEMORY",
        ">RUNNING AFTER",
    ]);
    for row in rows {
        table.row([
            row.clones.to_string(),
            row.strategy.to_string(),
            mib(row.memory_mib << 10),
            kib(row.pss_kib_per_clone),
            kib(row.touched_kib_per_clone),
            kib(row.host_kib_per_clone),
            us(row.total.p50_us),
        ]);
    }
    table
}

/// `bench soak`.
pub(super) fn soak(rows: &[SoakRow]) -> Table {
    let mut table = Table::new([
        "PARENT",
        "TRACKED",
        ">FORKS",
        ">MEDIAN",
        ">DESCRIPTORS",
        ">THREADS",
        ">MAPPINGS",
        ">MEMORY",
        ">FILES",
        ">PROCESSES",
        "LEFT BEHIND",
    ]);
    for row in rows {
        // After the first forks, and after the last.
        let counts = |of: fn(&Census) -> u64, unit: &str| {
            let both = (row.census.first(), row.census.last());
            let (Some(first), Some(last)) = both else {
                return NONE.to_owned();
            };
            format!("{} -> {}{unit}", of(first), of(last))
        };
        table.row([
            hyperfork_bench::Row::title(row),
            if row.tracked { "yes" } else { "no" }.to_owned(),
            row.n.to_string(),
            us(row.total.p50_us),
            counts(|census| census.parent.fds, ""),
            counts(|census| census.parent.threads, ""),
            counts(|census| census.parent.mappings, ""),
            counts(|census| census.parent.rss_kib >> 10, " MiB"),
            counts(|census| census.parent.files_kib >> 10, " MiB"),
            counts(|census| census.processes, ""),
            row.grown.clone().unwrap_or_else(|| "nothing".to_owned()),
        ]);
    }
    table
}
