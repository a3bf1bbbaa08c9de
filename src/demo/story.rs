//! The story, step by step: a pair comes to be, a block goes bad, the node goes on without its disk, the disk mends.

use super::pattern::{BLOCK_BYTES, Pattern, letter};
use super::process::{NodeProcess, VOLUME, configuration, free_addresses};
use super::stage::{Failure, Pair, Stage};
use super::terminal::size;
use super::watch::EventLog;
use crate::admin::paths;
use crate::admin::schema::PrimaryRequest;
use crate::cli::status;
use crate::configuration::{FaultEntry, FaultKind, FaultMode, FaultRule};
use mendblock_storage::offline::{CreateOptions, Location, MetaPlacement, create_md};
use serde_json::json;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Size of each lower disk.
const DISK_BYTES: u64 = 64 * MIB;
/// What is on alice's disk before it becomes one of a pair. No client writes there, so that the activity log does not
/// cover it.
const OLD_DATA: (u64, u64) = (40 * MIB, 4 * MIB);
const OLD: Pattern = Pattern(1);
/// The block among it that goes bad.
const BAD_BLOCK: u64 = 42 * MIB;
/// What a client writes while all is well: two extents of the activity log.
const NEW_DATA: (u64, u64) = (8 * MIB, 8 * MIB);
const NEW: Pattern = Pattern(2);
/// What a client writes while alice has no disk.
const MEANWHILE: (u64, u64) = (24 * MIB, MIB / 16);
const MEANWHILE_PATTERN: Pattern = Pattern(3);
/// Bytes that a resync may have to copy besides the marked blocks: the extents that were hot when the disk failed.
const HOT_BYTES: u64 = NEW_DATA.1;

/// Limit of what takes no time by itself.
const SOON: Duration = Duration::from_secs(60);
/// Limit of a resync.
const RESYNC: Duration = Duration::from_secs(180);

/// Tells it.
///
/// # Errors
/// The first step that could not be verified.
pub async fn tell(stage: &mut Stage) -> Result<(), Failure> {
    create(stage).await?;
    start(stage).await?;
    make_a_pair(stage).await?;
    write_data(stage).await?;
    let (events, rule) = make_bad(stage).await?;
    read_bad(stage, &events).await?;
    go_on(stage).await?;
    mend(stage, &events, &rule).await?;
    finish(stage).await
}

async fn create(stage: &mut Stage) -> Result<(), Failure> {
    stage.begin("Two disks");
    let failed = |error: io::Error| Failure::new("two disk files can be made", error);
    old_data(&stage.alice.files.disk).map_err(failed)?;
    let bob = File::create_new(&stage.bob.files.disk).map_err(failed)?;
    bob.set_len(DISK_BYTES).map_err(failed)?;
    for files in [&stage.alice.files, &stage.bob.files] {
        let location = Location {
            data: files.disk.clone(),
            meta: MetaPlacement::Internal,
        };
        let report = create_md(&location, CreateOptions::default())
            .map_err(|error| Failure::new("new meta-data can be written", error))?;
        stage.data_bytes = report.usable_sectors * 512;
    }
    let addresses = free_addresses().map_err(|error| Failure::new("there are free loopback ports", error))?;
    let alice = (&stage.alice.files, 0, addresses[0]);
    let bob = (&stage.bob.files, 1, addresses[1]);
    for (own, peer) in [(alice, bob), (bob, alice)] {
        std::fs::write(&own.0.configuration, configuration(own, peer))
            .map_err(|error| Failure::new("a configuration can be written", error))?;
    }
    let text = format!(
        "Two files of {} are the disks of the nodes alice and bob; each has its meta-data (DRBD's format) at the end, as \
         `mendblock create-md` makes it. alice's disk holds some data already, bob's is empty.",
        size(DISK_BYTES)
    );
    stage.say(&text).await.map(drop)
}

fn old_data(disk: &Path) -> io::Result<()> {
    let file = File::create_new(disk)?;
    file.set_len(DISK_BYTES)?;
    let (offset, bytes) = OLD_DATA;
    file.write_all_at(&OLD.bytes(offset, bytes as usize), offset)?;
    file.write_all_at(&letter(BAD_BLOCK), BAD_BLOCK)
}

async fn start(stage: &mut Stage) -> Result<(), Failure> {
    stage.begin("Two node processes start");
    for node in [&mut stage.alice, &mut stage.bob] {
        let process = NodeProcess::start(&node.files);
        node.process = Some(process.map_err(|error| Failure::new("a node process starts", error))?);
    }
    stage
        .wait("both nodes answer and have their disks", SOON, |pair| {
            [&pair.alice, &pair.bob]
                .iter()
                .all(|volume| !matches!(volume.disk.state.as_str(), "" | "Diskless" | "Attaching"))
        })
        .await?;
    stage
        .say("Each is `mendblock node` with a configuration file of its own, and has attached its disk.")
        .await
        .map(drop)
}

async fn make_a_pair(stage: &mut Stage) -> Result<(), Failure> {
    stage.begin("They meet and become a pair");
    stage
        .wait(
            "both nodes are Connected, both disks Inconsistent",
            SOON,
            |pair| {
                let bob = pair
                    .bob
                    .connections
                    .first()
                    .is_some_and(|there| there.state == "Connected");
                let disks = [&pair.alice, &pair.bob]
                    .iter()
                    .all(|volume| volume.disk.state == "Inconsistent");
                pair.connection() == "Connected" && bob && disks
            },
        )
        .await?;
    stage
        .say("They found each other. Nobody said yet whose data is good, so both are Inconsistent.")
        .await?;
    stage
        .order_alice("primary", &PrimaryRequest { force: true })
        .await?;
    stage
        .say("`mendblock primary --force r0` on alice: her data is the good one, and bob gets all of it.")
        .await?;
    stage
        .wait(
            "the first full resync ends, alice Primary, both disks UpToDate",
            RESYNC,
            |pair| pair.healthy() && pair.alice.role == "Primary",
        )
        .await?;
    stage.compare_replicas().await
}

async fn write_data(stage: &mut Stage) -> Result<(), Failure> {
    stage.begin("A client writes over NBD");
    stage.connect_client().await?;
    let (offset, bytes) = NEW_DATA;
    stage.write(offset, NEW.bytes(offset, bytes as usize)).await?;
    stage.read(offset, NEW.bytes(offset, bytes as usize)).await?;
    let text = format!(
        "{} written to alice, flushed, read back and compared. A write is answered when both nodes have it.",
        size(bytes)
    );
    stage.say(&text).await?;
    stage.compare_replicas().await
}

async fn make_bad(stage: &mut Stage) -> Result<(EventLog, FaultEntry), Failure> {
    stage.begin("A block on alice's disk goes bad");
    let view = stage.alice.view.clone();
    let failed = |error| Failure::new("alice's admin API answers", error);
    let events = view.follow().await.map_err(failed)?;
    let rule = FaultRule {
        kind: FaultKind::Read,
        first_sector: Some(BAD_BLOCK / 512),
        sectors: Some((BLOCK_BYTES / 512) as u32),
        error: None,
        mode: FaultMode::UntilWritten,
        delay_ms: 0,
        hang: false,
    };
    let entry: FaultEntry = view
        .client
        .post(&paths::faults(VOLUME, None), &rule)
        .await
        .map_err(failed)?;
    let text = format!(
        "Sectors {}+{} of alice's disk end with EIO from now on when they are read, until somebody writes them: then the \
         drive re-allocates them. Nobody has noticed yet.",
        BAD_BLOCK / 512,
        BLOCK_BYTES / 512
    );
    stage.say(&text).await?;
    Ok((events, entry))
}

async fn read_bad(stage: &mut Stage, events: &EventLog) -> Result<(), Failure> {
    stage.begin("The client reads that block");
    stage.read(BAD_BLOCK, letter(BAD_BLOCK)).await?;
    stage
        .say("The client has its data, unharmed and without an error: bob sent it.")
        .await?;
    let pair = stage
        .wait(
            "alice gives the disk up: Diskless, and stays Primary and Connected",
            SOON,
            |pair| {
                pair.alice.disk.state == "Diskless"
                    && pair.alice.role == "Primary"
                    && pair.connection() == "Connected"
            },
        )
        .await?;
    if pair.alice.disk.reason.is_empty() || pair.alice.io.read_errors == 0 {
        let seen = format!(
            "reason {:?}, {} read errors counted",
            pair.alice.disk.reason, pair.alice.io.read_errors
        );
        return Err(Failure::new("alice's status gives the reason", seen));
    }
    // An event is on its way while the status shows its state already.
    let seen = events.clone();
    stage
        .wait("alice's disk was Failed and then Diskless", SOON, |_| {
            seen.disk_states()
                .ends_with(&["Failed".into(), "Diskless".into()])
        })
        .await?;
    let text = format!(
        "Her disk went UpToDate -> {}. What `mendblock status` says:",
        events.disk_states().join(" -> ")
    );
    stage.say(&text).await?;
    if let Some(now) = stage.alice.view.status().await {
        stage.terminal.quote(&status::render(&now, None));
    }
    Ok(())
}

async fn go_on(stage: &mut Stage) -> Result<(), Failure> {
    stage.begin("Alice goes on without a disk");
    let (offset, bytes) = MEANWHILE;
    let data = MEANWHILE_PATTERN.bytes(offset, bytes as usize);
    stage.write(offset, data.clone()).await?;
    stage.read(offset, data.clone()).await?;
    stage
        .read(NEW_DATA.0, NEW.bytes(NEW_DATA.0, NEW_DATA.1 as usize))
        .await?;
    stage.read(BAD_BLOCK, letter(BAD_BLOCK)).await?;
    stage.on_disk(&stage.bob.files.disk, offset, &data, "bob")?;
    let marked = marked_bytes();
    stage
        .wait(
            &format!("bob has marked {} that alice's disk lacks", size(marked)),
            SOON,
            |pair| pair.bob.out_of_sync_bytes == marked,
        )
        .await?;
    let text = format!(
        "{} written and everything read through alice: it comes from bob's disk. He has marked what hers lacks: {} \
         (the bad block, and what was just written).",
        size(bytes),
        size(marked)
    );
    stage.say(&text).await.map(drop)
}

/// The bad block and what was written while alice had no disk.
fn marked_bytes() -> u64 {
    BLOCK_BYTES as u64 + MEANWHILE.1
}

async fn mend(stage: &mut Stage, events: &EventLog, rule: &FaultEntry) -> Result<(), Failure> {
    stage.begin("The disk is attached again and mends");
    stage.order_alice("attach", &json!({})).await?;
    let sizes = events.clone();
    stage
        .wait(
            "alice's disk is resynced, both disks UpToDate",
            RESYNC,
            move |pair| pair.healthy() && !sizes.resync_sizes().is_empty(),
        )
        .await?;
    let resynced: u64 = events.resync_sizes().iter().sum();
    let (least, most) = (marked_bytes(), marked_bytes() + HOT_BYTES);
    if !(least..=most).contains(&resynced) {
        return Err(Failure::new(
            format!("a resync of the marked blocks, {} to {}", size(least), size(most)),
            size(resynced),
        ));
    }
    let text = match resynced - least {
        0 => format!(
            "Resynced: {}, exactly the marked blocks. Each was written again.",
            size(resynced)
        ),
        hot => format!(
            "Resynced: {} of {}: the {} that were marked, and {} that the activity log holds for unsure, since clients \
             were writing there when the disk failed.",
            size(resynced),
            size(stage.volume_bytes),
            size(least),
            size(hot)
        ),
    };
    stage.say(&text).await?;
    healed(stage, rule).await
}

/// The block is good again: on the medium, through the node, and the fault is over.
async fn healed(stage: &mut Stage, rule: &FaultEntry) -> Result<(), Failure> {
    let before = stage.say("Is the bad block good again?").await?;
    stage.on_disk(&stage.alice.files.disk, BAD_BLOCK, &letter(BAD_BLOCK), "alice")?;
    stage.read(BAD_BLOCK, letter(BAD_BLOCK)).await?;
    let text = "On alice's disk stands the right data, and the client reads it there without an error: the fault is over.";
    let after = stage.say(text).await?;
    let hits = |pair: &Pair| {
        let faults = &pair.alice.faults;
        faults
            .iter()
            .find(|fault| fault.number == rule.number)
            .map_or(0, |fault| fault.hits)
    };
    let (errors, bad) = (after.alice.io.read_errors, after.alice.bad_blocks);
    if hits(&after) > hits(&before) || errors > before.alice.io.read_errors || bad > 0 || !after.healthy() {
        let seen = format!(
            "{} new hits of the fault, {} new read errors, {bad} bad blocks, alice's disk {}",
            hits(&after) - hits(&before).min(hits(&after)),
            errors - before.alice.io.read_errors.min(errors),
            after.alice.disk.state
        );
        return Err(Failure::new(
            "alice's own disk serves the block without an error",
            seen,
        ));
    }
    Ok(())
}

async fn finish(stage: &mut Stage) -> Result<(), Failure> {
    stage.begin("Nothing is lost");
    let (old, new) = (OLD_DATA, NEW_DATA);
    let mut data = OLD.bytes(old.0, old.1 as usize);
    let at = (BAD_BLOCK - old.0) as usize;
    data[at..at + BLOCK_BYTES].copy_from_slice(&letter(BAD_BLOCK));
    stage.read(old.0, data).await?;
    stage.read(new.0, NEW.bytes(new.0, new.1 as usize)).await?;
    let meanwhile = MEANWHILE_PATTERN.bytes(MEANWHILE.0, MEANWHILE.1 as usize);
    stage.read(MEANWHILE.0, meanwhile).await?;
    stage.disconnect_client();
    stage.compare_replicas().await?;
    let summary = format!(
        "\n    lost: nothing; client errors: {} of {} requests\n",
        stage.client_errors, stage.requests
    );
    stage.terminal.print(&summary);
    Ok(())
}
