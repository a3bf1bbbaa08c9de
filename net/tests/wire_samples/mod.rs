//! Messages of every kind with their payloads, fixed for the golden bytes.

use mendblock_net::wire::message::*;
use mendblock_storage::units::{BlockRange, SectorRange};

fn sectors(first: u64, count: u32) -> SectorRange {
    SectorRange::new(first, count).unwrap()
}

fn blocks(first: u64, count: u32) -> BlockRange {
    BlockRange::new(first, count).unwrap()
}

fn record(first: u64) -> WireRecord {
    WireRecord {
        range: blocks(first, 3),
        state: 1,
        cause: 4,
        good_at: 2,
        generation: 0x2b2b_2b2b_2b2b_2b20,
    }
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index % 251) as u8).collect()
}

fn connection() -> Vec<Message> {
    vec![
        Message::Hello(Hello {
            version_min: 1,
            version_max: 1,
            features: features::ALL,
            required: features::BAD_BLOCKS,
            volume: "data".into(),
            node_id: 0,
            peer_id: 31,
            node_name: "alpha".into(),
            process_id: 0x0123_4567_89ab_cdef,
            dialled: true,
        }),
        Message::Refused {
            reason: "another volume".into(),
            for_good: true,
        },
        Message::Ping { number: 1 },
        Message::Pong { number: u64::MAX },
    ]
}

fn parameters() -> Vec<Message> {
    vec![
        Message::Sizes(Sizes {
            disk_sectors: 1 << 35,
            volume_sectors: 131_072,
            logical_block: 4096,
        }),
        Message::BadBlocks {
            own: vec![record(1)],
            suspect: vec![record(200), record(70_000)],
            tombstones: vec![blocks(9, 1)],
            last: true,
        },
        Message::Generations(GenerationInfo {
            current: 0x2b2b_2b2b_2b2b_2b21,
            bitmap: 0x1a1a_1a1a_1a1a_1a10,
            history: [0x5e5e_5e5e_5e5e_5e50, 4],
            set_bits: 1000,
            discard_my_data: false,
            crashed_primary: true,
            will_be_inconsistent: false,
            skip_initial_sync: true,
            attached: true,
            attach_id: 77,
            exposed: 0,
            made_for_loss_of: 78,
            not_primary_since: true,
        }),
        Message::State(PeerState {
            number: 12,
            role: 1,
            connection: 10,
            disk: 8,
            peer_disk: 4,
            suspended: false,
            paused: true,
        }),
    ]
}

fn changes() -> Vec<Message> {
    let requested = [
        RequestedChange::Promote,
        RequestedChange::Detach,
        RequestedChange::Disconnect {
            outdate_me: true,
            outdate_you: false,
        },
        RequestedChange::FullSyncToMe,
        RequestedChange::FullSyncToYou,
    ];
    let mut messages: Vec<_> = requested
        .into_iter()
        .zip(1..)
        .map(|(change, request)| Message::ChangeRequest { request, change })
        .collect();
    messages.push(Message::ChangeAnswer {
        request: 1,
        code: -2,
        cause: "no up-to-date disk".into(),
    });
    messages.push(Message::Parting {
        reason: 3,
        text: "split brain".into(),
    });
    messages.push(Message::DiskRefused {
        reason: 7,
        text: "not now".into(),
    });
    messages
}

fn replication() -> Vec<(Message, Vec<u8>)> {
    let write = Message::Write {
        request: 300,
        epoch: 5,
        range: sectors(8, 2),
        fua: true,
        may_set_in_sync: false,
    };
    let zeroes = Message::WriteZeroes {
        request: 301,
        epoch: 5,
        range: sectors(1 << 33, 1 << 20),
        may_unmap: true,
        fua: false,
        may_set_in_sync: true,
    };
    let ranges = vec![blocks(1, 1), blocks(1 << 20, 300)];
    vec![
        (write, payload(1024)),
        (zeroes, vec![]),
        (
            Message::WriteAcks {
                requests: vec![1, 300, 70_000],
            },
            vec![],
        ),
        (
            Message::WriteNack {
                request: 300,
                errno: 5,
            },
            vec![],
        ),
        (Message::WriteAnsweredWithError { range: sectors(8, 2) }, vec![]),
        (Message::Barrier { epoch: 5, writes: 2 }, vec![]),
        (Message::BarrierAck { epoch: 5 }, vec![]),
        (Message::OutOfSync { ranges }, vec![]),
        (
            Message::Read {
                request: 302,
                range: sectors(16, 1),
            },
            vec![],
        ),
        (Message::ReadData { request: 302 }, payload(512)),
        (
            Message::ReadFailed {
                request: 302,
                errno: 61,
            },
            vec![],
        ),
    ]
}

fn resync() -> Vec<(Message, Vec<u8>)> {
    let pages = |encoding| Message::BitmapPages {
        first_page: 64,
        pages: 1,
        encoding,
    };
    let range = sectors(80, 8);
    vec![
        (pages(BitmapEncoding::Pages), payload(4096)),
        (pages(BitmapEncoding::Uniform(true)), vec![]),
        (Message::BitmapEnd { set_bits: 8 }, vec![]),
        (
            Message::SyncId {
                id: 0x1a1b_1a1a_1a1a_1a10,
            },
            vec![],
        ),
        (Message::ResyncRead { request: 9, range }, vec![]),
        (Message::ResyncData { request: 9, range }, payload(4096)),
        (Message::ResyncFailed { request: 10, range }, vec![]),
        (
            Message::ResyncWritten {
                ranges: vec![blocks(10, 1)],
            },
            vec![],
        ),
    ]
}

fn loss() -> Vec<Message> {
    vec![
        Message::Tell {
            number: 3,
            attach_id: 77,
            failed: true,
            records: vec![record(5)],
        },
        Message::Told {
            number: 3,
            current: 0x3c3c_3c3c_3c3c_3c30,
            new_generation: true,
        },
        Message::Marked {
            generation: 0x3c3c_3c3c_3c3c_3c30,
        },
        Message::Cleared {
            ranges: vec![blocks(5, 3)],
        },
        Message::ClearedAck {
            ranges: vec![blocks(5, 3)],
        },
    ]
}

/// All samples, in the order of the kinds' numbers.
pub fn samples() -> Vec<(Message, Vec<u8>)> {
    let plain = |messages: Vec<Message>| messages.into_iter().map(|message| (message, Vec::new()));
    plain(connection())
        .chain(plain(parameters()))
        .chain(plain(changes()))
        .chain(replication())
        .chain(resync())
        .chain(plain(loss()))
        .collect()
}
