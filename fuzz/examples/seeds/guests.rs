//! What guests write: 9p messages, and buffers in rings.

use crate::{ROOT, keep};
use std::fs;

/// What a client of a shared directory says: a session, and the same for a driver's buffers.
pub(crate) fn messages() {
    let u16 = |value: u16| value.to_le_bytes().to_vec();
    let u32 = |value: u32| value.to_le_bytes().to_vec();
    let u64 = |value: u64| value.to_le_bytes().to_vec();
    let text = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    let walk = |to: u32, name: &str| [u32(1), u32(to), u16(1), text(name)].concat();
    let sessions: [(&str, Vec<(u8, Vec<u8>)>); 4] = [
        (
            "read",
            vec![
                (110, walk(2, "file")),
                (12, [u32(2), u32(0)].concat()),
                (116, [u32(2), u64(0), u32(64)].concat()),
                (24, [u32(2), u64(0x7ff)].concat()),
                (8, u32(2)),
                (120, u32(2)),
            ],
        ),
        (
            "write",
            vec![
                (110, [u32(1), u32(3), u16(0)].concat()),
                (
                    14,
                    [u32(3), text("new"), u32(2), u32(0o644), u32(0)].concat(),
                ),
                (118, [u32(3), u64(4), u32(4), b"data".to_vec()].concat()),
                (50, [u32(3), u32(0)].concat()),
                (
                    26,
                    [u32(3), u32(8), u32(0), u32(0), u32(0), u64(2), vec![0; 32]].concat(),
                ),
                (122, u32(3)),
            ],
        ),
        (
            "names",
            vec![
                (72, [u32(1), text("made"), u32(0o755), u32(0)].concat()),
                (
                    16,
                    [u32(1), text("link"), text("../secret"), u32(0)].concat(),
                ),
                (110, walk(4, "link")),
                (22, u32(4)),
                (110, walk(5, "file")),
                (70, [u32(1), u32(5), text("hard")].concat()),
                (74, [u32(1), text("file"), u32(1), text("moved")].concat()),
                (20, [u32(5), u32(1), text("again")].concat()),
                (
                    18,
                    [u32(1), text("pipe"), u32(0o10644), u32(0), u32(0), u32(0)].concat(),
                ),
                (76, [u32(1), text("hard"), u32(0)].concat()),
            ],
        ),
        (
            "list",
            vec![
                (110, [u32(1), u32(6), u16(0)].concat()),
                (12, [u32(6), u32(0o200000)].concat()),
                (40, [u32(6), u64(0), u32(512)].concat()),
                (
                    52,
                    [u32(6), vec![0], u32(0), u64(0), u64(0), u32(1), text("me")].concat(),
                ),
                (
                    54,
                    [u32(6), vec![0], u64(0), u64(0), u32(1), text("me")].concat(),
                ),
                (108, u16(1)),
            ],
        ),
    ];
    let start = vec![
        (100, [u32(8192), text("9P2000.L")].concat()),
        (
            104,
            [u32(1), u32(u32::MAX), text("root"), text(""), u32(0)].concat(),
        ),
    ];
    let mut in_buffers = Vec::new();
    for (name, session) in sessions {
        let mut script = vec![0];
        for (kind, body) in start.iter().chain(&session) {
            script.extend([*kind, 64]);
            script.extend((body.len() as u16).to_le_bytes());
            script.extend(body);
            if name == "read" {
                in_buffers.extend((7 + body.len() as u32).to_le_bytes());
                in_buffers.extend([*kind, 1, 0]);
                in_buffers.extend(body);
            }
        }
        keep("p9", name, &script);
    }
    fs::write(format!("{ROOT}/seeds/messages.9p"), &in_buffers).expect("a file");
}

/// Drivers that offer buffers and have them served, by themselves and while they change.
pub(crate) fn scripts() {
    // Offers at slot `first`: two buffers of 16 bytes to read, one of 512 and one of a byte
    // to write.
    let offer = |first: u8| {
        let mut step = vec![0, 0, first, 3, 2];
        for (length, filled) in [(0, true), (0, true), (150, false), (60, false)] {
            step.extend([0, first.wrapping_mul(16), u8::from(first > 3), length]);
            if length == 150 {
                step.push(0);
            }
            step.push(0);
            if filled {
                step.push(0);
            }
        }
        step
    };
    let serve = vec![0, 100];
    let meddled = vec![0, 125, 3, 0, 8, 1, 0, 12, 4, 200, 0, 0, 3];
    let (host, save, reset) = (vec![0, 150], vec![0, 241], vec![0, 236]);
    let script = [
        offer(0),
        serve.clone(),
        offer(4),
        meddled,
        host,
        save,
        reset,
        offer(8),
        serve,
    ];
    let script = script.concat();
    for target in ["rng", "balloon", "block", "console", "net", "vsock"] {
        keep(target, "served", &script);
        for choice in 1..4 {
            keep(
                target,
                &format!("served-{choice}"),
                &[&[choice], &script[..]].concat(),
            );
        }
    }
    keep("p9", "driver", &[&[6], &script[..]].concat());
    keep(
        "ports",
        "fork",
        &[
            0, 0, 60, 0, 4, 1, 1, 0, 7, 225, 150, 60, 4, 4, 220, 230, 0, 150, 60, 0, 8,
        ],
    );
    keep(
        "ports",
        "serial",
        &[
            1, 0, 0, 1, 1, 2, 0, 0, 1, b'x', 150, 0, 5, 1, 250, 150, 130, 0, 8,
        ],
    );
    keep(
        "ports",
        "power",
        &[2, 0, 160, 4, 2, 0, 0x20, 0, 200, 0, 1, 0xfe],
    );
}
