use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn range(first: u64, count: u32) -> BlockRange {
    BlockRange::new(first, count).unwrap()
}

fn proof() -> Proof {
    Proof::resync_write(4, 5).unwrap()
}

#[test]
fn bits_lie_as_on_disk() {
    let mut map = DirtyMap::new(200_000);
    assert_eq!(map.set(BlockRange::single(125_000)), 1);
    let bytes = map.page_bytes(3);
    assert_eq!(bytes.iter().position(|byte| *byte != 0), Some(3337));
    assert_eq!(bytes[3337], 1);
}

#[test]
fn last_page_ends_with_the_volume() {
    let mut map = DirtyMap::new(PAGE_BITS + 10);
    assert_eq!(map.set_all(), PAGE_BITS + 10);
    assert_eq!(map.page_bytes(1)[..3], [0xFF, 0x03, 0]);
    assert_eq!(map.set(range(PAGE_BITS, 1000)), 0);
    assert_eq!(map.page_bytes(2), [0; PAGE_BYTES]);
    map.load_page(1, &[0xFF; PAGE_BYTES]).unwrap();
    assert_eq!(map.count(), PAGE_BITS + 10);
}

#[test]
fn a_smaller_volume_has_no_bits_behind_its_end() {
    let mut map = DirtyMap::new(3 * PAGE_BITS);
    map.set_all();
    map.resize(PAGE_BITS + 10);
    assert_eq!(
        (map.bits(), map.count(), map.page_count()),
        (PAGE_BITS + 10, PAGE_BITS + 10, 2)
    );
    assert_eq!(
        map.runs().map(|run| u64::from(run.count())).sum::<u64>(),
        map.count()
    );
    assert_eq!(map.page_bytes(1)[..3], [0xFF, 0x03, 0]);
    assert_eq!(
        map.changed_pages().map(|(page, _)| page).collect::<Vec<_>>(),
        [0, 1]
    );
    map.clear_all(proof());
    assert_eq!(map.count(), 0);
    map.set(range(PAGE_BITS + 9, 1));
    map.resize(PAGE_BITS);
    assert_eq!((map.count(), map.page_count()), (0, 1));
}

#[test]
fn what_a_larger_volume_has_more_is_out_of_sync() {
    let mut map = DirtyMap::new(PAGE_BITS + 10);
    map.set(range(3, 1));
    map.resize(2 * PAGE_BITS + 5);
    assert_eq!(map.count(), 1 + PAGE_BITS - 10 + 5);
    assert_eq!(map.next_set(4), Some(PAGE_BITS + 10));
    assert!(map.is_set(2 * PAGE_BITS + 4) && !map.is_set(PAGE_BITS + 9));
    // Shrunk and grown again: nothing of before is trusted.
    map.clear_all(proof());
    map.resize(5);
    map.resize(20);
    assert_eq!((map.count(), map.next_set(0)), (15, Some(5)));
}

#[test]
fn an_exact_multiple_of_64_keeps_its_last_word() {
    let mut map = DirtyMap::new(128);
    let mut bytes = [0; PAGE_BYTES];
    bytes[15] = 0x80;
    map.load_page(0, &bytes).unwrap();
    assert!(map.is_set(127));
}

#[test]
fn full_pages_share_memory_and_empty_pages_take_none() {
    let mut map = DirtyMap::new(3 * PAGE_BITS);
    map.set_all();
    assert!(
        map.pages
            .iter()
            .flatten()
            .all(|page| Arc::ptr_eq(page, &map.ones))
    );
    map.clear(range(5, 1), proof());
    map.set(range(5, 1));
    assert!(Arc::ptr_eq(map.pages[0].as_ref().unwrap(), &map.ones));
    map.clear_all(Proof::bulk(BulkReason::ClearedByAdmin));
    assert!(map.pages.iter().all(Option::is_none));
}

#[test]
fn page_changed_during_its_write_stays_changed() {
    let mut map = DirtyMap::new(PAGE_BITS);
    map.set(range(1, 1));
    let version = map.changed_version(0).unwrap();
    map.set(range(2, 1));
    assert!(!map.mark_written(0, version));
    let version = map.changed_version(0).unwrap();
    assert!(map.mark_written(0, version));
    assert_eq!(map.set(range(1, 2)), 0, "nothing new: the page stays unchanged");
    assert_eq!(map.changed_count(), 0);
    map.clear(range(1, 1), proof());
    assert_eq!(map.changed_pages().map(|(page, _)| page).collect::<Vec<_>>(), [0]);
}

#[test]
fn loading_keeps_what_memory_has_beyond_the_disk() {
    let mut map = DirtyMap::new(2 * PAGE_BITS);
    let mut bytes = [0; PAGE_BYTES];
    bytes[0] = 1;
    map.load_page(0, &bytes).unwrap();
    assert_eq!(map.changed_count(), 0);
    map.set(range(9, 1));
    map.load_page(0, &bytes).unwrap();
    assert_eq!((map.count(), map.changed_count()), (2, 1));
    bytes[1] = 2;
    map.load_page(0, &bytes).unwrap();
    assert_eq!((map.count(), map.changed_count()), (2, 0));
}

#[test]
fn pages_of_wrong_size_or_place_are_refused() {
    let mut map = DirtyMap::new(PAGE_BITS + 100);
    assert!(map.load_page(0, &[0; 4095]).is_err());
    assert!(map.load_page(0, &[0; 4097]).is_err());
    assert!(map.load_page(1, &[0; 13]).is_ok());
    assert!(map.load_page(1, &[0; 12]).is_err());
    assert_eq!(
        map.merge_page(2, &[0; 4096]),
        Err(PageError::OutOfRange { page: 2, pages: 2 })
    );
}

#[test]
fn a_clone_is_not_changed_with_its_origin() {
    let mut map = DirtyMap::new(PAGE_BITS);
    map.set(range(0, 100));
    let copy = map.clone();
    map.clear(range(0, 50), proof());
    assert_eq!((map.count(), copy.count()), (50, 100));
    assert_eq!(map.differing_pages(&copy).collect::<Vec<_>>(), [0]);
}

#[test]
fn evidence_of_an_older_generation_proves_nothing() {
    assert!(
        Proof::read_back(0x10, 0x11).is_some(),
        "bit 0 is the role, not the generation"
    );
    assert!(Proof::read_back(0x10, 0x12).is_none());
    assert!(Proof::mirrored_write(1, 3).is_none());
    assert!(Proof::equal_copies(1, 3).is_none());
    assert!(Proof::resync_write(1, 3).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64, u32),
    Clear(u64, u32),
    Merge(u32, Vec<u64>),
    Write(u32),
    SetAll,
}

const BITS: u64 = 3 * PAGE_BITS + 77;

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![1u32..200, 1u32..70_000];
    prop_oneof![
        8 => (0..BITS + 100, length.clone()).prop_map(|(first, count)| Step::Set(first, count)),
        6 => (0..BITS + 100, length).prop_map(|(first, count)| Step::Clear(first, count)),
        2 => (0u32..4, prop::collection::vec(0..PAGE_BITS, 0..20)).prop_map(|(page, bits)| Step::Merge(page, bits)),
        2 => (0u32..4).prop_map(Step::Write),
        1 => Just(Step::SetAll),
    ]
}

/// What the map must equal: the set bits, and the disk as written so far.
#[derive(Default)]
struct Model {
    set: BTreeSet<u64>,
    disk: [Vec<u8>; 4],
}

fn apply(map: &mut DirtyMap, model: &mut Model, step: &Step) {
    let before = model.set.len() as u64;
    match step {
        Step::Set(first, count) => {
            model
                .set
                .extend(range(*first, *count).iter().filter(|block| *block < BITS));
            assert_eq!(map.set(range(*first, *count)), model.set.len() as u64 - before);
        }
        Step::Clear(first, count) => {
            let gone = range(*first, *count);
            model.set.retain(|block| !gone.contains(*block));
            assert_eq!(map.clear(gone, proof()), before - model.set.len() as u64);
        }
        Step::Merge(page, bits) => {
            let mut bytes = [0; PAGE_BYTES];
            for bit in bits {
                bytes[(bit / 8) as usize] |= 1 << (bit % 8);
            }
            let blocks = bits.iter().map(|bit| u64::from(*page) * PAGE_BITS + bit);
            model.set.extend(blocks.filter(|block| *block < BITS));
            assert_eq!(
                map.merge_page(*page, &bytes).unwrap(),
                model.set.len() as u64 - before
            );
        }
        Step::Write(page) => {
            if let Some(version) = map.changed_version(*page) {
                model.disk[*page as usize] = map.page_bytes(*page).to_vec();
                assert!(map.mark_written(*page, version));
            }
        }
        Step::SetAll => {
            model.set.extend(0..BITS);
            assert_eq!(map.set_all(), BITS - before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn equals_a_set_of_blocks(steps in prop::collection::vec(step(), 1..20), at in 0..BITS, width in 1u32..50_000) {
        let mut map = DirtyMap::new(BITS);
        let mut model = Model { disk: std::array::from_fn(|_| vec![0; PAGE_BYTES]), ..Model::default() };
        for step in &steps {
            apply(&mut map, &mut model, step);
        }
        prop_assert_eq!(map.count(), model.set.len() as u64);
        prop_assert_eq!(map.next_set(at), model.set.range(at..).next().copied());
        prop_assert_eq!(map.is_set(at), model.set.contains(&at));
        let window = range(at, width);
        prop_assert_eq!(map.count_in(window), model.set.range(at..window.end()).count() as u64);
        prop_assert_eq!(map.any_in(window), model.set.range(at..window.end()).next().is_some());
        let from_runs: Vec<u64> = map.runs().flat_map(BlockRange::iter).collect();
        prop_assert!(from_runs.iter().eq(model.set.iter()));
        for run in map.runs() {
            prop_assert!(!model.set.contains(&run.end()), "a run is as long as possible");
        }
        if let Some(run) = map.next_run(at, 7) {
            let first = model.set.range(at..).next().copied().unwrap();
            let length = (first..first + 7).take_while(|block| model.set.contains(block)).count();
            prop_assert_eq!(run, range(first, length as u32));
        }
        for page in 0..4u32 {
            if map.changed_version(page).is_none() {
                prop_assert_eq!(&map.page_bytes(page)[..], &model.disk[page as usize][..], "unchanged = on disk");
            }
        }
        let mut copy = DirtyMap::new(BITS);
        for page in 0..map.page_count() {
            copy.load_page(page, &map.page_bytes(page)).unwrap();
        }
        prop_assert_eq!(copy.differing_pages(&map).count(), 0);
        prop_assert_eq!(copy.changed_count(), 0);
        let mut other = DirtyMap::new(BITS);
        other.set(range(10, 5));
        let union = map.count() + 5 - map.count_in(range(10, 5));
        other.merge(&map);
        prop_assert_eq!(other.count(), union);
    }
}
