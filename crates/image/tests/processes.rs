//! What other processes see of a build: builders that are killed, builders that
//! race, a disk that fills up. This program is its own builder process, so it has
//! its own `main`.
#![allow(clippy::unwrap_used)] // these are tests

mod common;

use common::{Fake, artifacts, chain, image, simple, store};
use hyperfork_image::{BuildError, Job, Progress, Tool};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TESTS: [(&str, fn()); 4] = [
    (
        "a_killed_builder_takes_its_tools_along_and_the_next_start_cleans_up",
        a_killed_builder_takes_its_tools_along_and_the_next_start_cleans_up,
    ),
    (
        "processes_that_want_the_same_image_build_it_once",
        processes_that_want_the_same_image_build_it_once,
    ),
    (
        "what_a_living_builder_has_begun_is_not_cleaned_up",
        what_a_living_builder_has_begun_is_not_cleaned_up,
    ),
    (
        "a_disk_that_fills_up_is_one_clear_line_and_leaves_nothing",
        a_disk_that_fills_up_is_one_clear_line_and_leaves_nothing,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, root] = &arguments[..]
        && role.starts_with("--builder")
    {
        return builder(role, Path::new(root));
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = TESTS
        .iter()
        .filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())));
    let mut passed = 0;
    for (name, test) in chosen {
        // A panic ends the program with status 101, after its message.
        test();
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed");
}

/// A builder process. It prints its steps on standard output.
fn builder(role: &str, root: &Path) {
    let gate = root.with_extension("gate");
    let recipe = match role {
        "--builder-with-tool" => recipe(|job| {
            let pid_file = job.out.with_file_name("pid");
            let wait = "echo $$ > \"$0\"; exec sleep 1000";
            job.step("waiting in a tool", |_| {
                let tool = Tool::new("sh").args(["-c", wait]).arg(&pid_file);
                Ok(tool.run(|_| ())?)
            })
        }),
        "--builder-at-gate" => recipe(move |job| {
            job.step("waiting at the gate", |_| {
                until("the gate opens", || gate.exists().then_some(()));
                Ok(())
            })
        }),
        "--builder-of-much" => recipe(|job| {
            let path = job.out.join("much");
            let write = || -> std::io::Result<()> {
                let mut file = fs::File::create(&path)?;
                (0..64).try_for_each(|_| file.write_all(&[7; 1 << 20]))
            };
            write().map_err(BuildError::file("write", &path))
        }),
        "--builder-of-much-with-tool" => recipe(|job| {
            let path = job.out.join("much");
            let of = format!("of={}", path.display());
            let arguments = ["if=/dev/zero", &of, "bs=1M", "count=64"];
            Ok(Tool::new("dd").args(arguments).run(|_| ())?)
        }),
        other => panic!("no such role: {other}"),
    };
    match store(root, vec![recipe]).build("one", &mut Told) {
        Ok(image) => println!("built {}", image.digest),
        Err(error) => println!("failed {}", chain(&error)),
    }
}

fn recipe(
    then: impl Fn(&mut Job<'_>) -> Result<(), BuildError> + Send + Sync + 'static,
) -> hyperfork_image::ImageRecipe {
    let rootfs = Fake::root("a", Fake::tree("a")).then(then);
    image("one", Fake::kernel("a"), rootfs)
}

struct Told;

impl Progress for Told {
    fn started(&mut self, step: &str) {
        println!("{step}");
    }
    fn advanced(&mut self, _: Option<f64>, _: &str) {}
    fn finished(&mut self, _: &str) {}
}

/// A builder process as the parent sees it.
struct Builder {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Builder {
    fn start(role: &str, root: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.arg(role).arg(root);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        // A group of its own, as a shell gives to a job.
        command.process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Reads its output up to a line that begins so.
    fn wait_for(&mut self, beginning: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.output.read_line(&mut line).unwrap();
            assert!(length > 0, "the builder ended before '{beginning}'");
            if line.starts_with(beginning) {
                return line.trim_end().to_owned();
            }
        }
    }

    /// Sends a signal; to the whole group where a terminal would.
    fn signal(&self, signal: &str) {
        let group = if signal == "INT" { "-" } else { "" };
        let status = Command::new("kill")
            .args(["-s", signal, "--", &format!("{group}{}", self.child.id())])
            .status();
        assert!(status.unwrap().success());
    }
}

/// Waits for something that comes soon; a minute is for ever.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn a_killed_builder_takes_its_tools_along_and_the_next_start_cleans_up() {
    for signal in ["KILL", "INT", "TERM"] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("cache");
        let mut builder = Builder::start("--builder-with-tool", &root);
        builder.wait_for("waiting in a tool");
        let tool: u32 = until("the tool runs", || {
            let scratch = artifacts(&root, "tmp").pop()?;
            let pid = fs::read_to_string(scratch.join("pid")).ok()?;
            pid.trim().parse().ok()
        });
        builder.signal(signal);
        builder.child.wait().unwrap();
        until("the tool ends", || is_gone(tool).then_some(()));

        // Half of a build is there, and the store does not take it for an image.
        assert!(artifacts(&root, "roots").is_empty());
        let store = store(&root, vec![simple("one", "a")]);
        assert!(artifacts(&root, "tmp").is_empty());
        assert_eq!(store.resolve("one").unwrap(), None);
        store.build("one", &mut ()).unwrap();
    }
}

fn is_gone(pid: u32) -> bool {
    // A zombie has done its last.
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    state.map_or(true, |stat| stat.contains(") Z "))
}

fn processes_that_want_the_same_image_build_it_once() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("cache");
    let mut first = Builder::start("--builder-at-gate", &root);
    first.wait_for("waiting at the gate");
    let others: Vec<_> = (0..3)
        .map(|_| {
            let mut other = Builder::start("--builder-at-gate", &root);
            other.wait_for("waiting for another build of a fake of roots");
            other
        })
        .collect();
    fs::write(root.with_extension("gate"), "").unwrap();
    let built = first.wait_for("built ");
    for mut other in others {
        // Nothing but the result: the step of building did not run again.
        let mut line = String::new();
        other.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), built);
        other.child.wait().unwrap();
    }
    first.child.wait().unwrap();
    assert_eq!(artifacts(&root, "roots").len(), 1);
    assert!(artifacts(&root, "tmp").is_empty());
}

fn what_a_living_builder_has_begun_is_not_cleaned_up() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("cache");
    let mut builder = Builder::start("--builder-at-gate", &root);
    builder.wait_for("waiting at the gate");
    // Neither by opening the cache nor by removing another image, nor its input.
    let other = store(&root, vec![simple("two", "b")]);
    other.build("two", &mut ()).unwrap();
    other.remove("two").unwrap();
    assert_eq!(artifacts(&root, "tmp").len(), 1);
    assert_eq!(artifacts(&root, "kernels").len(), 1);
    assert_eq!(artifacts(&root, "trees").len(), 1);
    fs::write(root.with_extension("gate"), "").unwrap();
    builder.wait_for("built ");
    builder.child.wait().unwrap();
    let image = store(&root, vec![recipe(|_| Ok(()))])
        .resolve("one")
        .unwrap();
    assert!(image.is_some_and(|image| image.kernel.exists() && image.rootfs.exists()));
}

fn a_disk_that_fills_up_is_one_clear_line_and_leaves_nothing() {
    for role in ["--builder-of-much", "--builder-of-much-with-tool"] {
        let directory = tempfile::tempdir().unwrap();
        // The small disk is in a mount namespace of its own, so it goes with the
        // builder; what is on it is looked at from inside.
        let script = "mount -t tmpfs -o size=16m tmpfs \"$0\" && \"$1\" \"$2\" \"$0/cache\" && \
             cd \"$0/cache\" && find tmp images -mindepth 1 && find . -path './roots/*' && \
             echo checked";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--map-root-user", "sh", "-c", script])
            .arg(directory.path())
            .arg(std::env::current_exe().unwrap())
            .arg(role);
        let mut builder = Builder::spawn(command);
        let told = builder.wait_for("failed ");
        assert!(
            told.starts_with("failed not enough disk space to build a fake of roots: it needs"),
            "{told}"
        );
        assert!(told.contains("MiB left; make room"), "{told}");
        let mut rest = String::new();
        builder.output.read_line(&mut rest).unwrap();
        assert_eq!(rest.trim_end(), "checked");
        builder.child.wait().unwrap();
    }
}
