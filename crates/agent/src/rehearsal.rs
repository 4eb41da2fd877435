//! The mode `--listen`: runs the agent on a machine that it must not change, for tests.

use crate::listener::Listener;
use crate::log;
use crate::machine::Machine;
use crate::pages::Pages;
use crate::server::Server;
use hyperfork_api::guest::Failure;
use hyperfork_api::{Identity, Secrets};
use std::ffi::{OsString, c_int};
use std::io;
use std::path::Path;

/// A machine that stays as it is: the agent writes only its identity's files,
/// beside the sockets.
struct Rehearsal {
    pages: Pages,
}

impl Machine for Rehearsal {
    fn identify(
        &mut self,
        identity: &Identity,
        _realtime_ns: u64,
        _shares: &[(String, String, bool)],
        _secrets: &Secrets,
    ) -> Result<(), Failure> {
        let written = self.pages.write(identity);
        written.map_err(|error| Failure::File {
            path: "the identity's files".to_owned(),
            reason: error.to_string(),
        })
    }

    fn follow_host(&mut self) {}

    fn power_off(&mut self) {
        std::process::exit(0);
    }
}

/// Listeners on `DIR/<CID>.sock`, for arguments `DIR CID...`: a connection there
/// stands for one from a host to that CID.
///
/// # Errors
/// The kernel's, or for arguments that are not of this form.
pub(crate) fn unix_listeners(arguments: &[OsString]) -> io::Result<Vec<Listener>> {
    let [directory, cids @ ..] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let listener = |cid: &OsString| {
        let cid = cid.to_str().and_then(|cid| cid.parse().ok());
        let cid: u32 = cid.ok_or(io::ErrorKind::InvalidInput)?;
        Listener::unix(&Path::new(directory).join(format!("{cid}.sock")), cid)
    };
    cids.iter().map(listener).collect()
}

/// `agent --listen DIR CID...`: serves there, on a machine that stays as it is.
pub(crate) fn rehearse(arguments: &[OsString]) -> c_int {
    let [_, flag, sockets @ ..] = arguments else {
        return usage();
    };
    let [directory, _, ..] = sockets else {
        return usage();
    };
    if flag != "--listen" {
        return usage();
    }
    let machine = Box::new(Rehearsal {
        pages: Pages::in_directory(Path::new(directory)),
    });
    match unix_listeners(sockets).and_then(|listeners| Server::new(listeners, machine)) {
        Ok(server) => server.run(),
        Err(error) => {
            log::error(format_args!("{}: {error}", directory.display()));
            1
        }
    }
}

fn usage() -> c_int {
    eprintln!(
        "usage: agent --listen DIR CID...: serve on DIR/CID.sock, to try the agent outside a guest"
    );
    2
}
