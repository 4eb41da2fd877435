//! Decodes KVM's structures in records, and insists on their exact size.
//!
//! The library's own decoding pads bytes that are too short with zeroes, and ignores those that are
//! too long. In a captured machine either means damage, or a structure of another kernel.

use serde::de::value::BytesDeserializer;
use serde::de::{Deserialize, Deserializer, Error};

/// One structure.
pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let bytes = <&[u8]>::deserialize(from)?;
    if bytes.len() != size_of::<T>() {
        return Err(D::Error::custom("one of KVM's structures has another size"));
    }
    T::deserialize(BytesDeserializer::new(bytes))
}

/// A list of structures.
pub(super) mod each {
    use super::{Deserialize, Deserializer};

    struct Exact<T>(T);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Exact<T> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            super::deserialize(from).map(Self)
        }
    }

    pub(in super::super) fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let all = Vec::<Exact<T>>::deserialize(from)?;
        Ok(all.into_iter().map(|Exact(one)| one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VcpuState, VmState};
    use hyperfork_state::{Record, RecordError};

    #[test]
    fn a_structure_of_another_size_is_refused_and_neither_padded_nor_cut() {
        for size in [size_of::<kvm_bindings::kvm_regs>() - 1, 128, 200] {
            let mut record = Record::of(&VcpuState::sample());
            let rest = record
                .bytes
                .split_off(2 + size_of::<kvm_bindings::kvm_regs>());
            // The general registers, with a length of two bytes before them.
            assert_eq!(record.bytes[..2], [0x90, 1]);
            record.bytes = vec![size as u8 | 0x80, (size >> 7) as u8];
            record.bytes.resize(2 + size, 7);
            record.bytes.extend(rest);
            let refused = record.decode::<VcpuState>().unwrap_err();
            assert!(
                matches!(refused, RecordError::Malformed { .. }),
                "{refused}"
            );
        }
        Record::of(&VmState::sample()).decode::<VmState>().unwrap();
    }
}
