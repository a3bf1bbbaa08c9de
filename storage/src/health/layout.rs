//! The header of a slot, byte by byte (table in `storage/HEALTH.md`).

use super::header::{
    DetachCause, GenerationSlots, HealCounters, Health, LastDetach, LossMark, ScrubProgress, VOLUME_NAME_MAX,
};
use super::record;
use super::set::RecordSet;
use super::slot::{FORMAT_VERSION, MAGIC, RECORD_BLOCKS, SlotError};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const OUTDATED: u32 = 1;
const SOURCE_OPEN: u32 = 2;
const LOSS: u32 = 4;
const DETACHED: u32 = 8;

const CAUSES: [DetachCause; 18] = [
    DetachCause::Admin,
    DetachCause::Read,
    DetachCause::Write,
    DetachCause::Flush,
    DetachCause::Meta,
    DetachCause::Timeout,
    DetachCause::DeviceGone,
    DetachCause::HealFailed,
    DetachCause::HealBudgetHour,
    DetachCause::HealBudgetTotal,
    DetachCause::HealDoesNotHold,
    DetachCause::TooManyBad,
    DetachCause::NoSpace,
    DetachCause::ReadOnly,
    DetachCause::Shrunk,
    DetachCause::Alignment,
    DetachCause::Attach,
    DetachCause::Quarantine,
];

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 8],
    pub version: U32,
    pub crc: U32,
    health_id: U64,
    sequence: U64,
    device_id: U64,
    attach_id: U64,
    generation: U64,
    current: U64,
    bitmap: U64,
    history: [U64; 2],
    outdated_since: U64,
    source_open: U64,
    loss_attach_id: U64,
    loss_current: U64,
    detached_at: U64,
    flags: U32,
    detach_cause: u8,
    reserved: [u8; 3],
    heal_total: U32,
    heal_episodes: U32,
    heal_last: U64,
    scrub_cursor: U64,
    scrub_errors: U32,
    pub record_count: U32,
    scrub_complete: U64,
    volume_length: U16,
    volume: [u8; VOLUME_NAME_MAX],
    reserved_end: [u8; 6],
    pub record_crcs: [U32; RECORD_BLOCKS],
}

/// Where the header's own checksum stands.
pub(super) const CRC_OFFSET: usize = 12;
const _: () = assert!(size_of::<Header>() == 472 && RECORD_BLOCKS == 40);

impl Header {
    /// The header of a content; its checksums are still zero.
    pub(super) fn of(health: &Health) -> Self {
        let marks = [
            (health.outdated_mark.is_some(), OUTDATED),
            (health.source_open_mark.is_some(), SOURCE_OPEN),
            (health.loss_mark.is_some(), LOSS),
            (health.last_detach.is_some(), DETACHED),
        ];
        let flags = marks.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
        let name = &health.volume.as_bytes()[..health.volume.floor_char_boundary(VOLUME_NAME_MAX)];
        let mut volume = [0; VOLUME_NAME_MAX];
        volume[..name.len()].copy_from_slice(name);
        let cause = health
            .last_detach
            .map(|detach| record::encode_code(&CAUSES, &detach.cause));
        Header {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            crc: U32::ZERO,
            health_id: U64::new(health.health_id),
            sequence: U64::new(health.sequence),
            device_id: U64::new(health.device_id),
            attach_id: U64::new(health.attach_id),
            generation: U64::new(health.generation),
            current: U64::new(health.ids.current),
            bitmap: U64::new(health.ids.bitmap),
            history: health.ids.history.map(U64::new),
            outdated_since: U64::new(health.outdated_mark.unwrap_or(0)),
            source_open: U64::new(health.source_open_mark.unwrap_or(0)),
            loss_attach_id: U64::new(health.loss_mark.map_or(0, |mark| mark.peer_attach_id)),
            loss_current: U64::new(health.loss_mark.map_or(0, |mark| mark.current)),
            detached_at: U64::new(health.last_detach.map_or(0, |detach| detach.at)),
            flags: U32::new(flags),
            detach_cause: cause.unwrap_or(0),
            reserved: [0; 3],
            heal_total: U32::new(health.heal.total_blocks),
            heal_episodes: U32::new(health.heal.episodes),
            heal_last: U64::new(health.heal.last_episode),
            scrub_cursor: U64::new(health.scrub.cursor),
            scrub_errors: U32::new(health.scrub.errors),
            record_count: U32::new(health.records.records().len() as u32),
            scrub_complete: U64::new(health.scrub.last_complete),
            volume_length: U16::new(name.len() as u16),
            volume,
            reserved_end: [0; 6],
            record_crcs: [U32::ZERO; RECORD_BLOCKS],
        }
    }

    /// The content of the header and its records.
    pub(super) fn health(&self, records: RecordSet) -> Result<Health, SlotError> {
        let flag = |flag: u32| self.flags.get() & flag != 0;
        let name = self.volume.get(..usize::from(self.volume_length.get()));
        let volume = name
            .and_then(|name| std::str::from_utf8(name).ok())
            .ok_or(SlotError::Field("volume"))?;
        let last_detach = if flag(DETACHED) {
            let cause = record::decode_code("detach_cause", &CAUSES, self.detach_cause);
            Some(LastDetach {
                cause: cause.map_err(|_| SlotError::Field("detach_cause"))?,
                at: self.detached_at.get(),
            })
        } else {
            None
        };
        Ok(Health {
            health_id: self.health_id.get(),
            sequence: self.sequence.get(),
            volume: volume.to_owned(),
            device_id: self.device_id.get(),
            attach_id: self.attach_id.get(),
            generation: self.generation.get(),
            last_detach,
            ids: GenerationSlots {
                current: self.current.get(),
                bitmap: self.bitmap.get(),
                history: self.history.map(U64::get),
            },
            outdated_mark: flag(OUTDATED).then(|| self.outdated_since.get()),
            source_open_mark: flag(SOURCE_OPEN).then(|| self.source_open.get()),
            loss_mark: flag(LOSS).then(|| LossMark {
                peer_attach_id: self.loss_attach_id.get(),
                current: self.loss_current.get(),
            }),
            heal: HealCounters {
                total_blocks: self.heal_total.get(),
                episodes: self.heal_episodes.get(),
                last_episode: self.heal_last.get(),
            },
            scrub: ScrubProgress {
                cursor: self.scrub_cursor.get(),
                errors: self.scrub_errors.get(),
                last_complete: self.scrub_complete.get(),
            },
            records,
        })
    }
}
