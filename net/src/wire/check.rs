//! What a decoded message must keep before anyone works with it. Ranges come from serde without their constructors,
//! so their end may overflow; lists and numbers have limits; a payload must fit its header.

use mendblock_storage::units::{BlockRange, SECTOR_BYTES, SectorRange};

use super::message::{BitmapEncoding, Hello, Message, PeerState, Sizes, WireRecord};
use super::prelude::{
    BITMAP_PAGE_BYTES, MAX_ACKS, MAX_BITMAP_PAGES, MAX_NAME_BYTES, MAX_PAYLOAD_BYTES, MAX_RANGES,
    MAX_RECORDS, MAX_TEXT_BYTES,
};

/// Highest node id.
const MAX_NODE_ID: u8 = 31;
/// Highest DRBD numbers of role, connection state and disk state.
const MAX_ROLE: u8 = 2;
const MAX_CONNECTION: u8 = 23;
const MAX_DISK: u8 = 8;

type Result = std::result::Result<(), &'static str>;

/// Checks the message and the length of its payload. The error names the rule that was broken.
pub(super) fn check(message: &Message, payload_length: usize) -> Result {
    match message {
        Message::Hello(hello) => check_hello(hello)?,
        Message::Sizes(sizes) => check_sizes(sizes)?,
        Message::BadBlocks {
            own,
            suspect,
            tombstones,
            ..
        } => {
            limit(own.len() + suspect.len() + tombstones.len(), MAX_RECORDS)?;
            own.iter().chain(suspect).try_for_each(check_record)?;
            check_blocks(tombstones)?;
        }
        Message::State(state) => check_state(state)?,
        Message::Tell { records, .. } => {
            limit(records.len(), MAX_RECORDS)?;
            records.iter().try_for_each(check_record)?;
        }
        Message::WriteZeroes { range, .. } | Message::WriteAnsweredWithError { range } => {
            check_sectors(*range)?
        }
        Message::Write { range, .. }
        | Message::Read { range, .. }
        | Message::ResyncRead { range, .. }
        | Message::ResyncData { range, .. }
        | Message::ResyncFailed { range, .. } => check_request(*range)?,
        Message::WriteAcks { requests } => limit(requests.len(), MAX_ACKS)?,
        Message::OutOfSync { ranges }
        | Message::ResyncWritten { ranges }
        | Message::Cleared { ranges }
        | Message::ClearedAck { ranges } => {
            limit(ranges.len(), MAX_RANGES)?;
            check_blocks(ranges)?;
        }
        Message::BitmapPages {
            first_page, pages, ..
        } => {
            ensure((1..=MAX_BITMAP_PAGES).contains(pages), "1 to 64 bitmap pages")?;
            ensure(
                first_page.checked_add(*pages).is_some(),
                "bitmap pages below 2^32",
            )?;
        }
        Message::Parting { text, .. }
        | Message::DiskRefused { text, .. }
        | Message::Refused { reason: text, .. }
        | Message::ChangeAnswer { cause: text, .. } => {
            ensure(text.len() <= MAX_TEXT_BYTES, "a text of at most 2048 bytes")?
        }
        Message::Ping { .. }
        | Message::Pong { .. }
        | Message::Generations(_)
        | Message::ChangeRequest { .. }
        | Message::WriteNack { .. }
        | Message::Barrier { .. }
        | Message::BarrierAck { .. }
        | Message::ReadData { .. }
        | Message::ReadFailed { .. }
        | Message::BitmapEnd { .. }
        | Message::SyncId { .. }
        | Message::Told { .. }
        | Message::Marked { .. } => {}
    }
    check_payload(message, payload_length)
}

fn check_payload(message: &Message, length: usize) -> Result {
    let expected = match message {
        Message::Write { range, .. } | Message::ResyncData { range, .. } => range.byte_length() as usize,
        Message::BitmapPages {
            pages,
            encoding: BitmapEncoding::Pages,
            ..
        } => *pages as usize * BITMAP_PAGE_BYTES,
        Message::ReadData { .. } => {
            let whole_sectors = length > 0 && length.is_multiple_of(SECTOR_BYTES as usize);
            return ensure(
                whole_sectors && length <= MAX_PAYLOAD_BYTES,
                "a payload of whole sectors, at most 1 MiB",
            );
        }
        _ => 0,
    };
    ensure(
        length == expected,
        "a payload of the length that the header names",
    )
}

fn check_hello(hello: &Hello) -> Result {
    ensure(
        hello.node_id <= MAX_NODE_ID && hello.peer_id <= MAX_NODE_ID,
        "node ids 0 to 31",
    )?;
    let is_name = |name: &str| (1..=MAX_NAME_BYTES).contains(&name.len());
    ensure(
        is_name(&hello.volume) && is_name(&hello.node_name),
        "names of a volume and a node, of 1 to 127 bytes",
    )
}

fn check_sizes(sizes: &Sizes) -> Result {
    let good = sizes.logical_block.is_power_of_two() && (512..=4096).contains(&sizes.logical_block);
    ensure(good, "a logical block of 512, 1024, 2048 or 4096 bytes")
}

fn check_state(state: &PeerState) -> Result {
    ensure(state.role <= MAX_ROLE, "a role 0 to 2")?;
    ensure(state.connection <= MAX_CONNECTION, "a connection state 0 to 23")?;
    ensure(
        state.disk <= MAX_DISK && state.peer_disk <= MAX_DISK,
        "disk states 0 to 8",
    )
}

fn check_record(record: &WireRecord) -> Result {
    ensure(record.state <= 3, "a record state 0 to 3")?;
    ensure(record.good_at <= 2, "a value of good_at 0 to 2")?;
    check_blocks(&[record.range])
}

fn check_blocks(ranges: &[BlockRange]) -> Result {
    let good = ranges
        .iter()
        .all(|range| BlockRange::new(range.first(), range.count()).is_some());
    ensure(good, "block ranges that are not empty and end below 2^64 sectors")
}

fn check_sectors(range: SectorRange) -> Result {
    let good = SectorRange::new(range.first(), range.count()).is_some();
    ensure(good, "a sector range that is not empty and ends below 2^64")
}

fn check_request(range: SectorRange) -> Result {
    check_sectors(range)?;
    ensure(
        range.byte_length() <= MAX_PAYLOAD_BYTES as u64,
        "a request of at most 1 MiB",
    )
}

fn limit(length: usize, most: usize) -> Result {
    ensure(length <= most, "a list within the limit of its kind")
}

fn ensure(good: bool, rule: &'static str) -> Result {
    if good { Ok(()) } else { Err(rule) }
}
