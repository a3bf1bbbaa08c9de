//! What every device must do, run over each backend.

use super::memory::{MemoryDevice, MemoryMedium};
use super::{Action, Completion, Device, DeviceError, Operation, OperationKind, errno};
use crate::buffer::{Buffer, BufferMut};
use std::time::{Duration, Instant};

const SIZE: u64 = 4 << 20;

pub(super) fn read(token: u64, offset: u64, length: usize) -> Operation {
    let mut buffer = BufferMut::zeroed(length);
    buffer.fill(0xee);
    Operation {
        token,
        kind: OperationKind::Read { offset, buffer },
    }
}

pub(super) fn write(token: u64, offset: u64, byte: u8, length: usize) -> Operation {
    Operation {
        token,
        kind: OperationKind::Write {
            offset,
            buffer: Buffer::from_vec(vec![byte; length]),
            fua: false,
        },
    }
}

/// Waits as a user of the trait must, until `count` completions are there; sorted by token.
pub(super) fn reap(device: &mut (impl Device + ?Sized), count: usize) -> Vec<Completion> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut completions = Vec::new();
    device.kick();
    device.reap(&mut completions);
    while completions.len() < count {
        assert!(Instant::now() < deadline, "no completion within 30 s");
        wait(device);
        device.kick();
        device.reap(&mut completions);
    }
    assert_eq!(completions.len(), count);
    completions.sort_by_key(|completion| completion.token);
    completions
}

#[cfg(feature = "devices")]
fn wait(device: &(impl Device + ?Sized)) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let until = device.next_wake().map_or(Duration::from_secs(1), |wake| {
        wake.saturating_duration_since(Instant::now())
            .min(Duration::from_secs(1))
    });
    let timeout = Timespec::try_from(until).unwrap();
    let mut waiting: Vec<_> = device
        .ready_fd()
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    poll(&mut waiting, Some(&timeout)).unwrap();
}

#[cfg(not(feature = "devices"))]
fn wait(_device: &(impl Device + ?Sized)) {
    std::thread::yield_now();
}

pub(super) fn run(device: &mut (impl Device + ?Sized), operation: Operation) -> Completion {
    device.submit(operation);
    reap(device, 1).remove(0)
}

pub(super) fn content(device: &mut (impl Device + ?Sized), offset: u64, length: usize) -> Vec<u8> {
    let completion = run(device, read(0, offset, length));
    assert_eq!(completion.result, Ok(()));
    completion.buffer.unwrap().to_vec()
}

pub(super) fn conforms(device: &mut dyn Device) {
    assert_eq!(device.size(), SIZE);
    assert_eq!(device.in_flight(), 0);
    what_is_written_is_read(device);
    zeroes_read_as_zeros(device);
    bad_operations_are_refused(device);
    many_in_flight(device);
    assert_eq!(device.in_flight(), 0);
    let mut none = Vec::new();
    device.reap(&mut none);
    assert!(none.is_empty());
}

fn what_is_written_is_read(device: &mut dyn Device) {
    let completion = run(device, write(7, 8192, 0xa5, 4096));
    assert_eq!((completion.token, completion.result), (7, Ok(())));
    assert_eq!(completion.summary.action, Action::Write);
    assert_eq!(
        (completion.summary.offset, completion.summary.length),
        (8192, 4096)
    );
    assert_eq!(completion.transferred, 4096);
    assert!(completion.buffer.is_none());

    let kind = OperationKind::Write {
        offset: 12288,
        buffer: Buffer::from_vec(vec![0x5a; 8192]).slice(4096..),
        fua: true,
    };
    assert_eq!(run(device, Operation { token: 8, kind }).result, Ok(()));
    let flush = Operation {
        token: 9,
        kind: OperationKind::Flush,
    };
    let flushed = run(device, flush);
    assert_eq!((flushed.result, flushed.summary.action), (Ok(()), Action::Flush));

    let bytes = content(device, 8192 - 512, 512 + 4096 + 4096);
    assert!(bytes[..512].iter().all(|byte| *byte == 0));
    assert!(bytes[512..4608].iter().all(|byte| *byte == 0xa5));
    assert!(bytes[4608..].iter().all(|byte| *byte == 0x5a));
}

fn zeroes_read_as_zeros(device: &mut dyn Device) {
    let (offset, length) = (66 * 512, 1 << 20);
    let kinds = [
        OperationKind::WriteZeroes {
            offset,
            length,
            may_unmap: false,
        },
        OperationKind::WriteZeroes {
            offset,
            length,
            may_unmap: true,
        },
        OperationKind::Discard { offset, length },
    ];
    for kind in kinds {
        let around = 512;
        assert_eq!(
            run(device, write(1, offset - around, 0x77, 2 << 20)).result,
            Ok(())
        );
        let completion = run(device, Operation { token: 2, kind });
        assert_eq!((completion.result, completion.transferred), (Ok(()), length));
        let bytes = content(device, offset - around, 2 << 20);
        let (before, rest) = bytes.split_at(around as usize);
        let (zeros, after) = rest.split_at(length as usize);
        assert!(
            before.iter().chain(after).all(|byte| *byte == 0x77),
            "{:?}",
            completion.summary
        );
        assert!(zeros.iter().all(|byte| *byte == 0), "{:?}", completion.summary);
    }
}

fn bad_operations_are_refused(device: &mut dyn Device) {
    let zeroes = |offset, length| Operation {
        token: 3,
        kind: OperationKind::WriteZeroes {
            offset,
            length,
            may_unmap: false,
        },
    };
    let unaligned_memory = Operation {
        token: 3,
        kind: OperationKind::Write {
            offset: 0,
            buffer: Buffer::from_vec(vec![1; 1024]).slice(1..513),
            fua: false,
        },
    };
    let bad = [
        read(3, SIZE, 512),
        read(3, SIZE - 512, 1024),
        write(3, u64::MAX - 511, 1, 512),
        read(3, 1, 512),
        write(3, 0, 1, 100),
        zeroes(SIZE - 512, 1024),
        zeroes(512, u64::MAX - 511),
        unaligned_memory,
    ];
    for operation in bad {
        let is_read = matches!(operation.kind, OperationKind::Read { .. });
        let completion = run(device, operation);
        assert_eq!(completion.result, Err(DeviceError::new(errno::EINVAL)));
        assert_eq!(completion.buffer.is_some(), is_read);
        assert_eq!(completion.transferred, 0);
    }
    assert_eq!(
        run(device, read(4, 512, 0)).result,
        Ok(()),
        "nothing to do is no error"
    );
}

fn many_in_flight(device: &mut dyn Device) {
    let count = 1000;
    for token in 0..count {
        device.submit(write(token, token * 4096, (token % 251) as u8, 4096));
    }
    assert_eq!(device.in_flight(), count as usize);
    let completions = reap(device, count as usize);
    for (token, completion) in (0..).zip(&completions) {
        assert_eq!((completion.token, completion.result), (token, Ok(())));
    }
    for token in 0..count {
        device.submit(read(token, token * 4096, 4096));
    }
    for completion in reap(device, count as usize) {
        assert_eq!(completion.result, Ok(()));
        let expected = (completion.token % 251) as u8;
        assert!(completion.buffer.unwrap().iter().all(|byte| *byte == expected));
    }
}

#[test]
fn memory_conforms() {
    conforms(&mut MemoryDevice::new(SIZE + 100));
}

#[test]
fn memory_is_kept_by_its_medium() {
    let medium = MemoryMedium::default();
    let mut device = MemoryDevice::over(medium.clone(), SIZE, 4096);
    assert_eq!(run(&mut device, write(1, 4096, 9, 4096)).result, Ok(()));
    assert_eq!(
        run(&mut device, write(1, 512, 9, 512)).result,
        Err(DeviceError::new(errno::EINVAL))
    );
    device.submit(write(2, 8192, 9, 4096));
    drop(device);
    medium.write(8192 + 100, &[1, 2, 3]);
    let mut bytes = [0xff; 5];
    medium.read(8191 + 100, &mut bytes);
    assert_eq!(bytes, [0, 1, 2, 3, 0], "what was never kicked was never written");
    assert_eq!(
        content(&mut MemoryDevice::over(medium, SIZE, 512), 4096, 4096),
        vec![9; 4096]
    );
}

#[cfg(feature = "devices")]
mod files;
