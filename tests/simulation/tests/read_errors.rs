//! The seed's sequence: a block of the Primary's disk cannot be read. Names are those of the scenario table.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::configuration::OnIoError;
use mendblock_core::fact::Fact;
use mendblock_core::helper::Handler;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::DiskState;
use mendblock_kit::format;
use mendblock_kit::world::World;
use mendblock_simulation::seeds::each_seed;
use mendblock_storage::format::superblock::Flags;
use mendblock_storage::units::{BlockRange, SectorRange};

const X: u64 = 1500;
const Y: u64 = 3000;

fn block(block: u64) -> SectorRange {
    SectorRange::new(block * 8, 8).unwrap()
}

/// A synced pair whose Primary wrote the blocks, with nothing hot any more.
fn prepared(seed: u64, policy: OnIoError) -> World {
    let mut world = World::synced(seed, 16 << 20, policy);
    let client = world.open_client(0);
    for at in [X, Y, 100] {
        world.write(0, client, block(at), false);
    }
    world.run_until("the writes are answered", 10_000, |world| {
        world.nodes[0].open_requests() == 0
    });
    world.flush(0, client);
    world.run_until("they are retired", 10_000, |world| {
        world.nodes[0].open_requests() == 0
    });
    world
}

fn read(world: &mut World, blocks: &[u64]) {
    let client = world.open_client(0);
    for &at in blocks {
        world.read(0, client, block(at));
    }
    world.run_until("the reads are answered", 60_000, |world| {
        world.nodes[0].open_requests() == 0
    });
    assert_eq!(
        world.client_errors,
        Vec::<String>::new(),
        "the peer has good copies"
    );
}

fn diskless(world: &mut World) {
    world.run_until("the disk is given up", 120_000, |world| {
        world.disk_state(0) == DiskState::Diskless
    });
    world.run_for(2_000);
}

/// Blocks whose bit is set on A's disk and that are own-bad in its health file.
fn remembered(world: &World) -> (Vec<u64>, u64) {
    let device = &world.nodes[0].device;
    let bad = world.nodes[0]
        .bad_blocks
        .own
        .iter()
        .map(|range| u64::from(range.count()))
        .sum();
    (format::set_bits(device), bad)
}

/// The drive repairs itself: what was bad reads as zeroes. The disk is attached again.
fn attach_again(world: &mut World) -> u64 {
    world.nodes[0].device.repair();
    let facts = world.nodes[0].facts.len();
    world.order_ok(0, Command::Attach { new_disk: false });
    world.run_until("the disk is UpToDate again", 120_000, World::is_healthy);
    let bits = mendblock_simulation::load::resynced(world, 0, facts);
    world.check_quiet();
    assert!(world.nodes[0].bad_blocks.own.is_empty(), "{}", world.describe());
    let errors = world.client_errors.clone();
    assert_eq!(errors, Vec::<String>::new());
    bits
}

#[test]
fn read_error_detach_connected() {
    each_seed("read_error_detach_connected", 5, |seed| {
        let mut world = prepared(seed, OnIoError::Detach);
        world.nodes[0].device.faults.unreadable.insert(X);
        read(&mut world, &[X]);
        diskless(&mut world);
        let (bits, bad) = remembered(&world);
        assert!(bits.contains(&X), "{bits:?}");
        assert_eq!(bad, 1);
        let flags = format::superblock(&world.nodes[0].device).flags;
        assert!(
            !flags.contains(Flags::FULL_SYNC)
                && !flags.contains(Flags::WAS_UP_TO_DATE)
                && flags.contains(Flags::CONSISTENT)
        );
        assert_eq!(attach_again(&mut world), 1, "exactly the bad block");
    });
}

#[test]
fn read_error_call_connected() {
    each_seed("read_error_call_connected", 5, |seed| {
        let mut world = prepared(seed, OnIoError::CallLocalIoError);
        world.nodes[0].handlers.insert(Handler::LocalIoError, (0, 2_000));
        world.nodes[0].device.faults.unreadable.insert(X);
        read(&mut world, &[X]);
        // The data comes before the handler ends, at times before the state part has heard of the error.
        world.run_until("the disk has failed", 1_000, |world| {
            world.disk_state(0) == DiskState::Failed
        });
        world.run_for(500);
        assert_eq!(world.disk_state(0), DiskState::Failed, "the handler runs");
        assert_eq!(
            world.nodes[1].state().vector.peer_disk,
            DiskState::UpToDate,
            "nothing is told before the handler ends"
        );
        diskless(&mut world);
        assert_eq!(world.nodes[0].ran, [Handler::LocalIoError]);
        assert!(remembered(&world).0.contains(&X));
        assert_eq!(attach_again(&mut world), 1);
    });
}

#[test]
fn read_error_pass_on_connected() {
    each_seed("read_error_pass_on_connected", 5, |seed| {
        let mut world = prepared(seed, OnIoError::PassOn);
        world.nodes[0].device.faults.unreadable.insert(X);
        read(&mut world, &[X]);
        world.run_until("the disk is repaired by itself", 120_000, |world| {
            world.is_healthy() && world.nodes[0].bad_blocks.own.is_empty()
        });
        assert!(
            !world.nodes[0].device.faults.unreadable.contains(&X),
            "it was rewritten"
        );
        world.check_quiet();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

#[test]
fn read_error_bitmap_write_fails() {
    each_seed("read_error_bitmap_write_fails", 5, |seed| {
        let mut world = prepared(seed, OnIoError::Detach);
        // What the end of the resync had to write is written: only the read below may find out.
        world.run_for(2_000);
        let layout = format::layout(&world.nodes[0].device);
        let faults = &mut world.nodes[0].device.faults;
        faults.unreadable.insert(X);
        faults
            .unwritable_bytes
            .push(layout.bitmap_byte()..layout.bitmap_byte() + layout.bitmap_bytes());
        read(&mut world, &[X]);
        diskless(&mut world);
        assert!(
            format::superblock(&world.nodes[0].device)
                .flags
                .contains(Flags::FULL_SYNC)
        );
        let bits = attach_again(&mut world);
        assert!(bits > 1000, "a full sync: {bits}");
    });
}

#[test]
fn read_error_bitmap_and_superblock_fail() {
    each_seed("read_error_bitmap_and_superblock_fail", 5, |seed| {
        let mut world = prepared(seed, OnIoError::Detach);
        // What the end of the resync had to write is written: only the read below may find out.
        world.run_for(2_000);
        let layout = format::layout(&world.nodes[0].device);
        let size = world.nodes[0].device.size();
        let faults = &mut world.nodes[0].device.faults;
        faults.unreadable.insert(X);
        faults.unwritable_bytes.push(layout.first_meta_byte()..size);
        read(&mut world, &[X]);
        diskless(&mut world);
        assert!(
            !format::superblock(&world.nodes[0].device)
                .flags
                .contains(Flags::FULL_SYNC)
        );
        assert_eq!(remembered(&world).1, 1);
        let bits = attach_again(&mut world);
        // The block, and what the unclean log covers (the hot extents).
        assert!(bits >= 1, "{bits}");
    });
}

#[test]
fn two_bad_blocks_in_flight() {
    each_seed("two_bad_blocks_in_flight", 5, |seed| {
        let mut world = prepared(seed, OnIoError::Detach);
        world.nodes[0].device.faults.unreadable.extend([X, Y]);
        read(&mut world, &[X, Y]);
        diskless(&mut world);
        let (bits, bad) = remembered(&world);
        if bad == 2 {
            assert!(bits.contains(&X) && bits.contains(&Y), "{bits:?}");
            assert_eq!(attach_again(&mut world), 2);
        } else {
            // The second read came after the disk had failed: nobody has seen that it is bad.
            world.nodes[0].device.faults.unreadable.remove(&Y);
            world.nodes[0].device.faults.unreadable.remove(&X);
            world.nodes[0].device.poke(X * 4096, &[0; 4096]);
            assert_eq!(attach_again(&mut world), 1);
        }
    });
}

#[test]
fn read_error_during_drain() {
    each_seed("read_error_during_drain", 5, |seed| {
        let mut world = prepared(seed, OnIoError::Detach);
        world.nodes[0].device.faults.unreadable.extend([X, Y]);
        let client = world.open_client(0);
        // Both are in the kernel; the first fails at once, the second as the last I/O of the drain.
        world.nodes[0].device.faults.hangs = true;
        world.read(0, client, block(X));
        world.read(0, client, block(Y));
        world.run_until("both are in the kernel", 5_000, |world| {
            world.nodes[0]
                .table
                .in_kernel
                .values()
                .filter(|entry| entry.is_held_read())
                .count()
                == 2
        });
        world.release_first(0);
        world.run_until("the disk has failed", 5_000, |world| {
            world.disk_state(0) == DiskState::Failed
        });
        let pause = world.random.u64(0..20_000_000);
        world.run_nanoseconds(pause);
        assert_eq!(world.disk_state(0), DiskState::Failed, "the drain waits");
        world.thaw(0);
        diskless(&mut world);
        world.run_until("the reads are answered", 60_000, |world| {
            world.nodes[0].open_requests() == 0
        });
        let (bits, bad) = remembered(&world);
        assert!(bits.contains(&X) && bits.contains(&Y), "{bits:?}");
        assert_eq!(bad, 2);
        assert_eq!(attach_again(&mut world), 2);
    });
}

/// The source of a resync has one bad block: only that one is lost, whatever larger read it was part of.
#[test]
fn resync_source_cannot_read_one_block() {
    each_seed("resync_source_cannot_read_one_block", 5, |seed| {
        let mut world = prepared(seed, OnIoError::Detach);
        world.run_for(2_000);
        world.nodes[0].device.faults.unreadable.insert(X);
        let facts = world.nodes[1].facts.len();
        world.order_ok(1, Command::Invalidate);
        world.run_until("the resync has ended", 600_000, |world| {
            world.nodes[1].facts[facts..]
                .iter()
                .any(|(_, _, fact)| matches!(fact, Fact::ResyncEnded { .. }))
        });
        world.run_for(5_000);
        let listed = |node: usize| world.nodes[node].bad_blocks.own.clone();
        let one = vec![BlockRange::single(X)];
        assert_eq!((listed(0), listed(1)), (one.clone(), one), "{}", world.describe());
        assert_eq!(format::set_bits(&world.nodes[1].device), [X]);
    });
}
