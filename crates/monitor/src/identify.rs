//! Requests to the guest's agent. The first gives the guest its identity, before clients may
//! talk to it.

use hyperfork_api::guest::{AGENT_PORT, Command, Reply, Request};
use hyperfork_api::spec::Share;
use hyperfork_api::{Identity, Secrets};
use hyperfork_host::agent::{Agent, AgentError};
use hyperfork_sys::clock::realtime_ns;
use hyperfork_vmm::devices::virtio::vsock::VsockHandle;
use hyperfork_vmm::machine::slots::share_tag;
use std::time::{Duration, Instant};

/// How long to wait for the agent's first answer before connecting again. It is long since a
/// guest has no reason to lose a connection: it accepts one only after it has closed those of
/// its parent. With 64 clones starting at once on two processors a guest is merely slow, and
/// another attempt would be more work for it. After each timeout the next one is twice as long.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the agent of a running guest may take to count its main program's output.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);
/// Delays between attempts: short at first, for a clone that answers at once, and longer
/// later, since a guest that is still booting pays for each attempt.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Gives the identity to the guest's agent. Tries until the agent answers: the timeout is the
/// owner's, which ends the VM when it has passed.
///
/// # Errors
/// Why the agent refuses it.
pub(super) fn identify(
    vsock: &VsockHandle,
    identity: &Identity,
    shares: &[Share],
    secrets: &Secrets,
) -> Result<(), AgentError> {
    let mut wait = FIRST_WAIT;
    let mut timeout = ATTEMPT_TIMEOUT;
    loop {
        let begun = Instant::now();
        match attempt(vsock, identity, shares, secrets, timeout) {
            // The agent has refused: trying again would not help.
            Err(error @ (AgentError::Failed(_) | AgentError::Protocol(_))) => return Err(error),
            Err(_) => {}
            identified => return identified,
        }
        if begun.elapsed() >= timeout {
            timeout *= 2;
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn attempt(
    vsock: &VsockHandle,
    identity: &Identity,
    shares: &[Share],
    secrets: &Secrets,
    timeout: Duration,
) -> Result<(), AgentError> {
    let mut agent = connect(vsock)?;
    agent
        .set_timeout(Some(timeout))
        .map_err(AgentError::Unreachable)?;
    let request = Request::Identify {
        identity: identity.clone(),
        realtime_ns: realtime_ns(),
        shares: shares
            .iter()
            .enumerate()
            .map(|(index, share)| (share_tag(index), share.mount_point.clone(), share.read_only))
            .collect(),
        secrets: secrets.clone(),
    };
    match agent.request(&request)? {
        Reply::Identified { .. } => Ok(()),
        _ => Err(AgentError::Closed),
    }
}

/// Waits until the guest's agent answers, which it does when it has set the clock.
///
/// # Errors
/// [`AgentError`], when the timeout has passed.
pub(super) fn await_agent(vsock: &VsockHandle, timeout: Duration) -> Result<(), AgentError> {
    let deadline = Instant::now() + timeout;
    loop {
        let answered = connect(vsock).and_then(|mut agent| {
            let left = deadline.saturating_duration_since(Instant::now());
            agent
                .set_timeout(Some(left.max(FIRST_WAIT)))
                .map_err(AgentError::Unreachable)?;
            agent.request(&Request::Ping)
        });
        match answered {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(LONGEST_WAIT),
        }
    }
}

/// Has the agent start the main program.
///
/// # Errors
/// [`AgentError`].
pub(super) fn start_main(vsock: &VsockHandle, command: &Command) -> Result<(), AgentError> {
    connect(vsock)?.request(&Request::StartMain(command.clone()))?;
    Ok(())
}

/// How much the main program has written by now.
///
/// # Errors
/// [`AgentError`].
pub(super) fn count_main(vsock: &VsockHandle) -> Result<u64, AgentError> {
    let mut agent = connect(vsock)?;
    agent
        .set_timeout(Some(COUNT_TIMEOUT))
        .map_err(AgentError::Unreachable)?;
    match agent.request(&Request::CountMain)? {
        Reply::Counted(len) => Ok(len),
        _ => Err(AgentError::Closed),
    }
}

/// Asks the guest to power off. The answer is its end.
pub(super) fn power_off(vsock: &VsockHandle) -> Result<(), AgentError> {
    connect(vsock)?.request(&Request::PowerOff)?;
    Ok(())
}

pub(super) fn connect(vsock: &VsockHandle) -> Result<Agent, AgentError> {
    vsock
        .connect(AGENT_PORT)
        .map(Agent::over)
        .map_err(AgentError::Unreachable)
}
