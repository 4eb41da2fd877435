//! The interface for what the agent does to the machine that it runs on.

use hyperfork_api::guest::Failure;
use hyperfork_api::{Identity, Secrets};
use std::os::fd::BorrowedFd;

/// The effects of the host's requests on the whole guest.
pub(crate) trait Machine {
    /// Takes this identity.
    ///
    /// # Errors
    /// [`Failure`]; then the machine must not be used.
    fn identify(
        &mut self,
        identity: &Identity,
        realtime_ns: u64,
        shares: &[(String, String, bool)],
        secrets: &Secrets,
    ) -> Result<(), Failure>;

    /// Ready to be read when something has changed that the machine must know of before
    /// it gets another identity.
    fn changes(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Called when that is ready to be read.
    fn changed(&mut self) {}

    /// Does what could wait until the host had its answer.
    fn settle(&mut self) {}

    /// Called before an answer to the host: if the machine has stood still since the
    /// clock was set, sets the clock anew.
    fn follow_host(&mut self);

    /// Ends all programs and the machine. Returns only where that fails.
    fn power_off(&mut self);
}
