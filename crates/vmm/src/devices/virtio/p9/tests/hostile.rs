//! Tests of clients that ask for what is not offered, and of malformed messages.

use super::*;
use crate::devices::virtio::hostile;
use crate::devices::virtio::testing::STATUS;
use proptest::prelude::*;
use std::os::unix::fs::symlink;

#[test]
fn what_is_not_offered_is_refused() {
    let mut client = Client::mount();
    for kind in [0, 30, 32, 102, 104 - 2, 125, 255] {
        assert_eq!(
            client.ask(kind, &[D(ROOT)]),
            Err(Errno::OPNOTSUPP),
            "request {kind}"
        );
    }
    let version = client
        .ask(request::VERSION, &[D(8192), S("9P2000")])
        .unwrap();
    assert_eq!(version, frame(0, &[D(8192), S("unknown")])[HEADER_LEN..]);
}

#[test]
fn a_message_cut_short_is_a_protocol_error() {
    let mut client = Client::mount();
    let whole = frame(request::WALK, &[D(ROOT), D(FID), W(1), S("name")]);
    for len in HEADER_LEN..whole.len() {
        let mut cut = whole[..len].to_vec();
        cut[..4].copy_from_slice(&(len as u32).to_le_bytes());
        assert_eq!(client.ask_raw(&cut, 100), Err(Errno::PROTO));
    }
}

#[test]
fn a_frame_that_lies_about_its_length_stops_the_device() {
    for size in [0, 6, 100, u32::MAX] {
        let mut client = Client::mount();
        let mut message = frame(request::CLUNK, &[D(ROOT)]);
        message[..4].copy_from_slice(&size.to_le_bytes());
        client.driver.offer(0, &[&message], &[64]);
        client.driver.lock().process_queue(0);
        assert_eq!(client.driver.read(STATUS) & 0x40, 0x40, "size {size}");
    }
}

/// A request of a known kind or not, with fields that often mean something.
fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("..".to_owned()),
        Just("../x".to_owned()),
        ".{0,5}",
    ];
    let field = prop_oneof![
        (0u32..6).prop_map(|v| v.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|v| v.to_le_bytes().to_vec()),
        (0u64..10_000).prop_map(|v| v.to_le_bytes().to_vec()),
        (0u16..3).prop_map(|v| v.to_le_bytes().to_vec()),
        any::<u8>().prop_map(|v| vec![v]),
        name.prop_map(|s| [&(s.len() as u16).to_le_bytes(), s.as_bytes()].concat()),
    ];
    let kind = prop_oneof![
        4 => (4u8..62).prop_map(|k| k * 2),
        1 => any::<u8>(),
    ];
    (kind, proptest::collection::vec(field, 0..7)).prop_map(|(kind, fields)| {
        let body = fields.concat();
        let size = (HEADER_LEN + body.len()) as u32;
        [&size.to_le_bytes()[..], &[kind, 7, 0], &body].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_request_makes_the_server_panic_or_reach_outside(
        requests in proptest::collection::vec(any_request(), 1..60),
    ) {
        let mut client = Client::mount();
        fs::write(client.dir.path().join("secret"), b"secret").unwrap();
        symlink("..", client.host("a")).unwrap();
        client.find(FID, &[]);
        client.find(OTHER, &[]);
        for request in &requests {
            // `ask_raw` checks that every answer is one.
            let _ = client.ask_raw(request, 300);
        }
        let outside: Vec<_> = fs::read_dir(client.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert_eq!(outside.len(), 2);
        prop_assert_eq!(fs::read(client.dir.path().join("secret")).unwrap(), b"secret");
    }

    #[test]
    fn no_driver_makes_the_device_panic(script in proptest::collection::vec(any::<u8>(), 0..400)) {
        let dir = tempfile::tempdir().unwrap();
        let device = P9::new("share", dir.path(), false).unwrap();
        hostile::drive(Box::new(device), &script);
    }
}
