//! Both nodes were Primary while they did not see each other.

use mendblock_harness::disks::{self, BLOCK};
use mendblock_harness::pair::{Options, Pair, connection};

/// A block that both write, and one of each.
const BOTH: u64 = 100;
const OF_ALICE: u64 = 200;
const OF_BOB: u64 = 300;

fn block(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK as usize]
}

#[test]
fn nothing_is_overwritten_until_somebody_decides() {
    let mut pair = Pair::running(&Options::default());
    let (alice, bob) = (pair.alice.admin.clone(), pair.bob.admin.clone());
    alice.order(&["disconnect"]).expect_code(0);
    alice.wait_for("apart", 10, |volume| connection(volume) == "StandAlone");
    bob.wait_for("apart", 10, |volume| connection(volume) != "Connected");
    bob.order(&["primary"]).expect_code(0);
    for (node, own, byte) in [(&pair.alice, OF_ALICE, 0xAA), (&pair.bob, OF_BOB, 0xBB)] {
        let mut session = node.session();
        session.write(BOTH * BLOCK, &block(byte)).unwrap();
        session.write(own * BLOCK, &block(byte)).unwrap();
        session.flush().unwrap();
    }
    pair.bob.demote();

    alice.order(&["connect"]).expect_code(0);
    for admin in [&alice, &bob] {
        let volume = admin.wait_for("refused", 20, |volume| connection(volume) == "StandAlone");
        let why = volume
            .why
            .iter()
            .find(|why| why.code == "split-brain")
            .unwrap_or_else(|| panic!("no explanation: {volume:#?}"));
        assert!(why.remedy.contains("--discard-my-data"), "{why:?}");
        let shown = admin.command(&["status"]).expect_code(0);
        assert!(shown.out.contains("--discard-my-data"), "{shown:#?}");
        assert_eq!(volume.disk.state, "UpToDate");
    }
    // Nothing has been overwritten.
    assert_eq!(disks::block(&pair.alice, BOTH), block(0xAA));
    assert_eq!(disks::block(&pair.bob, BOTH), block(0xBB));

    // A Primary does not throw its data away.
    alice.order(&["connect", "--discard-my-data"]).expect_code(10);
    bob.order(&["connect", "--discard-my-data"]).expect_code(0);
    alice.order(&["connect"]).expect_code(0);
    pair.wait_in_sync(60);
    let mut session = pair.alice.session();
    for (number, byte) in [(BOTH, 0xAA), (OF_ALICE, 0xAA), (OF_BOB, 0)] {
        let read = session.read(number * BLOCK, BLOCK as u32).unwrap();
        assert!(read == block(byte), "block {number} is {:#x}", read[0]);
    }
    drop(session);
    pair.stop_and_compare();
    assert_eq!(disks::block(&pair.bob, BOTH), block(0xAA));
}

/// Both are still Primary when they see each other again.
#[test]
fn two_primaries_refuse_each_other() {
    let mut pair = Pair::running(&Options::default());
    let (alice, bob) = (pair.alice.admin.clone(), pair.bob.admin.clone());
    bob.order(&["disconnect"]).expect_code(0);
    bob.wait_for("apart", 10, |volume| connection(volume) == "StandAlone");
    bob.order(&["primary"]).expect_code(0);
    for (node, byte) in [(&pair.alice, 0xAA), (&pair.bob, 0xBB)] {
        node.session().write(BOTH * BLOCK, &block(byte)).unwrap();
    }
    bob.order(&["connect"]).expect_code(0);
    for admin in [&alice, &bob] {
        let volume = admin.wait_for("refused", 20, |volume| connection(volume) == "StandAlone");
        assert!(!volume.why.is_empty(), "no explanation: {volume:#?}");
        assert_eq!(
            (volume.role.as_str(), volume.disk.state.as_str()),
            ("Primary", "UpToDate")
        );
    }
    for (node, byte) in [(&pair.alice, 0xAA), (&pair.bob, 0xBB)] {
        let read = node.session().read(BOTH * BLOCK, BLOCK as u32).unwrap();
        assert!(
            read == block(byte),
            "{} was overwritten: {:#x}",
            node.settings.name,
            read[0]
        );
    }
    pair.alice.demote();
    alice.order(&["connect", "--discard-my-data"]).expect_code(0);
    bob.order(&["connect"]).expect_code(0);
    pair.wait_in_sync(60);
    pair.stop_and_compare();
    assert_eq!(disks::block(&pair.alice, BOTH), block(0xBB));
}
