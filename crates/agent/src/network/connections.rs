//! TCP connections of an address that the guest no longer has (sock_diag(7)).

use hyperfork_netlink::{Batch, DUMP, Netlink, Subsystem};
use std::io;
use std::net::Ipv4Addr;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `AF_INET`, `IPPROTO_TCP`.
const INET: u8 = 2;
const TCP: u8 = 6;
/// All states of a connection but `TCP_LISTEN` (10) and `TCP_CLOSE` (7), by number.
const STATES: u32 = 0xffe & !(1 << 10 | 1 << 7);
/// Bytes of `struct inet_diag_sockid`; where it is in `struct inet_diag_msg`, and where
/// in it is the local address.
const ID_LEN: usize = 48;
const ID: usize = 4;
const SOURCE: usize = 4;

/// The kernel's list of TCP connections.
#[derive(Debug)]
pub(super) struct Connections(Netlink);

impl Connections {
    /// # Errors
    /// The kernel's.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(Subsystem::SockDiag).map(Self)
    }

    /// Ends all from this address: programs that wait for one get an error, and so do programs
    /// that use one later.
    ///
    /// # Errors
    /// The kernel's. One that cannot end connections at all is no error.
    pub(super) fn end_all_of(&self, address: Ipv4Addr) -> io::Result<()> {
        let ids = match all_of(&self.0, address) {
            Err(error) if is_unknown(&error) => return Ok(()),
            ids => ids?,
        };
        let mut result = Ok(());
        // One by one: what has ended by itself must not hide what else is refused.
        for id in ids {
            let mut batch = Batch::new();
            batch.message(SOCK_DESTROY, 0, &question(&id), |_| ());
            match self.0.request(&batch) {
                Err(error) if !is_unknown(&error) => result = Err(error),
                _ => {}
            }
        }
        result
    }
}

/// Whether the kernel was built without this, or there is no such connection any more.
fn is_unknown(error: &io::Error) -> bool {
    let numbers = [libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::ENOENT];
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

fn all_of(kernel: &Netlink, address: Ipv4Addr) -> io::Result<Vec<[u8; ID_LEN]>> {
    let mut batch = Batch::new();
    let any = question(&[0; ID_LEN]);
    batch.message(SOCK_DIAG_BY_FAMILY, DUMP, &any, |_| ());
    let mut ids = Vec::new();
    kernel.list(&batch, |_, payload| ids.extend(id_of(payload, address)))?;
    Ok(ids)
}

/// Which connection a listed one is, if it is from this address.
fn id_of(listed: &[u8], address: Ipv4Addr) -> Option<[u8; ID_LEN]> {
    let id: [u8; ID_LEN] = listed.get(ID..ID + ID_LEN)?.try_into().ok()?;
    (id[SOURCE..SOURCE + 4] == address.octets()).then_some(id)
}

/// `struct inet_diag_req_v2`.
fn question(id: &[u8; ID_LEN]) -> Vec<u8> {
    let mut bytes = vec![INET, TCP, 0, 0];
    bytes.extend(STATES.to_ne_bytes());
    bytes.extend(id);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_are_found_by_their_own_address() {
        let listener = TcpListener::bind("127.0.0.9:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port().to_be_bytes();
        let Ok(kernel) = Netlink::open(Subsystem::SockDiag) else {
            panic!("this kernel tells nothing of sockets");
        };
        let there = all_of(&kernel, Ipv4Addr::new(127, 0, 0, 9)).unwrap();
        assert!(there.iter().any(|id| id[..2] == port), "{there:?}");
        let elsewhere = all_of(&kernel, Ipv4Addr::new(127, 0, 0, 10)).unwrap();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
        drop(stream);
    }
}
