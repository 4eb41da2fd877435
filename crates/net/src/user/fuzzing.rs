//! An entry point for the fuzz target of the packets that a guest sends through the user-mode network.

use super::packet::Datagram;

/// Reads any bytes as a packet; returns whether it is a datagram that is passed on.
///
/// # Panics
/// When what was read is not in the packet, or is written as something else.
pub fn read_packet(packet: &[u8]) -> bool {
    let Some(datagram) = Datagram::read(packet) else {
        return false;
    };
    let whole = packet.as_ptr_range();
    let text = datagram.text.as_ptr_range();
    assert!(whole.start <= text.start && text.end <= whole.end);
    let written = datagram
        .write()
        .expect("what came in a packet fits into one");
    assert!(
        written.len() <= packet.len(),
        "without options it is shorter"
    );
    assert_eq!(Datagram::read(&written), Some(datagram));
    true
}

/// A packet with such a datagram.
pub fn example(text: &[u8]) -> Vec<u8> {
    let datagram = Datagram {
        from: "10.77.0.2:4000".parse().expect("an address"),
        to: "10.0.0.1:53".parse().expect("an address"),
        text,
    };
    datagram.write().expect("a short text")
}
