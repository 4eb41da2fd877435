//! `exec`.

use super::values;
use clap::Args;
use hyperfork_api::VmName;

/// Run a command in a VM; the exit status is the command's
///
/// As with `docker exec`, the command runs on in the guest if this program is killed (kill -9)
/// or loses its connection: end it in the guest, or stop the VM.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hyperfork exec p -- uname -a
  hyperfork exec -it p -- sh
  echo 1+1 | hyperfork exec -i p -- python3 -")]
pub(crate) struct Exec {
    /// Pass standard input on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable; without a value, pass on the caller's
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = values::variable)]
    env: Vec<(String, Option<String>)>,
    /// The command's working directory in the guest
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The VM
    pub(crate) vm: VmName,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub(crate) command: Vec<String>,
}

impl Exec {
    /// The variables for the command.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        values::variables(&self.env)
    }
}

#[cfg(test)]
mod tests {
    use crate::args::{Cli, Verb};
    use clap::Parser;

    fn command(line: &[&str]) -> Vec<String> {
        match Cli::try_parse_from(line).unwrap().verb {
            Verb::Exec(exec) => exec.command,
            verb => panic!("{verb:?}"),
        }
    }

    #[test]
    fn a_commands_own_options_are_its_own() {
        let expected = ["ls", "-l", "--", "-x"];
        assert_eq!(
            command(&["hyperfork", "exec", "p", "--", "ls", "-l", "--", "-x"]),
            expected
        );
        assert_eq!(
            command(&["hyperfork", "exec", "-it", "p", "ls", "-l", "--", "-x"]),
            expected
        );
    }
}
