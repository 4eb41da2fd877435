//! A guest that keeps to the ring and sends any messages, for the fuzz target.

use super::server::Server;
use super::tree::Tree;
use super::wire::{Encoder, HEADER_LEN, MAX_MESSAGE, RLERROR};
use super::{ERROR_LEN, OPEN_FLAGS};
use rustix::fs::{CWD, Mode, openat};
use std::path::Path;

/// Sends the messages in `script` to a server of the directory `root`. A message is its type,
/// the room for its answer in units of 64 bytes, the length of its body in two bytes, and the
/// body.
///
/// # Panics
/// When an answer is not one, or is longer than there is room for; when a server that is
/// saved and restored is another.
pub fn drive_messages(root: &Path, read_only: bool, script: &[u8]) {
    let open = || {
        let root = openat(CWD, root, OPEN_FLAGS, Mode::empty()).expect("a directory");
        Tree::new(root, read_only).expect("a directory")
    };
    let mut server = Server::new(open());
    let mut answer = Encoder::default();
    let mut rest = script;
    while let Some(([kind, room, low, high], body)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(body.len());
        let (body, next) = body.split_at(len);
        rest = next;
        let space = (usize::from(*room) * 64).max(ERROR_LEN);
        let tag = u16::from(*kind) << 8 | 0x7;
        server.answer(*kind, tag, body, space, &mut answer);
        check(answer.as_bytes(), *kind, tag, space);
    }
    assert!(server.limit() <= MAX_MESSAGE);
    let saved = server.save();
    let restored = Server::restore(open(), server.limit(), &saved).expect("it was saved");
    assert_eq!(format!("{:?}", restored.save()), format!("{saved:?}"));
}

fn check(answer: &[u8], kind: u8, tag: u16, space: usize) {
    assert!(answer.len() <= space.min(MAX_MESSAGE as usize));
    let [a, b, c, d, answered, e, f] = *answer.first_chunk::<HEADER_LEN>().expect("a header");
    assert_eq!(u32::from_le_bytes([a, b, c, d]) as usize, answer.len());
    assert_eq!(u16::from_le_bytes([e, f]), tag);
    match answered {
        RLERROR => assert_eq!(answer.len(), ERROR_LEN),
        _ => assert_eq!(answered, kind.wrapping_add(1)),
    }
}
