//! Property tests of a disk: compared with a model, and with hostile drivers.

use super::*;
use crate::devices::virtio::hostile;
use proptest::prelude::*;

/// What can happen to a disk, and to a model of it.
#[derive(Debug, Clone)]
enum Step {
    Write { at: u64, len: u64, byte: u8 },
    Zero { at: u64, len: u64 },
    Discard { at: u64, len: u64 },
    Fork,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SECTORS, 1u64..40).prop_map(|(at, len)| (at, len.min(SECTORS - at)));
    prop_oneof![
        6 => (range.clone(), 1u8..).prop_map(|((at, len), byte)| Step::Write { at, len, byte }),
        1 => range.clone().prop_map(|(at, len)| Step::Zero { at, len }),
        1 => range.prop_map(|(at, len)| Step::Discard { at, len }),
        3 => Just(Step::Fork),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_disk_reads_as_what_was_written_to_it_through_any_line_of_forks(
        steps in prop::collection::vec(step(), 0..40),
        unit in 1usize..60,
    ) {
        let dir = TempDir::new().unwrap();
        let mut driver = disk(&dir);
        let mut model: Vec<u8> = (0..SECTORS).map(|sector| sector as u8).collect();
        let mut ancestors = Vec::new();
        for step in steps {
            match step {
                Step::Write { at, len, byte } => {
                    prop_assert_eq!(write(&mut driver, at, &vec![byte; (len * SECTOR) as usize]), OK);
                    model[at as usize..(at + len) as usize].fill(byte);
                }
                Step::Zero { at, len } => {
                    let kind = VIRTIO_BLK_T_WRITE_ZEROES;
                    prop_assert_eq!(clear(&mut driver, kind, at, len as u32, 0), OK);
                    model[at as usize..(at + len) as usize].fill(0);
                }
                Step::Discard { at, len } => {
                    let kind = VIRTIO_BLK_T_DISCARD;
                    prop_assert_eq!(clear(&mut driver, kind, at, len as u32, 0), OK);
                    let whole = at.div_ceil(PER_CLUSTER)..(at + len) / PER_CLUSTER;
                    for cluster in whole {
                        let first = (cluster * PER_CLUSTER) as usize;
                        model[first..first + PER_CLUSTER as usize].fill(0);
                    }
                }
                Step::Fork => {
                    let child = fork(&driver, &dir);
                    ancestors.push((std::mem::replace(&mut driver, child), model.clone()));
                }
            }
        }
        ancestors.push((driver, model));
        for (driver, model) in &mut ancestors {
            for (at, sectors) in (0..).step_by(unit).zip(model.chunks(unit)) {
                let (status, data) = read(driver, at, (sectors.len() * 512) as u32);
                prop_assert_eq!(status, OK);
                let found: Vec<u8> = data.chunks(512).map(|sector| sector[511]).collect();
                prop_assert_eq!(&found, sectors);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_hostile_driver_gets_nowhere_and_never_changes_the_base(
        script in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let dir = TempDir::new().unwrap();
        let image = base();
        let block = block(image.try_clone().unwrap(), false, dir.path());
        hostile::drive(Box::new(block), &script);
        let mut content = vec![0; base_content().len()];
        image.read_exact_at(&mut content, 0).unwrap();
        prop_assert!(content == base_content());
    }
}

proptest! {
    #[test]
    fn whatever_a_driver_wants_cleared_no_more_is_than_it_names(
        discard: bool,
        sector in prop_oneof![4 => 0..SECTORS, 1 => any::<u64>()],
        sectors in prop_oneof![4 => 0..200u32, 1 => any::<u32>()],
        flags in prop_oneof![4 => 0..2u32, 1 => any::<u32>()],
        split in 0usize..32,
        surplus in 0usize..20,
    ) {
        let dir = TempDir::new().unwrap();
        let mut driver = disk(&dir);
        let kind = if discard { VIRTIO_BLK_T_DISCARD } else { VIRTIO_BLK_T_WRITE_ZEROES };
        let segment = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()];
        let request = [header(kind, 0), segment.concat(), vec![0; surplus]].concat();
        let (first, second) = request.split_at(split);
        let (_, buffers) = driver.request(0, &[first, second], &[1]);
        let named = sector..sector.saturating_add(sectors.into());
        if buffers[0] == [OK] {
            prop_assert!(named.end <= SECTORS && surplus == 0 && flags <= u32::from(!discard));
        } else {
            prop_assert!(named.end > SECTORS || surplus > 0 || flags > u32::from(!discard));
        }
        let (_, data) = read(&mut driver, 0, (SECTORS * SECTOR) as u32);
        for (sector, data) in (0..).zip(data.chunks(512)) {
            let whole = named.contains(&sector) && buffers[0] == [OK];
            match data[0] {
                0 if sector % 256 != 0 => prop_assert!(whole, "sector {sector} is lost"),
                byte if whole && !discard => prop_assert_eq!(byte, 0),
                byte => prop_assert_eq!(byte, sector as u8),
            }
        }
    }
}
