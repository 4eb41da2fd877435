//! What the kernel answers over netlink, as the monitor and the agent read it.
#![no_main]

use hyperfork_netlink::route::listed_address;
use hyperfork_netlink::{Content, attributes, messages, refusals};
use libfuzzer_sys::fuzz_target;
use std::io;

fuzz_target!(|bytes: &[u8]| {
    let mut payloads = 0;
    for message in messages(bytes) {
        payloads += 16;
        if let Content::Other(kind, payload) = message.content {
            assert!(is_within(payload, bytes));
            let _ = listed_address(kind, payload);
            payloads += payload.len();
            let values = attributes(payload).map(|(_, value)| {
                assert!(is_within(value, payload));
                4 + value.len()
            });
            assert!(values.sum::<usize>() <= payload.len());
        }
    }
    assert!(payloads <= bytes.len(), "messages do not overlap");

    let mut rest = bytes;
    let refused = refusals(|buffer| match rest.len().min(buffer.len()) {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        len => {
            let (now, later) = rest.split_at(len);
            buffer[..len].copy_from_slice(now);
            rest = later;
            Ok(len)
        }
    });
    // What is refused has a number of the system's.
    assert!(refused.is_ok() || refused.is_err_and(|error| error.raw_os_error() > Some(0)));
});

fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}
