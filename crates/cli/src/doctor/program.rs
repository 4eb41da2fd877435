//! The program of VMs: whether it is there, and of this program's build.

use super::Check;
use hyperfork_host::Program;

/// Whether VMs have a program to run.
pub(super) fn check(program: &anyhow::Result<Program>) -> Check {
    const NAME: &str = "program of VMs";
    match program {
        Ok(program) => Check::ok(NAME, format!("{}, of this build", program.path().display())),
        Err(error) => Check::failed(
            NAME,
            format!("{error:#}"),
            "install hyperfork and hyperfork-vm together, in one directory",
        ),
    }
}
