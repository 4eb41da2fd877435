//! Entry points of the fuzz targets: messages of other processes are decoded as their receivers
//! do it, and encoded again.

use crate::config::{PoolConfig, Settings};
use crate::handover::{BuildShell, NewVm, Order, Progress, Steps, Touched};
use crate::pool::{Answer, Request};
use crate::run_dir::RunDir;
use crate::{identity, record};
use hyperfork_api::guest::Failure;
use hyperfork_api::{Code, Error, Secrets, VmSpec, frame};
use hyperfork_net::address::Pool as AddressPool;
use hyperfork_state::Shape;
use hyperfork_sys::clock::Monotonic;
use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;

/// Decodes a message and encodes it again; `None` when the bytes are no message.
pub fn recode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    let message: T = frame::from_bytes(bytes).ok()?;
    Some(postcard::to_stdvec(&message).expect("what was decoded can be encoded"))
}

/// A message of the hand-over, of the type that `kind` selects.
pub fn recode_handover(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind % 4 {
        0 => recode::<BuildShell>(bytes),
        1 => recode::<Order>(bytes),
        2 => recode::<Progress>(bytes),
        _ => recode::<Touched>(bytes),
    }
}

/// A message to the pool, or an answer of it, as `kind` selects.
pub fn recode_pool(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind % 2 {
        0 => recode::<Request>(bytes),
        _ => recode::<Answer>(bytes),
    }
}

/// The messages when such a machine is booted and cloned, with the kind of each message for
/// [`recode_handover`].
pub fn handover_examples(spec: &VmSpec, preload: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let at = Monotonic::from_ns(1 << 40);
    let identity = identity::booted(&spec.name).expect("randomness");
    let new = || {
        Box::new(NewVm {
            requested: at,
            info: record::initial_info(spec, &identity, None),
            spec: spec.clone(),
            identity: identity.clone(),
            logged: 7,
            secrets: Secrets::default(),
        })
    };
    let run_dir = RunDir::at(PathBuf::from("/run/hyperfork"));
    let steps = Steps {
        received: at,
        memory: at,
        state: at,
        entered: at,
        exited: at,
    };
    let shell = BuildShell {
        run_dir: run_dir.path().to_owned(),
        dir: run_dir.vm(&spec.name),
        shape: Shape::of(spec),
        warm: true,
        settings: Settings {
            pool: PoolConfig::DEFAULT,
            addresses: AddressPool::DEFAULT,
        },
    };
    let touched = vec![0..0x1000, 0x8000..0xa000];
    let info = Box::new(record::initial_info(spec, &identity, None));
    vec![
        (0, encode(&shell)),
        (1, encode(&Order::Boot(new()))),
        (1, encode(&Order::Clone(new()))),
        (1, encode(&Order::Preload(preload.to_vec()))),
        (2, encode(&Progress::Shell)),
        (2, encode(&Progress::Running(steps))),
        (2, encode(&Progress::Ready { at, info })),
        (
            2,
            encode(&Progress::Failed(Error::new(Code::Host, "no memory"))),
        ),
        (
            2,
            encode(&Progress::NoCommand(Failure::NotFound("x".into()))),
        ),
        (3, encode(&Touched(touched))),
    ]
}

/// The messages to the pool for such a machine, with the kind of each message for
/// [`recode_pool`].
pub fn pool_examples(spec: &VmSpec, preload: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let run_dir = RunDir::at(PathBuf::from("/run/hyperfork"));
    let answer = Answer {
        shells: vec![run_dir.shell(&spec.name); 2],
    };
    vec![
        (0, encode(&Request::Register(Shape::of(spec)))),
        (0, encode(&Request::Take(3))),
        (0, encode(&Request::Preload(preload.to_vec()))),
        (0, encode(&Request::Warm(3))),
        (0, encode(&Request::Settle)),
        (1, encode(&answer)),
    ]
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("messages can be encoded")
}
