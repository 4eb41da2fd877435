mod model;
mod preemption;

use super::clusters::CLUSTER;
use super::disk::SECTOR;
use super::*;
use crate::devices::virtio::testing::Driver;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::TempDir;

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// Sectors of the disks here.
const SECTORS: u64 = 1000;

/// Sectors of a cluster.
const PER_CLUSTER: u64 = CLUSTER / SECTOR;

/// A base image in which every sector holds its number.
fn base() -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&base_content(), 0).unwrap();
    file
}

fn base_content() -> Vec<u8> {
    (0..SECTORS)
        .flat_map(|sector| [sector as u8; SECTOR as usize])
        .collect()
}

fn overlays(dir: &TempDir) -> Overlays {
    Overlays::in_directory(dir.path()).unwrap()
}

fn block(base: File, read_only: bool, dir: &Path) -> Block {
    let overlays = Overlays::in_directory(dir).unwrap();
    Block::new(Base::raw(base).unwrap(), read_only, &overlays)
}

fn disk(dir: &TempDir) -> Driver {
    Driver::start(block(base(), false, dir.path()))
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn read(driver: &mut Driver, sector: u64, len: u32) -> (u8, Vec<u8>) {
    let (used, mut buffers) = driver.request(0, &[&header(VIRTIO_BLK_T_IN, sector)], &[len, 1]);
    let status = buffers[1][0];
    assert_eq!(used, if status == OK { len + 1 } else { 1 });
    (status, buffers.swap_remove(0))
}

fn write(driver: &mut Driver, sector: u64, data: &[u8]) -> u8 {
    let (used, buffers) = driver.request(0, &[&header(VIRTIO_BLK_T_OUT, sector), data], &[1]);
    assert_eq!(used, 1);
    buffers[0][0]
}

fn clear(driver: &mut Driver, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
    let segment = [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat();
    let (_, buffers) = driver.request(0, &[&header(kind, 0), &segment], &[1]);
    buffers[0][0]
}

/// A fork: the driver goes on in a clone with an overlay of its own.
fn fork(parent: &Driver, dir: &TempDir) -> Driver {
    let mut blobs = BlobWriter::default();
    let state = parent.lock().save(&mut blobs).unwrap();
    let block: BlockState = state.own.decode().unwrap();
    let clone = Block::restore(&block, blobs.reader(), &overlays(dir)).unwrap();
    parent.clone_into(clone, &state)
}

#[test]
fn a_disk_reads_as_its_base_image() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    let (status, data) = read(&mut driver, 7, 1024);
    assert_eq!(status, OK);
    assert_eq!(data, [[7; 512], [8; 512]].concat());
}

#[test]
fn the_capacity_is_in_the_configuration_space() {
    let dir = TempDir::new().unwrap();
    assert_eq!(u64::from(disk(&dir).read(0x100)), SECTORS);
}

#[test]
fn what_was_written_is_read_back_and_the_base_is_untouched() {
    let dir = TempDir::new().unwrap();
    let image = base();
    let block = block(image.try_clone().unwrap(), false, dir.path());
    let mut driver = Driver::start(block);
    assert_eq!(write(&mut driver, 9, &[0xee; 512]), OK);
    let (_, data) = read(&mut driver, 8, 3 * 512);
    assert_eq!(data, [[8; 512], [0xee; 512], [10; 512]].concat());
    let mut sector = [0; 512];
    image.read_exact_at(&mut sector, 9 * SECTOR).unwrap();
    assert_eq!(sector, [9; 512]);
}

#[test]
fn a_disk_that_was_only_read_has_no_overlay_file_and_an_overlay_has_no_name() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    read(&mut driver, 0, 512);
    write(&mut driver, 0, &[1; 512]);
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn requests_beyond_the_end_fail_and_change_nothing() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    for sector in [
        SECTORS,
        SECTORS - 1,
        u64::MAX,
        u64::MAX / 512,
        u64::MAX / 512 + 1,
    ] {
        assert_eq!(read(&mut driver, sector, 1024).0, IOERR);
        assert_eq!(write(&mut driver, sector, &[1; 1024]), IOERR);
    }
    assert_eq!(
        read(&mut driver, SECTORS - 1, 512),
        (OK, vec![(SECTORS - 1) as u8; 512])
    );
}

#[test]
fn a_request_of_part_of_a_sector_fails() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    assert_eq!(read(&mut driver, 0, 100).0, IOERR);
    assert_eq!(write(&mut driver, 0, &[1; 513]), IOERR);
}

#[test]
fn an_unknown_request_is_unsupported() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    let (_, buffers) = driver.request(0, &[&header(99, 0)], &[1]);
    assert_eq!(buffers[0], [UNSUPP]);
}

#[test]
fn a_flush_succeeds_and_the_disk_tells_its_name() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    let (_, buffers) = driver.request(0, &[&header(VIRTIO_BLK_T_FLUSH, 0)], &[1]);
    assert_eq!(buffers[0], [OK]);
    let (_, buffers) = driver.request(0, &[&header(VIRTIO_BLK_T_GET_ID, 0)], &[20, 1]);
    assert_eq!(&buffers[0][..10], b"hyperfork\0");
    assert_eq!(buffers[1], [OK]);
}

#[test]
fn header_data_and_status_may_be_split_anywhere() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    let header = header(VIRTIO_BLK_T_IN, 3);
    let (used, buffers) = driver.request(0, &[&header[..5], &header[5..]], &[100, 500, 424, 0, 1]);
    assert_eq!(used, 1025);
    assert_eq!(buffers.concat(), [&[3; 512][..], &[4; 512], &[OK]].concat());
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let dir = TempDir::new().unwrap();
    let mut driver = Driver::start(block(base(), true, dir.path()));
    assert_ne!(driver.offered_features() & (1 << VIRTIO_BLK_F_RO), 0);
    assert_eq!(write(&mut driver, 0, &[1; 512]), IOERR);
    assert_eq!(clear(&mut driver, VIRTIO_BLK_T_DISCARD, 0, 8, 0), UNSUPP);
    assert_eq!(read(&mut driver, 0, 512), (OK, vec![0; 512]));
}

#[test]
fn the_last_sector_of_an_odd_image_ends_in_zeroes() {
    let dir = TempDir::new().unwrap();
    let image = tempfile::tempfile().unwrap();
    image.write_all_at(&[7; 700], 0).unwrap();
    let mut driver = Driver::start(block(image, false, dir.path()));
    let (status, data) = read(&mut driver, 0, 1024);
    assert_eq!(
        (status, &data[..700], &data[700..]),
        (OK, &[7; 700][..], &[0; 324][..])
    );
    assert_eq!(write(&mut driver, 1, &[9; 512]), OK);
    let (_, data) = read(&mut driver, 0, 1024);
    assert_eq!(data, [[7; 512], [9; 512]].concat());
}

#[test]
fn an_image_that_is_cut_under_a_running_machine_fails_reads_instead_of_inventing_data() {
    let dir = TempDir::new().unwrap();
    let image = base();
    let block = block(image.try_clone().unwrap(), false, dir.path());
    let mut driver = Driver::start(block);
    image.set_len(512).unwrap();
    assert_eq!(read(&mut driver, 1, 512).0, IOERR);
    assert_eq!(read(&mut driver, 0, 512).0, OK);
}

#[test]
fn a_host_that_cannot_keep_an_overlay_fails_writes_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let nowhere = dir.path().join("missing");
    let mut driver = Driver::start(block(base(), false, &nowhere));
    assert_eq!(write(&mut driver, 0, &[1; 512]), IOERR);
    assert_eq!(
        clear(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0),
        IOERR
    );
    assert_eq!(read(&mut driver, 0, 512), (OK, vec![0; 512]));
    std::fs::create_dir(&nowhere).unwrap();
    assert_eq!(write(&mut driver, 0, &[1; 512]), OK);
}

#[test]
fn zeroed_and_discarded_sectors_read_as_zeroes_and_their_neighbours_as_before() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    for flags in [0, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP] {
        assert_eq!(
            clear(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 3, 22, flags),
            OK
        );
        let (_, data) = read(&mut driver, 2, 24 * 512);
        assert_eq!(data, [&[2; 512][..], &[0; 22 * 512], &[25; 512]].concat());
    }
    assert_eq!(clear(&mut driver, VIRTIO_BLK_T_DISCARD, 80, 8, 0), OK);
    let (_, data) = read(&mut driver, 79, 10 * 512);
    assert_eq!(data, [&[79; 512][..], &[0; 8 * 512], &[88; 512]].concat());
    assert_eq!(write(&mut driver, 81, &[5; 512]), OK);
    let (_, data) = read(&mut driver, 80, 3 * 512);
    assert_eq!(data, [[0; 512], [5; 512], [0; 512]].concat());
}

#[test]
fn clearing_beyond_the_end_or_with_unknown_flags_fails() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    assert_eq!(
        clear(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, SECTORS, 1, 0),
        IOERR
    );
    assert_eq!(
        clear(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, u32::MAX, 0),
        IOERR
    );
    assert_eq!(
        clear(&mut driver, VIRTIO_BLK_T_DISCARD, u64::MAX, 8, 0),
        IOERR
    );
    assert_eq!(clear(&mut driver, VIRTIO_BLK_T_DISCARD, 0, 8, 1), UNSUPP);
    assert_eq!(
        clear(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2),
        UNSUPP
    );
}

#[test]
fn a_request_without_a_place_for_the_status_needs_a_reset() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    driver.offer(0, &[&header(VIRTIO_BLK_T_OUT, 0), &[1; 512]], &[]);
    driver.lock().process_queue(0);
    assert_eq!(driver.take_used(0), None);
    assert_ne!(driver.read(0x70) & 0x40, 0);
}

#[test]
fn neither_parent_nor_clones_see_what_the_others_write_after_the_fork() {
    let dir = TempDir::new().unwrap();
    let mut parent = disk(&dir);
    write(&mut parent, 0, &[100; 1024]);
    let mut first = fork(&parent, &dir);
    write(&mut parent, 1, &[101; 512]);
    let mut second = fork(&parent, &dir);
    write(&mut parent, 2, &[102; 512]);
    write(&mut first, 3, &[103; 512]);
    write(&mut second, 4, &[104; 512]);
    let mut grandchild = fork(&first, &dir);
    write(&mut first, 5, &[105; 512]);
    write(&mut grandchild, 6, &[106; 512]);

    let expect = |driver: &mut Driver, sectors: [u8; 8]| {
        let (_, data) = read(driver, 0, 8 * 512);
        let found: Vec<u8> = data.chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(found, sectors);
    };
    expect(&mut parent, [100, 101, 102, 3, 4, 5, 6, 7]);
    expect(&mut first, [100, 100, 2, 103, 4, 105, 6, 7]);
    expect(&mut second, [100, 101, 2, 3, 104, 5, 6, 7]);
    expect(&mut grandchild, [100, 100, 2, 103, 4, 5, 106, 7]);
}

#[test]
fn a_write_that_is_in_the_ring_at_the_fork_happens_in_both_each_on_its_own_disk() {
    let dir = TempDir::new().unwrap();
    let mut parent = disk(&dir);
    parent.offer(0, &[&header(VIRTIO_BLK_T_OUT, 0), &[77; 512]], &[1]);
    let mut clone = fork(&parent, &dir);
    for driver in [&mut parent, &mut clone] {
        driver.lock().resume();
        assert_eq!(driver.take_used(0).map(|(_, len)| len), Some(1));
        assert_eq!(read(driver, 0, 512), (OK, vec![77; 512]));
    }
    write(&mut clone, 0, &[78; 512]);
    assert_eq!(read(&mut parent, 0, 512), (OK, vec![77; 512]));
}

#[test]
fn frozen_layers_cannot_be_written_through_what_a_clone_is_given() {
    let dir = TempDir::new().unwrap();
    let mut parent = disk(&dir);
    write(&mut parent, 0, &[1; 512]);
    let mut blobs = BlobWriter::default();
    let state = parent.lock().save(&mut blobs).unwrap();
    let block: BlockState = state.own.decode().unwrap();
    let layer = File::from(blobs.reader().open(block.disk.layers[0].file).unwrap());
    assert!(layer.write_at(&[2], 0).is_err());
}

#[test]
fn forking_without_writing_in_between_adds_no_layers() {
    let dir = TempDir::new().unwrap();
    let mut parent = disk(&dir);
    write(&mut parent, 0, &[1; 512]);
    for _ in 0..3 {
        let mut blobs = BlobWriter::default();
        parent.lock().save(&mut blobs).unwrap();
        assert_eq!(blobs.reader().table().len(), 2, "base and one layer");
    }
}

#[test]
fn a_long_line_of_forks_has_few_layers() {
    let dir = TempDir::new().unwrap();
    let mut driver = disk(&dir);
    let mut model = vec![0; SECTORS as usize];
    for (sector, byte) in model.iter_mut().enumerate() {
        *byte = sector as u8;
    }
    for round in 0..200u64 {
        let sector = round * 37 % SECTORS;
        write(&mut driver, sector, &[round as u8; 512]);
        model[sector as usize] = round as u8;
        driver = fork(&driver, &dir);
        let mut blobs = BlobWriter::default();
        driver.lock().save(&mut blobs).unwrap();
        assert!(blobs.reader().table().len() <= 1 + 8, "round {round}");
    }
    for (sector, byte) in model.iter().enumerate() {
        assert_eq!(
            read(&mut driver, sector as u64, 512),
            (OK, vec![*byte; 512])
        );
    }
}

#[test]
fn a_discard_hides_what_is_below_gives_storage_back_and_takes_none_when_layers_are_joined() {
    let dir = TempDir::new().unwrap();
    let base = tempfile::tempfile().unwrap();
    base.set_len(64 << 20).unwrap();
    base.write_all_at(&[9; 512], 40 << 20).unwrap();
    let mut driver = Driver::start(block(base, false, dir.path()));
    let half = (8 << 20) / SECTOR as u32;
    for mib in 0..16 {
        assert_eq!(write(&mut driver, mib << 11, &[7; 64 << 10]), OK);
    }
    driver = fork(&driver, &dir);
    assert_eq!(clear(&mut driver, VIRTIO_BLK_T_DISCARD, 80 << 10, 8, 0), OK);
    // Layers of equal size, so many that they are joined.
    for round in 0..20 {
        let first = round % 2 * u64::from(half);
        assert_eq!(clear(&mut driver, VIRTIO_BLK_T_DISCARD, first, half, 0), OK);
        driver = fork(&driver, &dir);
        assert_eq!(write(&mut driver, (20 << 11) + 8 * round, &[1; 512]), OK);
    }
    let mut blobs = BlobWriter::default();
    driver.lock().save(&mut blobs).unwrap();
    // Of all but the base.
    let count = blobs.reader().table().len();
    let (_, fds) = blobs.into_parts();
    let stored: u64 = fds.as_slice()[1..]
        .iter()
        .map(|fd| rustix::fs::fstat(fd).unwrap().st_blocks as u64 * 512)
        .sum();
    assert!(stored < 1 << 20, "{stored} bytes");
    assert!(count < 10);
    for sector in [0, 15 << 11, 80 << 10] {
        assert_eq!(read(&mut driver, sector, 512), (OK, vec![0; 512]));
    }
    assert_eq!(read(&mut driver, 20 << 11, 512), (OK, vec![1; 512]));
}

#[test]
fn a_state_that_does_not_fit_its_disk_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut parent = disk(&dir);
    write(&mut parent, 0, &[1; 512]);
    let mut blobs = BlobWriter::default();
    let state = parent.lock().save(&mut blobs).unwrap();
    let good: BlockState = state.own.decode().unwrap();
    let refused = |change: fn(&mut BlockState)| {
        let mut state = good.clone();
        change(&mut state);
        Block::restore(&state, blobs.reader(), &overlays(&dir)).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|state| state.disk.len += 512));
    assert!(refused(
        |state| state.disk.layers[0].clusters[0].first = 1 << 40
    ));
    assert!(refused(
        |state| state.disk.layers[0].clusters[0].count = u64::MAX
    ));
}
