//! The lines of the control protocol ([`hyperfork_api::control`]), for both ends.

use hyperfork_api::control::{Greeting, Hello, Peer};
use serde::{Deserialize, Serialize};

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

/// What a peer's first line says that it is.
pub fn peer_in(line: &[u8]) -> Peer {
    /// A request or an answer of the first protocol.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum First {
        Request {
            #[serde(rename = "op")]
            _op: String,
        },
        Answer {
            #[serde(rename = "error")]
            _error: String,
        },
    }
    if let Ok(Greeting { hello }) = serde_json::from_slice(line) {
        return Peer::Greeted(hello);
    }
    match serde_json::from_slice::<First>(line) {
        Ok(_) => Peer::First,
        Err(_) => Peer::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::VmName;
    use hyperfork_api::control::{VERSION, hello};

    #[test]
    fn the_first_protocol_is_told_from_what_is_no_hyperfork() {
        for line in [
            r#"{"op":"info"}"#,
            r#"{"op":"stop","grace_ms":0}"#,
            r#"{"error":"not a request"}"#,
        ] {
            assert_eq!(peer_in(line.as_bytes()), Peer::First, "{line}");
        }
        let name = VmName::new("p").unwrap();
        for line in ["GET / HTTP/1.1", "", "\u{1b}", r#"{"hello":{}}"#, "7"] {
            let peer = peer_in(line.as_bytes());
            assert_eq!(peer, Peer::Unreadable, "{line}");
            for message in [hello::other_vm(&name, &peer), hello::other_client(&peer)] {
                assert!(!message.contains("older"), "{message}");
                assert!(message.contains(VERSION), "{message}");
            }
        }
    }
}
