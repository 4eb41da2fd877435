//! Generated documents: the command line's reference, from the program, and the
//! README's picture, from the committed figures.

use crate::plot::fork_svg;
use crate::run::output;
use crate::workspace::{cargo, program, root};
use anyhow::{Context, Result, bail};
use std::fs;
use std::process::Command;

/// Writes them, or only checks that they are current.
///
/// # Errors
/// When one is not current, or what it is made of cannot be had.
pub(crate) fn docs(check: bool) -> Result<()> {
    crate::run::run(&mut cargo(&[
        "build",
        "--quiet",
        "--package",
        "hyperfork-cli",
    ]))?;
    with_program(check)
}

/// The same, with the program as it was built last.
///
/// # Errors
/// As [`docs`].
pub(crate) fn with_program(check: bool) -> Result<()> {
    let documents = [
        ("docs/cli.md", reference()?),
        ("docs/results/fork.svg", fork_svg()?),
    ];
    for (name, text) in documents {
        let path = root().join(name);
        if !check {
            fs::write(&path, text).context(name)?;
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            bail!("{name} is not current: run `cargo xtask docs`");
        }
    }
    println!("docs: current");
    Ok(())
}

fn reference() -> Result<String> {
    let program = program()?;
    let help = |verbs: &[&str]| -> Result<String> {
        let text = output(
            Command::new(&program)
                .args(verbs)
                .arg("--help")
                .env("COLUMNS", "100"),
        )?;
        Ok(text
            .lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n"))
    };
    let mut text = String::from(
        "# The command line\n\nWritten by `cargo xtask docs` from the program's own help.\n",
    );
    let mut section = |title: &str, help: &str| {
        text.push_str(&format!("\n## {title}\n\n```text\n{help}\n```\n"));
    };
    let main = help(&[])?;
    section("hyperfork", &main);
    for verb in verbs_of(&main) {
        let own = help(&[&verb])?;
        section(&format!("hyperfork {verb}"), &own);
        for sub in verbs_of(&own) {
            section(&format!("hyperfork {verb} {sub}"), &help(&[&verb, &sub])?);
        }
    }
    Ok(text)
}

/// The names under "Commands:".
fn verbs_of(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}
