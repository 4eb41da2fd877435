use super::*;
use crate::memfd;
use std::os::unix::fs::FileExt;

const PAGE: usize = 4096;

#[test]
fn addresses_stay_while_anything_refers_to_them() {
    let mut mapping = Mapping::reserve(PAGE).unwrap();
    mapping
        .place_shared(memfd::create("test", PAGE as u64).unwrap())
        .unwrap();
    let range = mapping.range().clone();
    drop(mapping);
    let slice = range.volatile(0, PAGE);
    slice.copy_from(&[5_u8; 8]);
    assert_eq!(range.bytes(0..9), [5, 5, 5, 5, 5, 5, 5, 5, 0]);
}

#[test]
fn many_ranges_are_read_at_once_and_overlapping_ones_are_no_trouble() {
    const PAGES: usize = 3000;
    let file = memfd::create("test", 0).unwrap();
    let bytes: Vec<u8> = (0..PAGES).map(|index| index as u8).collect();
    file.write_all_at(&bytes, 0).unwrap();
    let mut mapping = Mapping::reserve(PAGES * PAGE).unwrap();
    mapping
        .place_private(memfd::create("test", (PAGES * PAGE) as u64).unwrap())
        .unwrap();
    let ranges: Vec<_> = (0..PAGES)
        .map(|page| page * PAGE..page * PAGE + 1)
        .collect();
    mapping.read_into(&ranges, &file, 0).unwrap();
    let read: Vec<u8> = (0..PAGES)
        .map(|page| mapping.bytes(page * PAGE..page * PAGE + 1)[0])
        .collect();
    assert_eq!(read, bytes);
    mapping.read_into(&[0..4, 2..6], &file, 0).unwrap();
    assert_eq!(mapping.bytes(0..6), [0, 1, 4, 5, 6, 7]);
    let error = mapping.read_into(&ranges, &file, 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_is_left_to_read_begins_where_reading_ended() {
    let part = |at: usize, len| libc::iovec {
        iov_base: std::ptr::without_provenance_mut(at),
        iov_len: len,
    };
    let left = |read| {
        let mut parts = [part(100, 4), part(200, 0), part(300, 6)];
        let left = behind(&mut parts, read).iter();
        left.map(|part| (part.iov_base.addr(), part.iov_len))
            .collect::<Vec<_>>()
    };
    assert_eq!(left(1), [(101, 3), (200, 0), (300, 6)]);
    assert_eq!(left(4), [(300, 6)]);
    assert_eq!(left(9), [(305, 1)]);
    assert_eq!(left(10), []);
}
