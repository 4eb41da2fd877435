//! With Linux and Python: a program that took long to get ready is forked while it
//! runs, and each clone answers another question in that very process.

use super::Stage;
use super::family::Family;
use super::guest::{Answer, follow};
use super::report::Figures;
use crate::ui::{self, Step, Table, duration_us};
use crate::verbs::{ensure_image, linux_from};
use anyhow::bail;
use hyperfork_api::guest::Command;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Bytes, ForkReport, VmInfo};
use std::collections::HashSet;
use std::time::{Duration, Instant};

const IMAGE: &str = "python";
const MEMORY: Bytes = Bytes::mib(512);

/// The program.
const PROGRAM: &str = include_str!("search.py");

/// What the clones are asked, each another one.
const QUESTIONS: [&str; 16] = [
    "the inverse of a matrix",
    "roots of a polynomial",
    "random samples from a normal distribution",
    "eigenvalues and eigenvectors",
    "the median along an axis",
    "solve a linear matrix equation",
    "the histogram of a data set",
    "greatest common divisor",
    "the cross product of two vectors",
    "sort an array",
    "a least squares polynomial fit",
    "shuffle a sequence",
    "the determinant of an array",
    "unique elements of an array",
    "correlation coefficients",
    "evenly spaced numbers over an interval",
];

/// A clone's answer.
#[derive(Debug)]
struct Reply {
    vm: VmInfo,
    question: &'static str,
    answer: Answer,
}

/// Shows it.
///
/// # Errors
/// Something does not work here.
pub(super) fn show(stage: &Stage, count: u32) -> anyhow::Result<()> {
    let family = boot(stage)?;
    let boot_us = family.parent.status.ready_us.unwrap_or(0);
    let ready = get_ready(stage, &family)?;
    let parent = family.dir(&family.parent.about.name);
    let before = Answer::to("state", &parent)?;
    ui::line(format!(
        "{}: Python, process {}, has numpy and an index of its documentation, and works on \
         (step {}). Forking it {count} times, as it runs.\n",
        family.parent.about.name,
        before.text("pid")?,
        before.text("steps")?,
    ))?;

    let fork = family.fork(count)?;
    let replies = ask_all(stage, &family, &fork)?;
    let after = Answer::to("state", &parent)?;
    let clones = check(&family, &fork, &replies, &before, &after)?;
    ui::line(answers(&replies)?)?;
    ui::line(format!(
        "Every clone answered in process {pid}, the one that imported numpy, once, in {import}.\n\
         {name} never noticed: it was asked nothing and is at step {steps}.\n",
        pid = before.text("pid")?,
        import = duration_us(before.number("imported_us")?),
        name = family.parent.about.name,
        steps = after.text("steps")?,
    ))?;

    let mut figures = Figures::default();
    figures.add("cold boot to ready", duration_us(boot_us), "");
    figures.add(
        "then Python + numpy ready",
        duration_us(ready.as_micros() as u64),
        "paid once, by the parent",
    );
    figures.add_fork(&fork, &clones);
    ui::print(&figures.render())
}

fn boot(stage: &Stage) -> anyhow::Result<Family<'_>> {
    let image = ensure_image(IMAGE, stage.progress, &stage.interrupt)?;
    let command = Command {
        argv: ["python3", "-c", PROGRAM].map(str::to_owned).into(),
        env: image.environment.env.clone(),
        cwd: None,
        tty: None,
        stdin: false,
    };
    Family::boot(
        stage,
        IMAGE,
        MEMORY,
        Guest::Linux(linux_from(&image, Some(command))),
    )
}

/// Waits until the program is ready, and shows the steps that it reports.
fn get_ready(stage: &Stage, family: &Family<'_>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut step = Some(stage.progress.step("starting Python"));
    follow(stage, &family.dir(&family.parent.about.name), |line| {
        step.take().map(Step::done);
        step = Some(stage.progress.step(line));
        line != "ready"
    })?;
    Ok(begun.elapsed())
}

fn ask_all(stage: &Stage, family: &Family<'_>, fork: &ForkReport) -> anyhow::Result<Vec<Reply>> {
    let _step = stage.progress.step("asking the clones");
    let questions = QUESTIONS.iter().cycle();
    fork.clones
        .iter()
        .zip(questions)
        .map(|(clone, question)| {
            stage.interrupt.check()?;
            let answer = Answer::to(&format!("ask {question}"), &family.dir(&clone.name))?;
            Ok(Reply {
                vm: family.info(&clone.name)?,
                question,
                answer,
            })
        })
        .collect()
}

/// Checks that the demonstration shows what it claims.
///
/// # Errors
/// It does not.
fn check(
    family: &Family<'_>,
    fork: &ForkReport,
    replies: &[Reply],
    before: &Answer,
    after: &Answer,
) -> anyhow::Result<Vec<VmInfo>> {
    for reply in replies {
        let (name, answer) = (&reply.vm.about.name, &reply.answer);
        for same in ["pid", "token", "imported_us", "ready_us"] {
            if answer.text(same)? != before.text(same)? {
                bail!(
                    "{name} answers from another process: {same} is {}",
                    answer.text(same)?
                );
            }
        }
        if answer.text("machine")? != name.as_str() {
            bail!("{name} believes to be {}", answer.text("machine")?);
        }
        if answer.number("asked")? != 1 || answer.number("steps")? < before.number("steps")? {
            bail!("{name} did not go on where the parent was");
        }
    }
    let different: HashSet<_> = replies
        .iter()
        .filter_map(|reply| reply.answer.text("answer").ok())
        .collect();
    if different.len() < replies.len().min(QUESTIONS.len()) {
        bail!("two clones gave the same answer");
    }
    if after.text("token")? != before.text("token")?
        || after.number("asked")? != 0
        || after.number("steps")? <= before.number("steps")?
    {
        bail!("{} was disturbed", fork.parent);
    }
    replies
        .iter()
        .map(|reply| family.info(&reply.vm.about.name))
        .collect()
}

fn answers(replies: &[Reply]) -> anyhow::Result<String> {
    let mut table = Table::new(["CLONE", "QUESTION", "ANSWER", ">PROCESS", ">ANSWERED IN"]);
    for Reply {
        vm,
        question,
        answer,
    } in replies
    {
        table.row([
            vm.about.name.to_string(),
            (*question).to_owned(),
            answer.text("answer")?.to_owned(),
            answer.text("pid")?.to_owned(),
            duration_us(answer.number("answered_us")?),
        ]);
    }
    Ok(table.render())
}
