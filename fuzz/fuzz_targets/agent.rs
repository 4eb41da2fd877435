//! Frames between host and guest: any bytes, as they come from the other side.
//!
//! The first byte says which message is expected.
#![no_main]

use hyperfork_api::frame::{self, MAX_BODY};
use hyperfork_api::guest::{Reply, Request, Stream};
use hyperfork_fuzz::check_recoding;
use hyperfork_host::fuzzing::recode;
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|input: &[u8]| {
    let Some((&kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 3 {
        0 => converse::<Request>(bytes),
        1 => converse::<Reply>(bytes),
        _ => converse::<Stream>(bytes),
    }
});

/// Both readers come to the same messages, and to the same end.
fn converse<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    check_recoding(bytes, recode::<T>);
    let (mut stream, mut buffer) = (bytes, bytes.to_vec());
    loop {
        let waited = frame::read::<T>(&mut stream);
        let taken = frame::decode::<T>(&mut buffer);
        match (waited, taken) {
            (Ok(Some(one)), Ok(Some(other))) => {
                assert!(one == other);
                assert_eq!(stream, buffer);
                let frame = frame::encode(&one).expect("what came in a frame fits into one");
                assert!(frame.len() <= 4 + MAX_BODY);
            }
            // A stream that ends within a frame is an error to the reader.
            (Ok(None) | Err(_), Ok(None)) | (Err(_), Err(_)) => return,
            _ => panic!("one reader sees a message and the other does not"),
        }
    }
}
