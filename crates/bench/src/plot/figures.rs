//! Makes figures from rows of results.

use super::draw::{Panel, Point, Scale, Series, Unit};
use crate::cow::{CowRow, Phase};
use crate::density::DensityRow;
use crate::fork::{ForkRow, Method};
use crate::journal::Row;
use crate::soak::{Census, SoakRow};
use crate::stats::Summary;

/// Time against memory size, a line for each strategy, number of clones at once, depth
/// and number of pages written (HyperFork paper, figure 2).
pub(super) fn fork(rows: &[ForkRow]) -> Vec<Panel> {
    let name = |row: &ForkRow| match (row.strategy, row.dirty_pages) {
        (Method::Boot, _) => "cold boot".to_owned(),
        (Method::Raw, _) => "KVM alone".to_owned(),
        (_, 0) => row.method(),
        (_, pages) => format!("{}, {pages} pages written", row.method()),
    };
    vec![Panel {
        title: String::new(),
        x: ("Guest memory", Scale::Log2, Unit::Mebibytes),
        y: ("Time", Scale::Log10, Unit::Microseconds),
        series: grouped(rows, name, |row| timed(row.memory_mib as f64, &row.total)),
    }]
}

/// Time of a pass against its pages: without faults on the left, with one at each
/// page on the right (HyperFork paper, figure 3).
pub(super) fn cow(rows: &[CowRow]) -> Vec<Panel> {
    // What was before is the same for all strategies; the first stands for it.
    let first = rows.first().map(|row| row.strategy);
    let panel = |faulting: bool, title: &str| {
        let shown = |row: &&CowRow| {
            row.faulting == faulting && (row.phase == Phase::After || Some(row.strategy) == first)
        };
        let shown: Vec<CowRow> = rows.iter().filter(shown).cloned().collect();
        let name = |row: &CowRow| match row.phase {
            Phase::Before => "before the fork".to_owned(),
            Phase::After => format!("after ({})", row.strategy),
        };
        Panel {
            title: title.to_owned(),
            x: ("Memory written", Scale::Linear, Unit::Mebibytes),
            y: ("Time of a pass", Scale::Linear, Unit::Microseconds),
            series: grouped(&shown, name, |row| {
                timed(row.touched_mib as f64, &row.total)
            }),
        }
    };
    vec![
        panel(false, "Writes without page faults"),
        panel(true, "Writes with page faults"),
    ]
}

/// Memory of a clone against the number of clones.
pub(super) fn density(rows: &[DensityRow]) -> Vec<Panel> {
    type Value = fn(&DensityRow) -> Option<f64>;
    let kinds: [(&str, Value); 3] = [
        ("host's memory", |row| row.host_kib_per_clone),
        ("process (PSS)", |row| row.pss_kib_per_clone),
        ("guest memory touched", |row| row.touched_kib_per_clone),
    ];
    let several = rows
        .iter()
        .any(|row| (row.strategy, row.memory_mib) != (rows[0].strategy, rows[0].memory_mib));
    let series = kinds.iter().flat_map(|(kind, value)| {
        let name = |row: &DensityRow| match several {
            true => format!("{kind}, {} MiB, {}", row.memory_mib, row.strategy),
            false => (*kind).to_owned(),
        };
        grouped(rows, name, |row| {
            // The host's other programs may have given back more than the clones took.
            let kib = value(row).filter(|kib| *kib > 0.0)?;
            Some(Point::at(f64::from(row.clones), kib))
        })
    });
    vec![Panel {
        title: String::new(),
        x: ("Clones", Scale::Log2, Unit::Count),
        y: ("Memory per clone", Scale::Log2, Unit::Kibibytes),
        series: series.collect(),
    }]
}

/// Memory of the parent and of the pool against the number of forks.
pub(super) fn soak(rows: &[SoakRow]) -> Vec<Panel> {
    type Value = fn(&Census) -> Option<u64>;
    let kinds: [(&str, Value); 3] = [
        ("parent", |census| Some(census.parent.rss_kib)),
        ("parent's files", |census| Some(census.parent.files_kib)),
        ("pool", |census| Some(census.pool.as_ref()?.rss_kib)),
    ];
    let series = rows.iter().flat_map(|row| {
        kinds.iter().flat_map(move |(kind, value)| {
            let name = |_: &Census| format!("{kind} ({})", row.title());
            grouped(&row.census, name, |census| {
                Some(Point::at(census.forks as f64, value(census)? as f64))
            })
        })
    });
    vec![Panel {
        title: String::new(),
        x: ("Forks", Scale::Linear, Unit::Count),
        y: ("Memory", Scale::Linear, Unit::Kibibytes),
        series: series.collect(),
    }]
}

fn timed(x: f64, summary: &Summary) -> Option<Point> {
    Some(Point {
        x,
        low: summary.p2_5_us?,
        middle: summary.p50_us?,
        high: summary.p97_5_us?,
    })
}

/// Rows of the same name are one line, in the order in which names first come.
fn grouped<R>(
    rows: &[R],
    name: impl Fn(&R) -> String,
    point: impl Fn(&R) -> Option<Point>,
) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for row in rows {
        let (name, Some(point)) = (name(row), point(row)) else {
            continue;
        };
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => series.push(Series {
                name,
                points: vec![point],
            }),
        }
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    series
}
