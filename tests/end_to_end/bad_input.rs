//! Disks and configurations that are not what they should be: a clear error, and the other node goes on serving.

use mendblock_harness::admin::{mendblock, text};
use mendblock_harness::disks::{self, BLOCK};
use mendblock_harness::history::History;
use mendblock_harness::load::{Load, check_all};
use mendblock_harness::pair::{Options, Pair, connection, peer_disk};
use std::fs::{self, File};
use std::sync::Arc;

const BUSY: std::ops::Range<u64> = 0..1024;

/// The Secondary's disk is damaged by `damage` while its node is down: it stays Diskless with a clear reason, while the
/// Primary serves its clients; new meta-data and an attach bring it back.
fn damaged(damage: impl Fn(&Pair), words: &[&str]) {
    let mut pair = Pair::running(&Options {
        disk_bytes: 32 << 20,
        ..Options::default()
    });
    pair.bob.stop();
    damage(&pair);
    let load = Load::start(&pair.alice, Arc::<History>::default(), BUSY, 1);
    load.progress(20, 20);
    pair.bob.start();
    let (alice, bob) = (&pair.alice.admin, &pair.bob.admin);
    alice.wait_for("connected without the peer's disk", 30, |volume| {
        connection(volume) == "Connected" && peer_disk(volume) == "Diskless"
    });
    assert_eq!(bob.volume().disk.state, "Diskless");
    let refused = bob.order(&["attach"]).expect_code(10);
    for word in words {
        refused.expect_error(word);
    }
    load.progress(20, 20);

    File::options()
        .write(true)
        .open(&pair.bob.disk)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    pair.bob.offline(&["create-md", "--force"]).expect_code(0);
    let attached = bob.order(&["attach"]);
    assert_eq!(attached.code, Some(0), "{attached:#?}");
    pair.wait_in_sync(60);
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

#[test]
fn metadata_that_are_overwritten() {
    damaged(
        |pair| disks::poke(&pair.bob, &[0xA5; 4096], (32 << 20) - 4096),
        &["meta-data"],
    );
}

#[test]
fn a_truncated_disk() {
    damaged(
        |pair| {
            let disk = File::options().write(true).open(&pair.bob.disk).unwrap();
            disk.set_len(31 << 20).unwrap();
        },
        &["meta-data"],
    );
}

#[test]
fn a_disk_that_is_gone_and_comes_back() {
    let mut pair = Pair::running(&Options {
        disk_bytes: 32 << 20,
        ..Options::default()
    });
    pair.bob.stop();
    let away = pair.disks.path().join("away");
    fs::rename(&pair.bob.disk, &away).unwrap();
    pair.bob.start();
    // The node's own attempt may still be under way.
    pair.bob.admin.wait_for("the missing file is named", 10, |_| {
        let refused = pair.bob.admin.order(&["attach"]).expect_code(10);
        refused.errors.contains(text(&pair.bob.disk))
    });
    let mut session = pair.alice.session();
    session.write(0, &[7; BLOCK as usize]).unwrap();
    drop(session);
    fs::rename(&away, &pair.bob.disk).unwrap();
    pair.bob.admin.order(&["attach"]).expect_code(0);
    pair.stop_and_compare();
}

/// An activity log and a bitmap of garbage: the disk is resynced as a whole rather than trusted.
#[test]
fn a_bitmap_and_a_log_of_garbage() {
    let mut pair = Pair::running(&Options {
        disk_bytes: 32 << 20,
        ..Options::default()
    });
    pair.bob.kill();
    let dump = disks::dump(&pair.bob);
    let mut session = pair.alice.session();
    session.write(5 * BLOCK, &[9; BLOCK as usize]).unwrap();
    drop(session);
    let (from, to) = (
        disks::number(&dump, "bm-offset"),
        disks::number(&dump, "md-offset"),
    );
    for at in [from, disks::number(&dump, "al-offset")] {
        disks::poke(&pair.bob, &[0xC3; 4096], at);
    }
    assert!(from < to);
    pair.bob.start();
    pair.stop_and_compare();
}

/// The smaller disk is what both have room for.
#[test]
fn disks_of_different_sizes() {
    let mut pair = Pair::bare(&Options::default());
    let small = 40 << 20;
    File::options()
        .write(true)
        .open(&pair.bob.disk)
        .unwrap()
        .set_len(small)
        .unwrap();
    for node in [&pair.alice, &pair.bob] {
        node.offline(&["create-md"]).expect_code(0);
    }
    pair.bring_up();
    let size = pair.alice.admin.volume().size_bytes;
    assert!(size < small && size > small - (1 << 20), "{size}");
    assert_eq!(pair.bob.admin.volume().size_bytes, size);
    let mut session = pair.alice.session();
    assert_eq!(session.size, size);
    session.write(size - BLOCK, &vec![0x3C; BLOCK as usize]).unwrap();
    session.write(size, &vec![0x3C; BLOCK as usize]).unwrap_err();
    drop(session);

    // A larger disk in its place: the volume stays as large as it was, and is copied as a whole.
    pair.bob.stop();
    let disk = File::options().write(true).open(&pair.bob.disk).unwrap();
    disk.set_len(0).unwrap();
    disk.set_len(96 << 20).unwrap();
    pair.bob.offline(&["create-md", "--force"]).expect_code(0);
    pair.bob.start();
    pair.wait_in_sync(60);
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(node.admin.volume().size_bytes, size);
    }
    assert_eq!(
        disks::block(&pair.bob, size / BLOCK - 1),
        vec![0x3C; BLOCK as usize]
    );

    // A disk that is too small for what is agreed is refused; the Primary goes on.
    pair.bob.stop();
    let disk = File::options().write(true).open(&pair.bob.disk).unwrap();
    disk.set_len(0).unwrap();
    disk.set_len(16 << 20).unwrap();
    pair.bob.offline(&["create-md", "--force"]).expect_code(0);
    pair.bob.start();
    pair.bob.admin.wait_for("it is not taken", 30, |volume| {
        volume.disk.state != "UpToDate" && !volume.why.is_empty() && connection(volume) != "SyncTarget"
    });
    for node in [&pair.alice, &pair.bob] {
        let volume = node
            .admin
            .wait_for("both say it", 20, |volume| connection(volume) == "StandAlone");
        let why = format!("{:?}", volume.why);
        assert!(why.contains("give bob a larger disk"), "{why}");
    }
    let volume = pair.alice.admin.volume();
    assert_eq!(
        (volume.size_bytes, volume.disk.state.as_str()),
        (size, "UpToDate")
    );
    pair.alice.session().write(0, &vec![1; BLOCK as usize]).unwrap();
}

/// A node that cannot run says why and ends with code 20.
#[test]
fn configurations_that_cannot_run() {
    let mut pair = Pair::running(&Options {
        disk_bytes: 32 << 20,
        ..Options::default()
    });
    let good = fs::read_to_string(&pair.bob.configuration).unwrap();
    let broken = pair.bob.file("broken.toml");
    let elsewhere = pair.bob.file("elsewhere");
    let taken = |own: &str, theirs: String| good.replace(&format!("\"{own}\""), &format!("\"{theirs}\""));
    let cases = [
        (good.replace("listen =", "lisen ="), "lisen"),
        (good.replace("id = 1", "id = 77"), "id"),
        (good.replace("[[volume]]", "[[volume"), "broken.toml"),
        (
            good.replace("name = \"r0\"", "name = \"r0\"\non-io-error = \"ignore\""),
            "on-io-error",
        ),
        (good.replace("node-id = 0", "node-id = 1"), "node-id"),
        // These are good, but somebody else is there.
        (
            taken(
                &pair.bob.nbd_port().to_string(),
                pair.alice.nbd_port().to_string(),
            )
            .replace(
                &*pair.bob.admin.socket.to_string_lossy(),
                &elsewhere.to_string_lossy(),
            ),
            "in use",
        ),
        (good.clone(), "in use"),
    ];
    for (configuration, word) in cases {
        fs::write(&broken, configuration).unwrap();
        let refused = mendblock(&["node", "--config", text(&broken)]).expect_code(20);
        refused.expect_error(word);
    }
    pair.bob.assert_alive();
    pair.stop_and_compare();
}

/// A disk that a node has open is nobody else's.
#[test]
fn a_disk_in_use_is_refused() {
    let pair = Pair::running(&Options {
        disk_bytes: 32 << 20,
        ..Options::default()
    });
    pair.alice
        .offline(&["create-md", "--force"])
        .expect_code(10)
        .expect_error("open");
    pair.alice.offline(&["apply-al"]).expect_code(10);
}
