//! Telling a guest who it is, before anybody else may speak to it.

use hyperfork_api::guest::{AGENT_PORT, Command, Reply, Request};
use hyperfork_api::spec::Share;
use hyperfork_api::{Identity, Secrets};
use hyperfork_host::agent::{Agent, AgentError};
use hyperfork_sys::clock::realtime_ns;
use hyperfork_vmm::devices::virtio::vsock::VsockHandle;
use hyperfork_vmm::machine::slots::share_tag;
use std::time::{Duration, Instant};

/// Wait for the first answer before the connection is tried anew. A guest has no reason to
/// lose one: it is asked only when it has ended those of its parent. So this is long; where
/// 64 clones are born at once on two processors a guest is only slow, and another attempt
/// would be more for it to do. Each wait that was not long enough is followed by one twice
/// as long.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Wait for a guest that is running to say how much its main program has written.
const COUNT: Duration = Duration::from_secs(2);
/// Waits between attempts: short at first, for a clone that answers at once, and
/// longer later, for a guest that is still booting and pays for each attempt.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Has the guest's agent take the identity. Tries until the agent answers: how long
/// to be patient with a guest is for the owner to say, who ends it then.
///
/// # Errors
/// What the agent has against it.
pub(super) fn identify(
    vsock: &VsockHandle,
    identity: &Identity,
    shares: &[Share],
    secrets: &Secrets,
) -> Result<(), AgentError> {
    let mut wait = FIRST_WAIT;
    let mut patience = ATTEMPT;
    loop {
        let begun = Instant::now();
        match attempt(vsock, identity, shares, secrets, patience) {
            // The agent is there and says no: trying again would not help.
            Err(error @ (AgentError::Failed(_) | AgentError::Protocol(_))) => return Err(error),
            Err(_) => {}
            identified => return identified,
        }
        if begun.elapsed() >= patience {
            patience *= 2;
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
    patience: Duration,
) -> Result<(), AgentError> {
    let mut agent = connect(vsock)?;
    agent
        .set_timeout(Some(patience))
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

/// Waits until the guest's agent has answered, which it does when it has seen to the
/// clock.
///
/// # Errors
/// [`AgentError`], when patience is over.
pub(super) fn await_agent(vsock: &VsockHandle, patience: Duration) -> Result<(), AgentError> {
    let deadline = Instant::now() + patience;
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
        .set_timeout(Some(COUNT))
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
