//! Tests of clones: which of their packets and connections count, and that the parent continues.

use super::*;

#[test]
fn a_clone_learns_its_cid_and_its_parent_never_notices() {
    let mut parent = Guest::boot(3);
    let (stream, peer) = connected(&mut parent);
    let mut clone = parent.fork(4);
    clone.resume();
    parent.resume();
    clone.settle();
    parent.settle();
    assert_eq!((clone.resets, clone.cid), (1, 4));
    assert_eq!((parent.resets, parent.cid), (0, 3));
    peer.data(&mut parent, b"unharmed");
    assert_eq!(read_some(&stream), b"unharmed");
    // The clone's copy of that connection leads nowhere.
    Peer { cid: 4, ..peer }.data(&mut clone, b"ghost");
    assert_eq!(next(&mut clone).0.op, op::RST);
    would_block(&stream);
}

#[test]
fn a_clone_is_reached_only_after_it_has_handled_the_reset() {
    let mut parent = Guest::boot(3);
    let mut clone = parent.fork(4);
    clone.handling_events = false;
    let stream = clone.handle.connect(AGENT).unwrap();
    clone.resume();
    nothing(&mut clone);
    assert_eq!(clone.resets, 0);
    clone.handling_events = true;
    clone.handle_events();
    assert_eq!(clone.resets, 1);
    let peer = asked(&mut clone);
    assert_eq!(peer.cid, 4);
    peer.say(&mut clone, op::RESPONSE);
    peer.data(&mut clone, b"clone here");
    assert_eq!(read_some(&stream), b"clone here");
}

#[test]
fn a_clone_of_a_clone_that_has_not_run_yet_handles_both_resets_first() {
    let mut parent = Guest::boot(3);
    let mut clone = parent.fork(4);
    clone.handling_events = false;
    clone.resume();
    clone.settle();
    let mut grandchild = clone.fork(5);
    let _stream = grandchild.handle.connect(AGENT).unwrap();
    grandchild.resume();
    nothing(&mut grandchild);
    grandchild.handling_events = true;
    grandchild.handle_events();
    assert_eq!((grandchild.resets, grandchild.cid), (2, 5));
    assert_eq!(asked(&mut grandchild).cid, 5);
}

#[test]
fn a_clone_whose_driver_starts_later_is_told_as_well() {
    let mut parent = Guest::power_on(3);
    let mut clone = parent.fork(4);
    let _stream = clone.handle.connect(AGENT).unwrap();
    clone.resume();
    clone.start_driver();
    clone.settle();
    assert_eq!(clone.resets, 1);
    assert_eq!(asked(&mut clone).cid, 4);
}

#[test]
fn packets_in_the_ring_at_the_fork_reach_the_parents_host_only() {
    let mut parent = Guest::boot(3);
    let (stream, peer) = connected(&mut parent);
    let header = Header {
        len: 4,
        ..peer.header(op::RW)
    };
    parent.place(header, b"once");
    let mut clone = parent.fork(4);
    clone.resume();
    clone.settle();
    would_block(&stream);
    assert_eq!(next(&mut clone).0.op, op::RST);
    parent.resume();
    parent.settle();
    assert_eq!(read_some(&stream), b"once");
    would_block(&stream);
}

#[test]
fn host_ports_of_a_clone_are_not_those_of_its_parents_connections() {
    let mut parent = Guest::boot(3);
    let (_stream, peer) = connected(&mut parent);
    let mut clone = parent.fork(4);
    clone.resume();
    clone.settle();
    let (_other, new) = connected(&mut clone);
    assert_ne!(new.host_port, peer.host_port);
}

#[test]
fn a_pause_without_a_fork_changes_nothing() {
    let mut guest = Guest::boot(3);
    let (stream, peer) = connected(&mut guest);
    guest.resume();
    guest.settle();
    assert_eq!(guest.resets, 0);
    peer.data(&mut guest, b"on we go");
    assert_eq!(read_some(&stream), b"on we go");
}
