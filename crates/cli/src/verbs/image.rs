//! `image`.

use crate::args::ImageVerb;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::ui::{self, ImageProgress, Progress, Table, age, mib};
use anyhow::Context;
use hyperfork_image::{Image, ImageError, ImageStore};
use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The embedded guest's name among the images.
pub(crate) const NANO: &str = "nano";

/// Builds, lists or removes images.
///
/// # Errors
/// Those of the cache.
pub(crate) fn run(verb: ImageVerb) -> anyhow::Result<u8> {
    let store = store()?;
    match verb {
        ImageVerb::Build(args) => {
            let interrupt = Interrupt::catch().context("cannot catch signals")?;
            let progress = Progress::unless(args.quiet);
            let image = build(&store, &args.name, progress, &interrupt)?;
            match args.json {
                true => ui::json(&image)?,
                false => ui::line(format!("{} {}", image.name, image.digest))?,
            }
            Ok(exit::OK)
        }
        ImageVerb::Ls(args) => {
            let images = store.list()?;
            if args.json {
                ui::json(&images)?;
            } else if args.quiet {
                ui::print(
                    &images
                        .iter()
                        .map(|image| format!("{}\n", image.name))
                        .collect::<String>(),
                )?;
            } else {
                ui::print(&human(&images))?;
            }
            Ok(exit::OK)
        }
        ImageVerb::Rm(args) => {
            let mut status = exit::OK;
            for name in &args.names {
                match store.remove(name) {
                    Ok(()) => ui::line(name)?,
                    Err(error) => {
                        ui::error(&error.into());
                        status = exit::FAILED;
                    }
                }
            }
            Ok(status)
        }
    }
}

/// The image as it is in the cache, or else built now.
///
/// # Errors
/// There is no such image, or it cannot be built.
pub(crate) fn ensure(
    name: &str,
    progress: Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Image> {
    let store = store()?;
    match store.resolve(name) {
        Ok(Some(image)) => Ok(image),
        Ok(None) => build(&store, name, progress, interrupt),
        Err(ImageError::Unknown { name, mut known }) => {
            // It is booted like an image, though there is none to build.
            known.push(NANO.to_owned());
            Err(ImageError::Unknown { name, known }.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn build(
    store: &ImageStore,
    name: &str,
    progress: Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Image> {
    let (over, wait) = channel::<()>();
    let built = thread::scope(|scope| {
        scope.spawn(move || end_when_interrupted(interrupt, &wait));
        let built = store.build(name, &mut ImageProgress::new(progress));
        drop(over);
        built
    });
    built.map_err(|error| interrupt.explains(error.into()))
}

/// A build cannot be told to stop, but the tools it runs can: it fails then, and
/// cleans up after itself.
fn end_when_interrupted(interrupt: &Interrupt, build: &Receiver<()>) {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    const PATIENCE: u32 = 100;
    let mut looked = 0;
    while build.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if let Err(interrupted) = interrupt.check() {
            end_children();
            looked += 1;
            if looked > PATIENCE {
                // The build waits for something else. The cache removes what it leaves.
                std::process::exit(exit::by_signal(interrupted.0).into());
            }
        }
    }
}

/// Asks the children of this process to end. While an image is built these are the build's
/// tools.
fn end_children() {
    let threads = Process::myself().and_then(|own| own.tasks());
    for thread in threads.into_iter().flatten().flatten() {
        for child in thread.children().unwrap_or_default() {
            if let Some(pid) = Pid::from_raw(child.cast_signed()) {
                // It may be gone by now.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }
}

fn store() -> anyhow::Result<ImageStore> {
    Ok(ImageStore::open(&ImageStore::default_root()?)?)
}

fn human(images: &[Image]) -> String {
    let mut table = Table::new(["NAME", "DIGEST", ">SIZE", ">AGE"]);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    for image in images {
        let built = Duration::from_secs(image.created_unix_s);
        table.row([
            image.name.clone(),
            image.digest.chars().take(12).collect(),
            mib(image.size_bytes >> 10),
            age(now.saturating_sub(built)),
        ]);
    }
    table.render()
}
