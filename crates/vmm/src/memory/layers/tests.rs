use super::*;
use crate::sys::hands::NoHelpers;
use crate::sys::memfd::{self, MemoryFile};
use proptest::prelude::*;

const LEN: usize = 40;

fn frozen(contents: &[u8]) -> FrozenFile {
    let file = MemoryFile::create("test", 0).unwrap();
    file.write_all_at(contents, 0).unwrap();
    file.freeze().unwrap()
}

/// A long file of nothing.
fn empty(len: u64) -> FrozenFile {
    MemoryFile::create("test", len).unwrap().freeze().unwrap()
}

/// Any pages, and what is written to each of them.
fn writes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::btree_map(0..LEN, any::<u8>(), 0..12)
        .prop_map(|pages| pages.into_iter().collect())
}

proptest! {
    #[test]
    fn what_was_put_last_is_what_is_read(rounds in prop::collection::vec(writes(), 0..10)) {
        let mut layers = Layers::default();
        let mut model = vec![None; LEN];
        for round in rounds {
            let contents: Vec<u8> = round.iter().map(|&(_, byte)| byte).collect();
            let file = frozen(&contents);
            let pages: Vec<_> = round.iter().map(|&(page, _)| page..page + 1).collect();
            layers.put(Layers::of(ranges::union(&pages, &[]), file));
            for (page, byte) in round {
                model[page] = Some(byte);
            }
            let mut read = vec![None; LEN];
            for piece in &layers.pieces {
                let mut bytes = vec![0; piece.range.len()];
                layers.files[piece.file].read_exact_at(&mut bytes, piece.offset).unwrap();
                for (page, byte) in piece.range.clone().zip(bytes) {
                    read[page] = Some(byte);
                }
            }
            prop_assert_eq!(&read, &model);
            prop_assert!(layers.are_within(LEN));
            let written = model.iter().flatten().count();
            prop_assert_eq!(layers.len(), written);
            prop_assert_eq!(layers.ranges().iter().map(Range::len).sum::<usize>(), written);
            // No file is kept for nothing.
            let seen: std::collections::BTreeSet<_> = layers.pieces.iter().map(|piece| piece.file).collect();
            prop_assert_eq!(seen.len(), layers.depth());
        }
    }
}

#[test]
fn they_travel_whole_or_not_at_all() {
    let file = empty(1 << 41);
    let mut layers = Layers::of(vec![1..4, 6..1 << 40], file.clone());
    layers.put(Layers::of(vec![2..3, 8..9], file));
    let mut fds = FdTable::default();
    let sent = postcard::to_stdvec(&layers.save(&mut fds).unwrap()).unwrap();
    let state: LayersState = postcard::from_bytes(&sent).unwrap();
    let arrived = Layers::restore(state, &fds).unwrap();
    assert_eq!(arrived.pieces, layers.pieces);
    assert_eq!(arrived.depth(), 2);
    // A piece of which the last byte is missing.
    let mut cut = postcard::to_stdvec(&(Vec::<u32>::new(), &[0u8; 31][..])).unwrap();
    assert!(postcard::from_bytes::<LayersState>(&cut).is_err());
    cut.clear();
    assert!(postcard::from_bytes::<LayersState>(&cut).is_err());
}

#[test]
fn what_arrives_by_a_descriptor_that_writes_or_lies_outside_of_its_file_is_refused() {
    let layers = Layers::of(vec![0..4096, 8192..12288], empty(8192));
    let mut fds = FdTable::default();
    let state = layers.save(&mut fds).unwrap();
    Layers::restore(state.clone(), &fds).unwrap();
    let kind = |state, fds: &FdTable| Layers::restore(state, fds).unwrap_err().kind();
    for (file, offset) in [(0, 4097), (0, u64::MAX - 100), (1, 0)] {
        let mut state = state.clone();
        (state.pieces[1].file, state.pieces[1].offset) = (file, offset);
        assert_eq!(kind(state, &fds), io::ErrorKind::InvalidData);
    }
    let unsealed = memfd::create("test", 8192).unwrap();
    let fds = FdTable::new(vec![unsealed.into()]);
    assert_eq!(kind(state.clone(), &fds), io::ErrorKind::InvalidData);
    assert!(Layers::restore(state, &FdTable::default()).is_err());
}

#[test]
fn they_are_read_into_memory_from_wherever_they_lie() {
    const PAGE: usize = 4096;
    let file = |byte: u8, pages: usize| frozen(&vec![byte; pages * PAGE]);
    let pages = |pages: Range<usize>| pages.start * PAGE..pages.end * PAGE;
    let mut layers = Layers::of(vec![pages(1..4), pages(6..8)], file(1, 5));
    layers.put(Layers::of(vec![pages(2..3), pages(7..9)], file(2, 3)));
    let mut mapping = Mapping::reserve(16 * PAGE).unwrap();
    let backing = memfd::create("test", 16 * PAGE as u64).unwrap();
    mapping.place_private(&backing).unwrap();
    layers.read_into(&mapping, &NoHelpers).unwrap();
    let first_bytes: Vec<u8> = (0..10)
        .map(|page| mapping.bytes(pages(page..page + 1))[0])
        .collect();
    assert_eq!(first_bytes, [0, 1, 2, 1, 0, 0, 1, 2, 2, 0]);
}

#[test]
fn a_file_that_is_too_short_is_an_error() {
    const LEN: usize = 1 << 20;
    let file = empty(LEN as u64 - 1);
    let pages = (0..LEN).step_by(8192).map(|at| at..at + 4096).collect();
    let short = Layers::of_parts(vec![(pages, LEN / 2)], file);
    let mut mapping = Mapping::reserve(LEN).unwrap();
    let backing = memfd::create("test", LEN as u64).unwrap();
    mapping.place_private(&backing).unwrap();
    let error = short.read_into(&mapping, &NoHelpers).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
