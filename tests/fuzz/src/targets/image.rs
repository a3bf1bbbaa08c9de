//! A lower disk with anything on it, before the off-line commands: `check-md`, `dump-md`, `apply-al`, `create-md`.
//!
//! An input is a list of patches of a sparse file: place (4 bytes, little-endian: a sector from the begin, or with the highest
//! bit set from the end), length (2 bytes, little-endian) and content. The file has 1 MiB and internal meta-data.

use super::activity_log;
use crate::mutate;
use crate::target::{Breach, Cap, Probe, Target, ensure};
use fastrand::Rng;
use mendblock_storage::format::META_BLOCK_BYTES;
use mendblock_storage::format::activity_log::initialized_block;
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::{Flags, GenerationIds, LogState, Superblock};
use mendblock_storage::offline::{
    CreateOptions, Location, MetaPlacement, OfflineError, apply_al, check_md, create_md, dump_md,
};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the disk: the least that create-md takes.
const DISK_BYTES: u64 = 1 << 20;
const PATCH_BYTES: usize = 6;
const FROM_END: u32 = 1 << 31;

/// A disk image.
pub(super) struct Image;

#[derive(Clone)]
struct Patch {
    place: u32,
    content: Vec<u8>,
}

impl Target for Image {
    fn name(&self) -> &'static str {
        "image"
    }

    fn about(&self) -> &'static str {
        "a disk with anything on it, before check-md, dump-md, apply-al and create-md"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 2 << 20,
            because: "areas are filled in pieces of 1 MiB; the log here has 8 blocks, the bitmap 1 page (FORMAT.md)",
        }
    }

    fn longest(&self) -> usize {
        24 << 10
    }

    fn expense(&self) -> u64 {
        10
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let unclean = Flags::CONSISTENT.with(Flags::PRIMARY_IND);
        let clean = Flags::CONSISTENT.with(Flags::AL_CLEAN);
        let mut seeds = Vec::new();
        for (flags, state) in [
            (clean, LogState::Clean),
            (unclean, LogState::Unclean),
            (unclean, LogState::Clean),
        ] {
            for transactions in [0, 3, 9] {
                seeds.extend(formatted(flags, state, transactions).map(|patches| join(&patches)));
            }
        }
        let signature = |place, content: &[u8]| {
            join(&[Patch {
                place,
                content: content.to_vec(),
            }])
        };
        seeds.push(signature(1, b"EFI PART"));
        seeds.push(signature(2, &[&[0; 56][..], &[0x53, 0xEF]].concat()));
        seeds.push(Vec::new());
        seeds
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let magics = [0x8374_026Bu32, 0x8374_026C, 0x8374_026D, 0x69CB_65A2, 0x8374_0267];
        magics.map(|magic| magic.to_be_bytes().to_vec()).into()
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        attack(input, probe).map_err(|error| Breach {
            property: "the fuzzer's own files can be used",
            seen: error.to_string(),
        })?
    }

    /// Makes the checksums of the log's blocks right.
    fn seal(&self, input: &mut Vec<u8>) {
        let mut patches = take_apart(input);
        for patch in &mut patches {
            if patch.content.starts_with(&0x69CB_65A2u32.to_be_bytes()) {
                patch.content.resize(META_BLOCK_BYTES, 0xFF);
                activity_log::seal(&mut patch.content);
            }
        }
        *input = join(&patches);
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let mut patches = take_apart(input);
        let others = take_apart(other);
        if patches.is_empty() {
            return None;
        }
        let at = random.usize(0..patches.len());
        match random.u8(0..6) {
            0 => drop(patches.remove(at)),
            1 if !others.is_empty() => patches.push(others[random.usize(0..others.len())].clone()),
            2 => patches[at].place = patches[at].place.wrapping_add_signed(random.i32(-16..=16)),
            3 => {
                // The first bytes of a block, where all fields are.
                let fields = patches[at].content.len().min(96);
                let mut rest = patches[at].content.split_off(fields);
                mutate::bytes(&mut patches[at].content, &[], &self.words(), 96, random);
                patches[at].content.append(&mut rest);
            }
            _ => mutate::bytes(
                &mut patches[at].content,
                &[],
                &self.words(),
                META_BLOCK_BYTES,
                random,
            ),
        }
        Some(join(&patches))
    }
}

/// Writes the disk and runs every command on it.
fn attack(input: &[u8], probe: &mut Probe) -> io::Result<Result<(), Breach>> {
    // In memory where that is possible: the commands flush all the time.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let path = folder.path().join("disk");
    write_disk(&path, &take_apart(input))?;
    Ok(commands(&path, probe))
}

fn commands(path: &Path, probe: &mut Probe) -> Result<(), Breach> {
    let location = Location {
        data: path.to_owned(),
        meta: MetaPlacement::Internal,
    };
    let before = content(path)?;
    let checked = probe.measured(|| check_md(&location));
    let checked = checked.map_err(|error| breach("check-md reads every disk", &error))?;
    probe.feature(checked.findings.len());
    for finding in &checked.findings {
        probe.feature((std::mem::discriminant(finding), finding.severity() as u8));
    }
    let dumped = probe.measured(|| dump_md(&location, true, &mut io::sink()));
    ensure(
        dumped.is_ok() == checked.metadata.is_some(),
        "what is checked as meta-data can be dumped",
        || format!("{dumped:?} and {checked:?}"),
    )?;
    ensure(
        content(path)? == before,
        "check-md and dump-md only read",
        String::new,
    )?;

    let applied = probe.measured(|| apply_al(&location));
    match &applied {
        Err(error) => {
            probe.feature(std::mem::discriminant(error));
            ensure(
                content(path)? == before,
                "who refuses has written nothing",
                || error.to_string(),
            )?;
        }
        Ok(report) => {
            probe.feature((
                report.was_clean,
                report.was_primary,
                report.log_form as u8,
                report.full_sync_set,
                report.log_rewritten,
                report.superblock_written,
            ));
            probe.feature((
                report.hot_extents.len().checked_ilog2(),
                report.bits_set.checked_ilog2(),
            ));
            check_applied(&location)?;
        }
    }
    check_create(&location, probe)
}

/// A log that was applied is clean: applying it again changes nothing.
fn check_applied(location: &Location) -> Result<(), Breach> {
    let once = content(&location.data)?;
    let again = apply_al(location).map_err(|error| breach("an applied log can be applied again", &error))?;
    let is_idle = again.was_clean && again.bits_set == 0 && !again.superblock_written;
    ensure(is_idle, "an applied log is clean", || format!("{again:?}"))?;
    ensure(
        content(&location.data)? == once,
        "an applied log stays as it is",
        || format!("{again:?}"),
    )
}

/// Meta-data are made where nothing is, or by force; then they are in order.
fn check_create(location: &Location, probe: &mut Probe) -> Result<(), Breach> {
    let before = content(&location.data)?;
    let created = probe.measured(|| create_md(location, CreateOptions::default()));
    if let Err(error) = &created {
        probe.feature(("create", std::mem::discriminant(error)));
        ensure(
            content(&location.data)? == before,
            "who refuses has written nothing",
            || error.to_string(),
        )?;
        let refused_for_data = matches!(error, OfflineError::WouldOverwrite(found) if !found.is_empty());
        ensure(
            refused_for_data,
            "create-md refuses only what it would overwrite",
            || error.to_string(),
        )?;
        let force = CreateOptions {
            force: true,
            ..CreateOptions::default()
        };
        create_md(location, force).map_err(|error| breach("create-md by force makes meta-data", &error))?;
    }
    let checked = check_md(location).map_err(|error| breach("check-md reads every disk", &error))?;
    ensure(checked.findings.is_empty(), "new meta-data are in order", || {
        format!("{:?}", checked.findings)
    })
}

fn breach(property: &'static str, error: &OfflineError) -> Breach {
    Breach {
        property,
        seen: error.to_string(),
    }
}

fn content(path: &Path) -> Result<Vec<u8>, Breach> {
    fs::read(path).map_err(|error| Breach {
        property: "the fuzzer's own files can be used",
        seen: error.to_string(),
    })
}

fn write_disk(path: &Path, patches: &[Patch]) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(DISK_BYTES)?;
    for patch in patches {
        let sectors = DISK_BYTES / 512;
        let distance = u64::from(patch.place & !FROM_END) % sectors;
        let sector = if patch.place & FROM_END != 0 {
            sectors - 1 - distance
        } else {
            distance
        };
        let room = (DISK_BYTES - sector * 512) as usize;
        file.write_all_at(&patch.content[..patch.content.len().min(room)], sector * 512)?;
    }
    Ok(())
}

fn take_apart(mut input: &[u8]) -> Vec<Patch> {
    let mut patches = Vec::new();
    while let Some((start, rest)) = input.split_first_chunk::<PATCH_BYTES>() {
        let length = usize::from(u16::from_le_bytes([start[4], start[5]])).min(rest.len());
        patches.push(Patch {
            place: u32::from_le_bytes([start[0], start[1], start[2], start[3]]),
            content: rest[..length].to_vec(),
        });
        input = &rest[length..];
    }
    patches
}

fn join(patches: &[Patch]) -> Vec<u8> {
    let mut input = Vec::new();
    for patch in patches {
        input.extend_from_slice(&patch.place.to_le_bytes());
        input.extend_from_slice(&(patch.content.len() as u16).to_le_bytes());
        input.extend_from_slice(&patch.content);
    }
    input
}

/// A disk that a node has used: a log of so many transactions.
fn formatted(flags: Flags, log_state: LogState, transactions: u16) -> Option<Vec<Patch>> {
    let sizes = DeviceSizes::internal(DISK_BYTES);
    let layout = MetadataLayout::compute(MetaIndex::Internal, sizes, LogGeometry::default()).ok()?;
    let superblock = Superblock {
        effective_sectors: layout.usable_sectors(),
        generations: GenerationIds::from_slots([0x1234_5678_9ABC_DEF1, 2, 3, 4]),
        device_id: 77,
        flags,
        log_state,
        ..Superblock::create(&layout)
    };
    let patch = |byte: u64, content: &[u8]| Patch {
        place: FROM_END | (DISK_BYTES / 512 - 1 - byte / 512) as u32,
        content: content.to_vec(),
    };
    let block = superblock.encode();
    let mut patches = vec![patch(layout.superblock_byte(), &block[..512])];
    let written = activity_log::written_blocks(transactions);
    for place in 0..8 {
        let block = written.get(&place).copied().unwrap_or_else(initialized_block);
        let end = block
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        patches.push(patch(layout.log_byte() + u64::from(place) * 4096, &block[..end]));
    }
    Some(patches)
}
