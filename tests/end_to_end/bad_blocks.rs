//! A block of the Primary's disk goes bad under load: the client notices nothing, and the disk mends.

use mendblock::admin::schema::VolumeStatus;
use mendblock::configuration::{FaultKind, FaultMode};
use mendblock_harness::admin::failing;
use mendblock_harness::disks::{self, BLOCK};
use mendblock_harness::events::Events;
use mendblock_harness::history::{History, content, sectors_of};
use mendblock_harness::load::{Load, check_all};
use mendblock_harness::nbd::Session;
use mendblock_harness::pair::{Options, Pair, connection, is_in_sync, peer_disk};
use serde_json::Value;
use std::fs;
use std::sync::Arc;

/// Blocks that go bad; the load stays away from them.
const BAD: [u64; 2] = [9_000, 12_345];
/// Where the load writes.
const BUSY: std::ops::Range<u64> = 1024..3072;

/// What else fails beside the reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    Bitmap,
    BitmapAndSuperblock,
}

struct Story {
    pair: Pair,
    history: Arc<History>,
    /// Layout of the disks, from before the start.
    layout: Value,
}

impl Story {
    fn new(policy: &str) -> Self {
        Self::with_handlers(policy, |_| String::new())
    }

    fn with_handlers(policy: &str, handlers: impl Fn(&Pair) -> String) -> Self {
        let options = Options {
            volume_keys: format!("on-io-error = \"{policy}\""),
            ..Options::default()
        };
        let mut pair = Pair::new(&options);
        pair.alice.settings.handlers = handlers(&pair);
        pair.alice.configure();
        let layout = disks::dump(&pair.alice);
        pair.bring_up();
        Self {
            pair,
            history: Arc::default(),
            layout,
        }
    }

    /// Writes the blocks, and makes them unreadable on the Primary until they are written: beneath the fault the disk
    /// holds something else, as a drive does that has lost a sector.
    fn break_blocks(&self, blocks: &[u64]) {
        let mut session = self.pair.alice.session();
        for &block in blocks {
            write_block(&self.history, &mut session, block);
        }
        session.flush().unwrap();
        for &block in blocks {
            disks::poke(&self.pair.alice, &[0xDE; BLOCK as usize], block * BLOCK);
            let rule = failing(FaultKind::Read, block * 8, 8, FaultMode::UntilWritten);
            self.pair.alice.admin.fault(&rule);
        }
    }

    fn break_metadata(&self, broken: Broken) {
        if broken == Broken::Nothing {
            return;
        }
        let mut areas = vec![disks::bitmap(&self.layout)];
        if broken == Broken::BitmapAndSuperblock {
            areas.push(disks::superblock(&self.layout));
        }
        for area in areas {
            let rule = failing(
                FaultKind::Write,
                area.first_sector,
                area.sectors,
                FaultMode::Always,
            );
            self.pair.alice.admin.fault(&rule);
        }
    }

    /// Reads the blocks all at once: each answer has to be good.
    fn read_at_once(&self, blocks: &[u64]) {
        let mut session = self.pair.alice.session();
        let started = self.history.begin_read();
        let offsets: Vec<u64> = blocks.iter().map(|block| block * BLOCK).collect();
        let cookies = session.send_reads(&offsets, BLOCK as u32).unwrap();
        for _ in blocks {
            let (cookie, error) = session.answer().unwrap();
            assert_eq!(error, 0, "the client sees an error");
            let bytes = session.payload(BLOCK as u32).unwrap();
            let index = cookies.iter().position(|sent| *sent == cookie).unwrap();
            let first = sectors_of(blocks[index]).start;
            self.history.read(started, first, &bytes).unwrap();
        }
    }

    /// Everything is well again: what the client wrote is there, on both disks.
    fn end(mut self, blocks: &[u64]) {
        self.pair.wait_in_sync(60);
        check_all(&self.pair.alice.nbd_socket(), &self.history);
        let volume = self.pair.alice.admin.volume();
        assert_eq!(volume.bad_blocks, 0, "{volume:#?}");
        let started = self.history.begin_read();
        for &block in blocks {
            let bytes = disks::block(&self.pair.alice, block);
            self.history
                .read(started, sectors_of(block).start, &bytes)
                .unwrap();
        }
        self.pair.stop_and_check(&self.history);
    }
}

/// Writes a block, and has it acknowledged.
fn write_block(history: &History, session: &mut Session, block: u64) {
    let value = history.begin_write(sectors_of(block));
    let bytes = content(sectors_of(block), value);
    session.write(block * BLOCK, &bytes).unwrap();
    history.acknowledged(sectors_of(block), value);
}

fn gave_up(volume: &VolumeStatus) -> bool {
    volume.disk.state == "Diskless"
}

/// The whole story with a policy.
fn tell(policy: &str, blocks: &[u64], broken: Broken) {
    let story = Story::new(policy);
    let alice = &story.pair.alice.admin;
    story.break_blocks(blocks);
    story.break_metadata(broken);
    let load = Load::start(&story.pair.alice, Arc::clone(&story.history), BUSY, 2);
    load.progress(20, 20);
    let events = Events::follow(alice);
    story.read_at_once(blocks);
    let stays = policy == "pass_on" && broken == Broken::Nothing;
    if stays {
        events.wait_for_field("device", "disk", "Inconsistent");
    } else {
        events.wait_for_field("device", "disk", "Diskless");
        let volume = alice.wait_for("the disk is given up", 20, gave_up);
        assert!(!volume.disk.reason.is_empty(), "no reason: {volume:#?}");
        assert!(!volume.why.is_empty(), "no explanation: {volume:#?}");
        story
            .pair
            .bob
            .admin
            .wait_for("the peer knows", 10, |volume| peer_disk(volume) == "Diskless");
        check_marks(&story, blocks, broken);
        load.progress(50, 20);
        // Again, now from the peer alone.
        story.read_at_once(blocks);
        alice.clear_faults_but_reads();
        alice.order(&["attach"]).expect_code(0);
    }
    load.progress(50, 20);
    alice.wait_for("mended", 60, |volume| {
        is_in_sync(volume) && volume.bad_blocks == 0
    });
    let read_at_end = load.stop();
    read_at_end.expect_no_error();
    story.end(blocks);
}

/// What the given-up disk says about itself.
fn check_marks(story: &Story, blocks: &[u64], broken: Broken) {
    let dump = disks::dump(&story.pair.alice);
    let bits = disks::number(&dump, "bits-set");
    let has_flag = |name: &str| dump["flags"].as_array().unwrap().iter().any(|flag| flag == name);
    match broken {
        Broken::Nothing => {
            let runs: Vec<(u64, u64)> = serde_json::from_value(dump["bits-set-runs"].clone()).unwrap();
            for &block in blocks {
                let is_marked = runs.iter().any(|(first, last)| (*first..=*last).contains(&block));
                assert!(
                    is_marked || dump["more-runs"] == true,
                    "block {block} is forgotten: {dump:#}"
                );
            }
            assert!(!has_flag("FULL_SYNC"), "no reason for a full resync: {dump:#}");
        }
        Broken::Bitmap => assert!(has_flag("FULL_SYNC"), "{bits} bits: {dump:#}"),
        // Nothing could be written here: what is left is what the peer and the health file know.
        Broken::BitmapAndSuperblock => assert_eq!(bits, 0, "{dump:#}"),
    }
}

macro_rules! stories {
    ($($name:ident: $policy:expr, $blocks:expr, $broken:ident;)*) => {
        $(#[test] fn $name() { tell($policy, $blocks, Broken::$broken); })*
    };
}

stories! {
    detach: "detach", &BAD[..1], Nothing;
    detach_with_a_failing_bitmap: "detach", &BAD[..1], Bitmap;
    detach_with_failing_bitmap_and_superblock: "detach", &BAD[..1], BitmapAndSuperblock;
    detach_with_two_bad_blocks_at_once: "detach", &BAD, Nothing;
    detach_with_two_bad_blocks_and_no_metadata: "detach", &BAD, BitmapAndSuperblock;
    pass_on: "pass_on", &BAD[..1], Nothing;
    pass_on_with_two_bad_blocks_at_once: "pass_on", &BAD, Nothing;
    pass_on_with_a_failing_bitmap: "pass_on", &BAD[..1], Bitmap;
    call: "call-local-io-error", &BAD[..1], Nothing;
    call_with_two_bad_blocks_at_once: "call-local-io-error", &BAD, Nothing;
    call_with_failing_bitmap_and_superblock: "call-local-io-error", &BAD[..1], BitmapAndSuperblock;
    call_with_a_failing_bitmap: "call-local-io-error", &BAD[..1], Bitmap;
    call_with_two_bad_blocks_and_no_metadata: "call-local-io-error", &BAD, BitmapAndSuperblock;
}

/// Under `pass_on` the disk stays attached; whatever meta-data fails, the data are good in the end.
fn pass_on_without_metadata(bad: &[u64]) {
    let story = Story::new("pass_on");
    let alice = &story.pair.alice.admin;
    story.break_blocks(bad);
    story.break_metadata(Broken::BitmapAndSuperblock);
    let load = Load::start(&story.pair.alice, Arc::clone(&story.history), BUSY, 2);
    load.progress(20, 20);
    story.read_at_once(bad);
    // Inconsistent cannot be written: an error of the meta-data gives the disk up under every policy.
    alice.wait_for("the disk is given up", 20, gave_up);
    load.progress(50, 20);
    story.read_at_once(bad);
    alice.clear_faults_but_reads();
    alice.order(&["attach"]).expect_code(0);
    alice.wait_for("mended", 60, |volume| {
        is_in_sync(volume) && volume.bad_blocks == 0
    });
    load.stop().expect_no_error();
    story.end(bad);
}

#[test]
fn pass_on_with_failing_bitmap_and_superblock() {
    pass_on_without_metadata(&BAD[..1]);
}

#[test]
fn pass_on_with_two_bad_blocks_and_no_metadata() {
    pass_on_without_metadata(&BAD);
}

/// The handler runs first: the client has its data meanwhile, and the peer has been told nothing.
#[test]
fn call_local_io_error_runs_the_handler_before_anything_is_told() {
    let story = Story::with_handlers("call-local-io-error", |pair| {
        let (seen, go) = (pair.alice.file("environment"), pair.alice.file("go"));
        let (seen, go) = (seen.display(), go.display());
        format!(
            "local-io-error = \"env > {seen}.new; mv {seen}.new {seen}; until test -e {go}; do sleep 0.05; done\""
        )
    });
    let (alice, bob) = (&story.pair.alice.admin, &story.pair.bob.admin);
    story.break_blocks(&BAD[..1]);
    let events = Events::follow(alice);
    story.read_at_once(&BAD[..1]);
    let seen = story.pair.alice.file("environment");
    events.wait_for_field("device", "disk", "Failed");
    alice.wait_for("the handler runs", 10, |_| seen.exists());
    let step = alice.command(&["status"]).expect_code(0);
    for line in [
        "detaching: D4 handler local-io-error, at most",
        "waiting: D4 for handler local-io-error,",
    ] {
        assert!(step.out.contains(line), "{line:?} is missing in {}", step.out);
    }
    let environment = fs::read_to_string(&seen).unwrap();
    for wanted in [
        "DRBD_RESOURCE=r0",
        "DRBD_MINOR=0",
        "DRBD_LL_DISK=",
        "DRBD_PEER=bob",
    ] {
        assert!(
            environment.contains(wanted),
            "{wanted} is missing:\n{environment}"
        );
    }
    let told = bob.volume();
    assert_eq!(
        (connection(&told), peer_disk(&told)),
        ("Connected", "UpToDate"),
        "told too early"
    );
    assert_eq!(alice.volume().disk.state, "Failed");
    fs::write(story.pair.alice.file("go"), "").unwrap();
    events.wait_for_field("helper", "helper", "local-io-error");
    alice.wait_for("the disk is given up", 20, gave_up);
    bob.wait_for("the peer knows", 10, |volume| peer_disk(volume) == "Diskless");
    check_marks(&story, &BAD[..1], Broken::Nothing);
    alice.order(&["attach"]).expect_code(0);
    story.end(&BAD[..1]);
}

/// A write that fails is no error for the client, and the block is copied back.
#[test]
fn a_failing_write() {
    let story = Story::new("detach");
    let alice = &story.pair.alice.admin;
    let rule = failing(FaultKind::Write, BAD[0] * 8, 8, FaultMode::Times(1));
    alice.fault(&rule);
    let mut session = story.pair.alice.session();
    write_block(&story.history, &mut session, BAD[0]);
    alice.wait_for("the disk is given up", 20, gave_up);
    check_marks(&story, &BAD[..1], Broken::Nothing);
    alice.order(&["attach"]).expect_code(0);
    drop(session);
    story.end(&BAD[..1]);
}

/// The Secondary's disk fails a mirrored write: the client notices nothing.
#[test]
fn a_failing_write_on_the_secondary() {
    let story = Story::new("detach");
    let bob = &story.pair.bob.admin;
    let rule = failing(FaultKind::Write, BAD[0] * 8, 8, FaultMode::Times(1));
    bob.fault(&rule);
    let mut session = story.pair.alice.session();
    write_block(&story.history, &mut session, BAD[0]);
    bob.wait_for("the disk is given up", 20, gave_up);
    story
        .pair
        .alice
        .admin
        .wait_for("known", 10, |volume| peer_disk(volume) == "Diskless");
    bob.order(&["attach"]).expect_code(0);
    drop(session);
    story.end(&BAD[..1]);
}
