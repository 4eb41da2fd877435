//! Doors for the fuzz targets: messages of other processes, decoded as they are where they
//! arrive, and encoded again.

use super::handover::{Birth, Confirmation, Order, Progress, ShellOrder, Steps};
use super::pool::{Answer, Request};
use super::record;
use super::rundir::RunDir;
use crate::identity;
use crate::machine::{FirstRun, slots};
use crate::snapshot::Primer;
use crate::sys::clock::Monotonic;
use hyperfork_api::guest::Failure;
use hyperfork_api::{Secrets, VmSpec, frame};
use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;

/// What these bytes say, in the encoder's own words; `None` when they are no message.
pub fn recode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    let message: T = frame::from_bytes(bytes).ok()?;
    Some(postcard::to_stdvec(&message).expect("what was decoded can be encoded"))
}

/// A message of the hand-over; `kind` says which is expected.
pub fn recode_handover(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind % 5 {
        0 => recode::<ShellOrder>(bytes),
        1 => recode::<Order>(bytes),
        2 => recode::<Progress>(bytes),
        3 => recode::<Confirmation>(bytes),
        _ => recode::<Primer>(bytes),
    }
}

/// A message to the pool, or its answer.
pub fn recode_pool(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind % 2 {
        0 => recode::<Request>(bytes),
        _ => recode::<Answer>(bytes),
    }
}

/// What is said when such a machine is booted and cloned, with the kind of each message for
/// [`recode_handover`].
pub fn handover_examples(spec: &VmSpec, primer: &Primer) -> Vec<(u8, Vec<u8>)> {
    let identity = identity::booted(&spec.name).expect("randomness");
    let birth = || {
        Box::new(Birth {
            info: record::born(spec, &identity, None),
            spec: spec.clone(),
            identity: identity.clone(),
            logged: 7,
            secrets: Secrets::default(),
        })
    };
    let run_dir = RunDir::at(PathBuf::from("/run/hyperfork"));
    let at = Monotonic::from_ns(1 << 40);
    let steps = Steps {
        received: at,
        memory: at,
        state: at,
        first_run: FirstRun {
            entered: at,
            exited: at,
        },
    };
    let shell = ShellOrder {
        run_dir: run_dir.path().to_owned(),
        dir: run_dir.vm(&spec.name),
        shape: slots::shape(spec),
        warm: true,
    };
    let touched = vec![0..0x1000, 0x8000..0xa000];
    let info = Box::new(record::born(spec, &identity, None));
    vec![
        (0, encode(&shell)),
        (1, encode(&Order::Boot(birth()))),
        (1, encode(&Order::Clone(birth()))),
        (1, encode(&Order::Prime(primer.clone()))),
        (2, encode(&Progress::Shell)),
        (2, encode(&Progress::Running(steps))),
        (2, encode(&Progress::Ready { at, info })),
        (2, encode(&Progress::Failed("no memory".into()))),
        (
            2,
            encode(&Progress::NoCommand(Failure::NotFound("x".into()))),
        ),
        (3, encode(&Confirmation { touched })),
        (4, encode(primer)),
    ]
}

/// What is said to the pool for such a machine, with the kind of each message for
/// [`recode_pool`].
pub fn pool_examples(spec: &VmSpec, primer: &Primer) -> Vec<(u8, Vec<u8>)> {
    let shape = slots::shape(spec);
    let (count, run_dir) = (3, RunDir::at(PathBuf::from("/run/hyperfork")));
    let answer = Answer {
        shells: vec![run_dir.shell(&spec.name); 2],
        left: 5,
    };
    let (kept, taken, warmed) = (shape.clone(), shape.clone(), shape.clone());
    vec![
        (0, encode(&Request::Keep(kept))),
        (
            0,
            encode(&Request::Take {
                shape: taken,
                count,
            }),
        ),
        (0, encode(&Request::Prime(primer.clone()))),
        (
            0,
            encode(&Request::Warm {
                shape: warmed,
                count,
            }),
        ),
        (0, encode(&Request::Settle(shape))),
        (1, encode(&answer)),
    ]
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("messages can be encoded")
}
