//! The disk part: submissions, steps, errors until acknowledged, the table, deaths.

use crate::world::{Driven, configuration, snapshot};
use mendblock_core::bitmap::BitmapIn;
use mendblock_core::disk::{
    DataKind, DataOperation, DeviceCompletion, DiskEffect, DiskIn, DiskPart, MetaKind, MetaOperation,
    OpenedDevice, PortOperation, Token, WhichDevice,
};
use mendblock_core::engine::VolumeIn;
use mendblock_core::identity::{ErrorNumber, OperationId, PartGeneration, Query};
use mendblock_core::part::{Outbox, Part, PartName, To};
use mendblock_core::volume::machine::{ErrorKind, StateIn};
use mendblock_core::volume::state::DiskState;
use mendblock_storage::buffer::{Buffer, BufferMut};
use mendblock_storage::format::layout::MetaIndex;
use mendblock_storage::units::SectorRange;

const ENODEV: i32 = 19;
const EIO: i32 = 5;

type Out = Outbox<DiskEffect>;

fn opened(meta_index: MetaIndex) -> Driven<DiskPart> {
    let mut disk = Driven::new(DiskPart::new(configuration(meta_index, 16), PartGeneration(1)));
    disk.on(DiskIn::Adopted {
        in_kernel: Vec::new(),
        failed: Vec::new(),
    });
    disk.on(DiskIn::Open { query: Query(1) });
    disk.on(DiskIn::Opened {
        query: Query(1),
        result: Ok(device()),
    });
    disk.on(DiskIn::Snapshot(snapshot(2, DiskState::UpToDate)));
    disk
}

fn device() -> OpenedDevice {
    OpenedDevice {
        data_bytes: 1 << 30,
        meta_bytes: None,
        logical_block: 512,
        backend: "memory",
    }
}

fn successor(in_kernel: Vec<Token>, failed: Vec<(Token, ErrorNumber, i32)>) -> (Driven<DiskPart>, Out) {
    let part = DiskPart::new(configuration(MetaIndex::Internal, 16), PartGeneration(2));
    let mut disk = Driven::new(part);
    let out = disk.on(DiskIn::Adopted { in_kernel, failed });
    (disk, out)
}

fn id(request: u64) -> OperationId {
    OperationId {
        generation: PartGeneration(1),
        request,
    }
}

fn range() -> SectorRange {
    SectorRange::new(8, 8).unwrap()
}

fn read(request: u64) -> DiskIn {
    DiskIn::Data(vec![DataOperation {
        id: id(request),
        kind: DataKind::Read { range: range() },
    }])
}

fn write(request: u64) -> DiskIn {
    let kind = DataKind::Write {
        range: range(),
        buffer: Buffer::from_vec(vec![1; 4096]),
        fua: false,
    };
    DiskIn::Data(vec![DataOperation {
        id: id(request),
        kind,
    }])
}

fn fua_zeroes(request: u64) -> DiskIn {
    let kind = DataKind::WriteZeroes {
        range: range(),
        may_unmap: true,
        fua: true,
    };
    DiskIn::Data(vec![DataOperation {
        id: id(request),
        kind,
    }])
}

fn meta(number: u64, kind: MetaKind) -> DiskIn {
    let (holder, generation) = (PartName::Bitmap, PartGeneration(1));
    DiskIn::Meta(vec![MetaOperation {
        holder,
        generation,
        number,
        kind,
    }])
}

fn flushed_write(number: u64) -> DiskIn {
    let kind = MetaKind::Write {
        offset: 8192,
        buffer: Buffer::from_vec(vec![2; 4096]),
        flush_before: true,
    };
    meta(number, kind)
}

fn good(token: Token) -> DiskIn {
    DiskIn::Completed(vec![DeviceCompletion {
        token,
        error: None,
        buffer: None,
    }])
}

fn bad(token: Token, number: u64) -> DiskIn {
    let error = Some((ErrorNumber(number), EIO));
    DiskIn::Completed(vec![DeviceCompletion {
        token,
        error,
        buffer: None,
    }])
}

/// The only submission of a step.
fn submitted(out: &Out) -> (Token, WhichDevice, PortOperation) {
    let mut all = out.effects.iter().filter_map(|effect| match effect {
        DiskEffect::Submit {
            token,
            device,
            operation,
        } => Some((*token, *device, operation.clone())),
        _ => None,
    });
    let first = all.next().expect("a submission");
    assert!(all.next().is_none(), "one submission");
    first
}

fn submits_nothing(out: &Out) -> bool {
    !out.effects
        .iter()
        .any(|effect| matches!(effect, DiskEffect::Submit { .. }))
}

fn forgotten(out: &Out) -> Vec<u64> {
    out.effects
        .iter()
        .filter_map(|effect| match effect {
            DiskEffect::Forget { number } => Some(number.0),
            _ => None,
        })
        .collect()
}

/// Request and error number (none: good) of every data completion.
fn completed(out: &Out) -> Vec<(u64, Option<(u64, i32)>)> {
    let lists = out.messages.iter().filter_map(|message| match message {
        To::Volume(VolumeIn::Completed(list)) => Some(list),
        _ => None,
    });
    let one = |result: &Result<Option<Buffer>, (ErrorNumber, i32)>| {
        result.as_ref().err().map(|(number, errno)| (number.0, *errno))
    };
    lists
        .flatten()
        .map(|completion| (completion.id.request, one(&completion.result)))
        .collect()
}

fn bitmap_meta(out: &Out) -> Vec<(u64, Result<(), i32>)> {
    let lists = out.messages.iter().filter_map(|message| match message {
        To::Bitmap(BitmapIn::Meta(list)) => Some(list),
        _ => None,
    });
    lists
        .flatten()
        .map(|one| {
            (
                one.number,
                one.result.as_ref().map(|_| ()).map_err(|errno| *errno),
            )
        })
        .collect()
}

fn reported(out: &Out) -> Vec<(u64, ErrorKind)> {
    out.messages
        .iter()
        .filter_map(|message| match message {
            To::State(StateIn::IoError { number, kind, .. }) => Some((number.0, *kind)),
            _ => None,
        })
        .collect()
}

#[test]
fn completions_of_one_step_come_in_one_message_with_the_data() {
    let mut disk = opened(MetaIndex::Internal);
    let (first, device, operation) = submitted(&disk.on(read(1)));
    assert_eq!(device, WhichDevice::Data);
    assert!(matches!(
        operation,
        PortOperation::Read {
            offset: 4096,
            length: 4096
        }
    ));
    let (second, ..) = submitted(&disk.on(write(2)));
    let mut buffer = BufferMut::zeroed(4096);
    buffer[0] = 9;
    let out = disk.on(DiskIn::Completed(vec![
        DeviceCompletion {
            token: first,
            error: None,
            buffer: Some(buffer),
        },
        DeviceCompletion {
            token: second,
            error: None,
            buffer: None,
        },
    ]));
    let [To::Volume(VolumeIn::Completed(list))] = &out.messages[..] else {
        panic!("{out:?}")
    };
    let data = list[0].result.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(data[0], 9);
    assert!(matches!(list[1].result, Ok(None)));
}

#[test]
fn a_flushed_write_of_external_meta_data_goes_step_by_step() {
    let mut disk = opened(MetaIndex::FlexExternal);
    let (token, device, operation) = submitted(&disk.on(flushed_write(1)));
    assert!(device == WhichDevice::Data && matches!(operation, PortOperation::Flush));
    let (token, device, operation) = submitted(&disk.on(good(token)));
    assert!(device == WhichDevice::Meta && matches!(operation, PortOperation::Flush));
    let out = disk.on(good(token));
    assert_eq!(bitmap_meta(&out), []);
    let (token, device, operation) = submitted(&out);
    assert_eq!(device, WhichDevice::Meta);
    assert!(matches!(
        operation,
        PortOperation::Write {
            offset: 8192,
            fua: true,
            ..
        }
    ));
    assert_eq!(bitmap_meta(&disk.on(good(token))), [(1, Ok(()))]);
}

#[test]
fn a_flushed_write_of_internal_meta_data_needs_one_flush() {
    let mut disk = opened(MetaIndex::Internal);
    let (token, _, operation) = submitted(&disk.on(flushed_write(1)));
    assert!(matches!(operation, PortOperation::Flush));
    let (token, _, operation) = submitted(&disk.on(good(token)));
    assert!(matches!(operation, PortOperation::Write { fua: true, .. }));
    assert_eq!(bitmap_meta(&disk.on(good(token))), [(1, Ok(()))]);
    let (token, _, _) = submitted(&disk.on(meta(2, MetaKind::Flush)));
    assert_eq!(bitmap_meta(&disk.on(good(token))), [(2, Ok(()))]);
}

#[test]
fn a_failed_step_ends_the_meta_operation() {
    let mut disk = opened(MetaIndex::FlexExternal);
    let (token, ..) = submitted(&disk.on(flushed_write(1)));
    let out = disk.on(bad(token, 1));
    assert!(submits_nothing(&out));
    assert_eq!(bitmap_meta(&out), [(1, Err(EIO))]);
    assert_eq!(reported(&out), [(1, ErrorKind::Meta)]);
    assert_eq!(
        forgotten(&disk.on(DiskIn::ErrorTaken {
            number: ErrorNumber(1)
        })),
        [1],
        "needs no mark"
    );
}

#[test]
fn zeroes_with_fua_are_flushed_before_they_complete() {
    let mut disk = opened(MetaIndex::Internal);
    let (token, _, operation) = submitted(&disk.on(fua_zeroes(1)));
    assert!(matches!(
        operation,
        PortOperation::WriteZeroes {
            may_unmap: true,
            length: 4096,
            ..
        }
    ));
    let out = disk.on(good(token));
    assert_eq!(completed(&out), []);
    let (token, _, operation) = submitted(&out);
    assert!(matches!(operation, PortOperation::Flush));
    assert_eq!(completed(&disk.on(good(token))), [(1, None)]);
}

#[test]
fn a_successor_flushes_zeroes_with_fua_too() {
    let zeroes = Token::ZeroesBeforeFlush(id(1), range());
    let (mut disk, _) = successor(vec![zeroes], Vec::new());
    let out = disk.on(good(zeroes));
    assert_eq!(completed(&out), []);
    let (token, ..) = submitted(&out);
    assert_eq!(completed(&disk.on(good(token))), [(1, None)]);
}

#[test]
fn an_error_is_repeated_until_it_is_taken_and_marked() {
    let mut disk = opened(MetaIndex::Internal);
    let (token, ..) = submitted(&disk.on(read(1)));
    let out = disk.on(bad(token, 4));
    assert_eq!(completed(&out), [(1, Some((4, EIO)))]);
    assert_eq!(reported(&out), [(4, ErrorKind::Read)]);

    // Behind the table, which says where it was: without that a new volume part could not mark it.
    let asked = |generation| DiskIn::QueryTable {
        asker: PartName::Volume,
        generation: PartGeneration(generation),
        query: Query(9),
    };
    let out = disk.on(asked(2));
    assert_eq!(completed(&out), [(1, Some((4, EIO)))]);
    match &out.messages[..] {
        [
            To::Volume(VolumeIn::Table(table)),
            To::Volume(VolumeIn::Completed(_)),
        ] => {
            assert_eq!(table.data, [(id(1), Some(range()), false)]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        forgotten(&disk.on(DiskIn::ErrorMarked {
            number: ErrorNumber(4)
        })),
        [0; 0]
    );
    assert_eq!(completed(&disk.on(asked(3))), []);

    let state = DiskIn::Restarted {
        part: PartName::State,
        generation: PartGeneration(2),
    };
    assert_eq!(reported(&disk.on(state)), [(4, ErrorKind::Read)]);
    assert_eq!(
        forgotten(&disk.on(DiskIn::ErrorTaken {
            number: ErrorNumber(4)
        })),
        [4]
    );
    let state = DiskIn::Restarted {
        part: PartName::State,
        generation: PartGeneration(3),
    };
    assert_eq!(reported(&disk.on(state)), []);
}

#[test]
fn a_successor_repeats_what_the_port_kept() {
    let meta = Token::Meta {
        holder: PartName::Bitmap,
        generation: PartGeneration(1),
        number: 5,
        step: Token::LAST_STEP,
    };
    let failed = vec![
        (Token::Data(id(1), Some(range()), false), ErrorNumber(1), EIO),
        (meta, ErrorNumber(2), EIO),
    ];
    let (mut disk, out) = successor(Vec::new(), failed);
    assert_eq!(completed(&out), [(1, Some((1, EIO)))]);
    assert_eq!(reported(&out), [(1, ErrorKind::Read), (2, ErrorKind::Meta)]);
    assert_eq!(bitmap_meta(&out), [(5, Err(EIO))]);
    assert_eq!(
        forgotten(&disk.on(DiskIn::ErrorTaken {
            number: ErrorNumber(2)
        })),
        [2]
    );
}

fn table(disk: &mut Driven<DiskPart>, asker: PartName) -> (Vec<u64>, Vec<u64>) {
    let generation = PartGeneration(3);
    let out = disk.on(DiskIn::QueryTable {
        asker,
        generation,
        query: Query(8),
    });
    let answer = match &out.messages[..] {
        [To::Volume(VolumeIn::Table(answer))] | [To::Bitmap(BitmapIn::Table(answer))] => answer,
        other => panic!("{other:?}"),
    };
    assert_eq!((answer.query, answer.asker), (Query(8), generation));
    let data = answer.data.iter().map(|(id, ..)| id.request).collect();
    (data, answer.meta.iter().map(|(_, number)| *number).collect())
}

/// A01, A02: a successor names what the kernel has and what waits with it, and nothing else.
#[test]
fn disk_actor_dies_with_submissions_queued() {
    let (mut disk, _) = successor(vec![Token::Data(id(1), Some(range()), true)], Vec::new());
    assert!(
        submits_nothing(&disk.on(write(2))),
        "it does not know yet whether there is a disk"
    );
    assert_eq!(table(&mut disk, PartName::Volume).0, [1, 2]);
    let out = disk.on(DiskIn::Snapshot(snapshot(5, DiskState::UpToDate)));
    let (token, ..) = submitted(&out);
    assert_eq!(token, Token::Data(id(2), Some(range()), true));
    disk.on(good(Token::Data(id(1), Some(range()), true)));
    assert_eq!(table(&mut disk, PartName::Volume).0, [2]);
    assert!(
        submits_nothing(&disk.on(write(2))),
        "a second copy stays out of the kernel"
    );
}

#[test]
fn a_meta_operation_between_its_steps_is_repeated_whole() {
    let mut old = opened(MetaIndex::Internal);
    let (flush, ..) = submitted(&old.on(flushed_write(1)));
    let (mut disk, _) = successor(vec![flush], Vec::new());
    disk.on(DiskIn::Snapshot(snapshot(5, DiskState::UpToDate)));
    assert_eq!(table(&mut disk, PartName::Bitmap).1, [0; 0]);
    let (own_flush, ..) = submitted(&disk.on(flushed_write(1)));
    assert!(
        submits_nothing(&disk.on(good(flush))),
        "the predecessor's flush is no step of it"
    );
    let (write, ..) = submitted(&disk.on(good(own_flush)));
    assert_eq!(bitmap_meta(&disk.on(good(write))), [(1, Ok(()))]);
}

#[test]
fn a_meta_operation_in_its_last_step_is_adopted() {
    let mut old = opened(MetaIndex::Internal);
    let (flush, ..) = submitted(&old.on(flushed_write(1)));
    let (write, ..) = submitted(&old.on(good(flush)));
    let (mut disk, _) = successor(vec![write], Vec::new());
    assert_eq!(table(&mut disk, PartName::Bitmap).1, [1]);
    assert_eq!(bitmap_meta(&disk.on(good(write))), [(1, Ok(()))]);
}

#[test]
fn without_a_usable_disk_operations_are_answered() {
    let part = DiskPart::new(configuration(MetaIndex::Internal, 16), PartGeneration(1));
    let mut disk = Driven::new(part);
    let out = disk.on(read(1));
    assert!(submits_nothing(&out) && reported(&out).is_empty());
    assert_eq!(completed(&out), [(1, Some((0, ENODEV)))]);
    assert_eq!(bitmap_meta(&disk.on(flushed_write(1))), [(1, Err(ENODEV))]);

    let mut disk = opened(MetaIndex::Internal);
    disk.on(DiskIn::Snapshot(snapshot(3, DiskState::Failed)));
    assert_eq!(completed(&disk.on(read(2))), [(2, Some((0, ENODEV)))]);
    submitted(&disk.on(flushed_write(3)));
}

#[test]
fn closing_answers_whoever_waits() {
    let mut disk = opened(MetaIndex::Internal);
    disk.on(write(1));
    disk.on(flushed_write(2));
    let out = disk.on(DiskIn::Close);
    assert!(matches!(out.effects[..], [DiskEffect::Close]));
    let out = disk.on(DiskIn::Closed);
    assert_eq!(completed(&out), [(1, Some((0, ENODEV)))]);
    assert_eq!(bitmap_meta(&out), [(2, Err(ENODEV))]);
    assert!(
        out.messages
            .iter()
            .any(|message| matches!(message, To::State(StateIn::DiskClosed)))
    );
}

/// Q3, Q4.
#[test]
fn late_completions_change_nothing_but_a_failed_read_is_marked() {
    let mut disk = opened(MetaIndex::Internal);
    let tokens: Vec<Token> = [read(1), write(2), read(3)]
        .into_iter()
        .map(|one| submitted(&disk.on(one)).0)
        .collect();
    disk.on(DiskIn::Abandon);
    assert!(disk.on(good(tokens[0])).messages.is_empty());
    let out = disk.on(bad(tokens[1], 1));
    assert!(out.messages.is_empty());
    assert_eq!(forgotten(&out), [1]);
    let out = disk.on(bad(tokens[2], 2));
    assert_eq!(completed(&out), [(3, Some((2, EIO)))]);
    assert_eq!(reported(&out), []);
    assert_eq!(
        forgotten(&disk.on(DiskIn::ErrorMarked {
            number: ErrorNumber(2)
        })),
        [2]
    );
}

#[test]
fn a_failed_read_of_meta_data_concerns_only_the_attach() {
    for (state, known) in [
        (DiskState::Attaching, vec![]),
        (DiskState::UpToDate, vec![(1, ErrorKind::Meta)]),
    ] {
        let mut disk = opened(MetaIndex::Internal);
        disk.on(DiskIn::Snapshot(snapshot(3, state)));
        let (token, ..) = submitted(&disk.on(meta(
            1,
            MetaKind::Read {
                offset: 0,
                length: 4096,
            },
        )));
        let out = disk.on(bad(token, 1));
        assert_eq!(bitmap_meta(&out), [(1, Err(EIO))]);
        assert_eq!(reported(&out), known);
        assert_eq!(forgotten(&out).is_empty(), !known.is_empty());
    }
}

#[test]
fn the_disk_timeout_is_reported_once_per_attach() {
    let mut disk = opened(MetaIndex::Internal);
    let (first, ..) = submitted(&disk.on(read(1)));
    disk.now = disk.now.after_ms(300);
    disk.on(write(2));
    disk.on(good(first));
    disk.now = disk.part.wake_at().unwrap();
    assert!(disk.wake().messages.is_empty(), "the oldest is 200 ms old");
    disk.now = disk.part.wake_at().unwrap();
    let out = disk.wake();
    let [
        To::State(StateIn::DiskTimeout {
            operation: "write",
            age: 500,
        }),
    ] = &out.messages[..]
    else {
        panic!("{out:?}")
    };
    disk.on(read(3));
    assert_eq!(disk.part.wake_at(), None);
    disk.on(DiskIn::Opened {
        query: Query(2),
        result: Ok(device()),
    });
    disk.on(read(4));
    assert!(disk.part.wake_at().is_some());
}
