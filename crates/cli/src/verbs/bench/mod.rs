//! `bench`: runs experiments of `hyperfork_bench` and prints their results.

mod tables;

use super::{ensure_image, linux_from};
use crate::args::{Bench, BenchOutput, BenchVerb, Usage};
use crate::config;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::ui::{self, Progress, Step, Table};
use anyhow::{Context, bail};
use hyperfork_bench::plot::{Figure, plot};
use hyperfork_bench::{
    BenchError, Document, Guest, HostRecord, Journal, NANO, Plan, Row, State, Vms, Watch, compare,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

/// Runs an experiment.
///
/// # Errors
/// Nothing could be measured, or a signal interrupts. No VM is left.
pub(crate) fn run(args: Bench) -> anyhow::Result<u8> {
    match args.verb {
        BenchVerb::Fork(args) => measure(
            args.plan(),
            &args.guests.guest,
            State::Warm,
            &args.output,
            tables::fork,
        ),
        BenchVerb::Boot(args) => measure(
            args.plan(),
            &args.guests.guest,
            args.state(),
            &args.output,
            tables::boot,
        ),
        BenchVerb::Cow(args) => measure(args.plan(), NANO, State::Warm, &args.output, tables::cow),
        BenchVerb::Density(args) => measure(
            args.plan(),
            &args.guests.guest,
            State::Warm,
            &args.output,
            tables::density,
        ),
        BenchVerb::Soak(args) => {
            measure(args.plan(), NANO, State::Warm, &args.output, tables::soak)
        }
    }
}

fn measure<P: Plan<Row: Figure>>(
    plan: P,
    guest: &str,
    state: State,
    output: &BenchOutput,
    table: fn(&[P::Row]) -> Table,
) -> anyhow::Result<u8> {
    plan.check().map_err(usage)?;
    let interrupt = Interrupt::catch().context("cannot catch signals")?;
    let progress = Progress::unless(output.quiet);
    let document = document(plan, guest, state, output, progress, &interrupt);
    let document = document.map_err(|error| interrupt.explains(error))?;
    if let Some(directory) = &output.plot {
        for path in plot(&document, directory)? {
            ui::note(&format!("wrote {}", path.display()));
        }
    }
    match output.json.as_deref() == Some(Path::new("-")) {
        true => ui::json(&document)?,
        false => ui::line(table(&document.rows).render())?,
    }
    if let Some(earlier) = &output.compare {
        ui::note(&comparison(&document, earlier)?);
    }
    conclude(&document)
}

/// Measures the samples that the result still lacks.
fn document<P: Plan>(
    plan: P,
    guest: &str,
    state: State,
    output: &BenchOutput,
    progress: Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Document<P, P::Row>> {
    let guest = match guest {
        NANO => Guest::Nano,
        image => Guest::Linux {
            guest: Box::new(linux_from(&ensure_image(image, progress, interrupt)?, None)),
            image: image.to_owned(),
        },
    };
    let file = output
        .json
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    let name = plan.bench();
    let host = config::host()?;
    let journal = Journal::open(file, HostRecord::now(state, host.settings.pool)?, plan)?;
    if let Some(earlier) = &output.compare {
        // Finds out before measuring whether the results can be compared.
        compare(&journal.document, earlier)?;
    }
    let watch = Observer {
        step: RefCell::new(progress.step(&format!("bench {name}"))),
        interrupt: interrupt.clone(),
    };
    // Ends its VMs before the error is printed.
    let measured = journal.run(&guest, &mut Vms::new(host, &watch));
    if let (Err(BenchError::Interrupted), Some(file)) = (&measured, file) {
        ui::note(&format!("the same command goes on with {}", file.display()));
    }
    Ok(measured?)
}

/// Shows progress, and ends the experiment when a signal comes.
struct Observer {
    step: RefCell<Step>,
    interrupt: Interrupt,
}

impl Watch for Observer {
    fn wanted(&self) -> bool {
        !self.interrupt.is_set()
    }

    fn advance(&self, done: usize, of: usize, next: &str) {
        let fraction = done as f64 / of.max(1) as f64;
        self.step.borrow_mut().advance(Some(fraction), next);
    }
}

fn usage(error: BenchError) -> anyhow::Error {
    match error.is_usage() {
        true => Usage(error.to_string()).into(),
        false => error.into(),
    }
}

/// Prints what failed, each reason once.
///
/// # Errors
/// Everything failed, or something has been shown to be wrong.
fn conclude<P: Plan>(document: &Document<P, P::Row>) -> anyhow::Result<u8> {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in &document.rows {
        if let Some(reason) = row.failed() {
            reasons.entry(reason).or_default().push(row.title());
        }
    }
    let failed: usize = reasons.values().map(Vec::len).sum();
    if let Some((reason, _)) = reasons.first_key_value()
        && failed == document.rows.len()
    {
        bail!("nothing could be measured: {reason}");
    }
    let wrong = document
        .rows
        .iter()
        .find_map(|row| Some((row.verdict()?, row)));
    if let Some((verdict, row)) = wrong {
        bail!("{}: {verdict}", row.title());
    }
    for (reason, rows) in &reasons {
        let more = match rows.len() {
            1 => String::new(),
            rows => format!(" and {} more", rows - 1),
        };
        ui::note(&format!("not measured: {}{more}: {reason}", rows[0]));
    }
    Ok(exit::OK)
}

fn comparison<P: Plan>(document: &Document<P, P::Row>, earlier: &Path) -> anyhow::Result<String> {
    let mut table = Table::new(["MEDIAN NOW, OF WHAT IT WAS", ">"]);
    for (row, ratio) in document.rows.iter().zip(compare(document, earlier)?) {
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0));
        table.row([row.title(), ratio]);
    }
    Ok(table.render())
}
