//! The terminal this program runs on.

use hyperfork_api::guest::WindowSize;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Standard input as a raw terminal: every key goes to the guest. Dropping it restores the
/// terminal.
#[derive(Debug)]
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Makes the terminal raw.
    ///
    /// # Errors
    /// Standard input is not a terminal.
    pub(crate) fn enter() -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Fails only when the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// The terminal's size; the traditional one where there is none.
pub(crate) fn window_size() -> WindowSize {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin()));
    match size {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => WindowSize {
            rows: size.ws_row,
            cols: size.ws_col,
        },
        _ => WindowSize { rows: 24, cols: 80 },
    }
}
