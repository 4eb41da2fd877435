//! A guest that keeps to the rings and sends any packets, for property tests and
//! fuzzing: gets deeper into connections than one that does anything.

use super::connection::Ports;
use super::credit::BUFFER;
use super::handle::VsockHandle;
use super::muxer::Muxer;
use super::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM, op};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

const CID: u32 = 3;

/// Runs `script`: packets of the guest, streams of the host, room in the ring.
///
/// # Panics
/// When the device panics, overruns a buffer of the ring or the guest's credit,
/// or loses its own count.
pub fn drive_packets(script: &[u8]) {
    let (sender, commands) = mpsc::channel();
    let mut muxer = Muxer::new(CID, None, commands).expect("descriptors");
    let handle = VsockHandle::new(sender, muxer.wake().clone());
    let mut script = script.iter().copied();
    let mut hosts: Vec<UnixStream> = Vec::new();
    let mut credit: HashMap<Ports, Credit> = HashMap::new();
    while let Some(step) = script.next() {
        let mut byte = || script.next().unwrap_or(0);
        match step % 8 {
            0..4 => {
                let header = any_header(&mut byte);
                let ports = Ports {
                    guest: header.src_port,
                    host: header.dst_port,
                };
                // Of packets that are none of this guest's nothing is believed.
                let is_own = header.src_cid == u64::from(CID) && header.dst_cid == HOST_CID;
                if is_own && header.kind == TYPE_STREAM {
                    let known = credit.entry(ports).or_default();
                    (known.buffer, known.taken) = (header.buf_alloc, header.fwd_cnt);
                }
                // Payload may be shorter than the header says.
                let payload = vec![byte(); usize::from(byte()) * 300];
                let _ = muxer.receive(&header, &mut payload.as_slice());
            }
            4 if hosts.len() < 16 => hosts.extend(handle.connect(u32::from(byte() % 4)).ok()),
            5 => take_packets(&mut muxer, usize::from(byte()) * 16, byte(), &mut credit),
            6 => {
                let (which, action) = (usize::from(byte() % 16), byte());
                host_step(&mut hosts, which, action);
            }
            7 if byte() == 0 => muxer.tick(),
            _ => {}
        }
        muxer.process_host_events().expect("epoll");
    }
}

/// What the guest has told of its buffer, and was sent.
#[derive(Default)]
struct Credit {
    buffer: u32,
    taken: u32,
    sent: u32,
}

fn any_header(byte: &mut impl FnMut() -> u8) -> Header {
    let mut counter = || match byte() {
        0..100 => 0,
        100..200 => BUFFER,
        small @ 200..240 => u32::from(small),
        large => u32::MAX - u32::from(large),
    };
    let (buf_alloc, fwd_cnt) = (counter(), counter());
    Header {
        src_cid: if byte() < 250 {
            CID.into()
        } else {
            byte().into()
        },
        dst_cid: if byte() < 250 {
            HOST_CID
        } else {
            byte().into()
        },
        src_port: (byte() % 4).into(),
        dst_port: (1 << 30) + u32::from(byte() % 16),
        len: u32::from(byte()) * 300,
        kind: if byte() < 250 {
            TYPE_STREAM
        } else {
            byte().into()
        },
        op: (byte() % 9).into(),
        flags: (byte() % 8).into(),
        buf_alloc,
        fwd_cnt,
    }
}

/// Gives the device room for `count` packets of up to `space` bytes each.
fn take_packets(muxer: &mut Muxer, space: usize, count: u8, credit: &mut HashMap<Ports, Credit>) {
    for _ in 0..count {
        if !muxer.prepare(true) {
            return;
        }
        let mut packet = Vec::new();
        let len = muxer.emit(space, &mut packet).expect("memory");
        assert_eq!(len, packet.len());
        assert!(len >= HEADER_LEN && len <= HEADER_LEN + space);
        let header = packet
            .first_chunk()
            .map(Header::from_bytes)
            .expect("a header");
        assert_eq!(header.len as usize, len - HEADER_LEN);
        let known = credit
            .entry(Ports {
                guest: header.dst_port,
                host: header.src_port,
            })
            .or_default();
        match header.op {
            op::REQUEST | op::RESPONSE => known.sent = 0,
            op::RW => {
                known.sent = known.sent.wrapping_add(header.len);
                assert!(known.sent.wrapping_sub(known.taken) <= known.buffer);
            }
            _ => {}
        }
    }
}

fn host_step(hosts: &mut Vec<UnixStream>, which: usize, action: u8) {
    let Some(stream) = hosts.get_mut(which) else {
        return;
    };
    stream.set_nonblocking(true).expect("a socket");
    // The guest may have ended any of them.
    match action {
        0..100 => drop(stream.write(&vec![action; usize::from(action) * 200])),
        100..200 => drop(stream.read(&mut [0; 20_000])),
        200..220 => drop(stream.shutdown(std::net::Shutdown::Write)),
        220..240 => drop(stream.shutdown(std::net::Shutdown::Read)),
        240.. => drop(hosts.remove(which)),
    }
}
