//! The lines of the control protocol ([`hyperfork_api::control`]), for both ends.

use hyperfork_api::control::{Greeting, Hello};
use serde::Serialize;

/// A document as a line of JSON, with the newline.
pub fn line_of(document: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(document).expect("what is sent is plain data");
    line.push(b'\n');
    line
}

/// Our [`Hello`] as a line.
pub fn greeting() -> Vec<u8> {
    line_of(&Greeting {
        hello: Hello::ours(),
    })
}

/// The [`Hello`] in a peer's first line; `None` for a line that is none, as in the first
/// protocol.
pub fn hello_in(line: &[u8]) -> Option<Hello> {
    let greeting: Greeting = serde_json::from_slice(line).ok()?;
    Some(greeting.hello)
}
