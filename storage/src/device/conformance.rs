//! What every device must do, run over each backend; and what only real files show.

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
mod files {
    use super::*;
    use crate::buffer::{BufferPool, PoolSizes, Share};
    use crate::device::{Backend, OpenError, Options, open};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use tempfile::{NamedTempFile, TempPath};

    const BACKENDS: [Backend; 2] = [Backend::IoUring, Backend::Threads];

    /// /var/tmp is a real file system nearly everywhere, while /tmp is often tmpfs, which knows no O_DIRECT.
    fn file(size: u64) -> TempPath {
        let file = NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(size).unwrap();
        file.into_temp_path()
    }

    /// None where this machine refuses io_uring.
    fn open_with(backend: Backend, path: &Path) -> Option<Box<dyn Device + Send>> {
        let options = Options {
            backend,
            read_only: false,
        };
        match open(path, options) {
            Err(OpenError::Failed { what, .. }) if what.starts_with("setting up io_uring") => {
                eprintln!("io_uring is refused on this machine: not tested");
                None
            }
            opened => Some(opened.unwrap()),
        }
    }

    fn on_each_backend(size: u64, mut test: impl FnMut(Box<dyn Device + Send>, &Path)) {
        for backend in BACKENDS {
            let path = file(size);
            if let Some(device) = open_with(backend, &path) {
                test(device, &path);
            }
        }
    }

    #[test]
    fn files_conform() {
        on_each_backend(SIZE + 100, |mut device, _| {
            assert!(!device.backend().contains("buffered"));
            conforms(&mut *device);
        });
    }

    #[test]
    fn where_o_direct_is_refused_the_page_cache_serves() {
        let Ok(file) = NamedTempFile::new_in("/dev/shm") else {
            return;
        };
        file.as_file().set_len(SIZE).unwrap();
        for backend in BACKENDS {
            file.as_file().set_len(0).unwrap();
            file.as_file().set_len(SIZE).unwrap();
            if let Some(mut device) = open_with(backend, file.path()) {
                conforms(&mut *device);
            }
        }
    }

    #[test]
    fn a_device_that_shrank_says_so() {
        on_each_backend(SIZE, |mut device, path| {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(SIZE / 2)
                .unwrap();
            let completion = run(&mut *device, read(1, SIZE / 2 - 4096, 8192));
            let error = completion.result.unwrap_err();
            assert_eq!((error.errno, error.shrunk), (errno::EIO, true));
            assert_eq!(completion.transferred, 4096);
            assert!(completion.buffer.unwrap()[..4096].iter().all(|byte| *byte == 0));
            assert!(error.to_string().contains("smaller"));
        });
    }

    #[test]
    fn dropping_a_device_keeps_what_the_kernel_uses() {
        let pool = BufferPool::new(PoolSizes {
            total: 32 << 20,
            clients: 20 << 20,
            peer: 1 << 20,
            resync: 1 << 20,
            metadata: 1 << 20,
        })
        .unwrap();
        on_each_backend(32 << 20, |mut device, path| {
            for token in 0..20 {
                let mut buffer = pool.take(Share::Clients, 1 << 20).unwrap();
                buffer.fill(0xab);
                let kind = OperationKind::Write {
                    offset: token << 20,
                    buffer: buffer.freeze(),
                    fua: true,
                };
                device.submit(Operation { token, kind });
            }
            device.kick();
            drop(device);
            // The lock goes with the last operation; then every buffer is back, and no piece holds anything else.
            let deadline = Instant::now() + Duration::from_secs(30);
            while pool.usage(Share::Clients).used > 0 || open(path, Options::default()).is_err() {
                assert!(Instant::now() < deadline, "buffers or lock were kept");
                std::thread::yield_now();
            }
            let file = File::open(path).unwrap();
            let mut bytes = vec![0; 1 << 20];
            for piece in 0..20u64 {
                file.read_exact_at(&mut bytes, piece << 20).unwrap();
                assert!(bytes.iter().all(|byte| *byte == 0xab || *byte == 0));
            }
        });
    }

    #[test]
    fn a_buffer_dropped_by_its_holder_is_still_written() {
        on_each_backend(SIZE, |mut device, _| {
            let buffer = Buffer::from_vec(vec![0x42; 1 << 20]);
            let kind = OperationKind::Write {
                offset: 0,
                buffer: buffer.clone(),
                fua: false,
            };
            device.submit(Operation { token: 1, kind });
            drop(buffer);
            assert_eq!(reap(&mut *device, 1)[0].result, Ok(()));
            assert_eq!(content(&mut *device, 0, 1 << 20), vec![0x42; 1 << 20]);
        });
    }

    #[test]
    fn a_disk_is_opened_once() {
        on_each_backend(SIZE, |device, path| {
            let error = open(path, Options::default()).err().unwrap();
            assert!(matches!(error, OpenError::InUse { .. }));
            assert!(
                error.to_string().contains("in use by this process itself"),
                "{error}"
            );
            drop(device);
            assert!(open(path, Options::default()).is_ok());
        });
    }

    #[test]
    fn readers_share_and_cannot_write() {
        let path = file(SIZE);
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        let mut device = open(&path, options).unwrap();
        let second = open(&path, options).unwrap();
        assert!(matches!(
            open(&path, Options::default()),
            Err(OpenError::InUse { .. })
        ));
        drop(second);
        let completion = run(&mut *device, write(1, 0, 1, 512));
        assert_eq!(completion.result, Err(DeviceError::new(errno::EROFS)));
        assert_eq!(content(&mut *device, 0, 512), vec![0; 512]);
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let error = |path: &Path| open(path, Options::default()).err().unwrap();
        assert!(matches!(
            error(Path::new("/nonexistent/disk")),
            OpenError::Open { .. }
        ));
        assert!(
            error(Path::new("/var/tmp"))
                .to_string()
                .contains("is a directory")
        );
        assert!(
            error(Path::new("/dev/null"))
                .to_string()
                .contains("a character device")
        );
        assert!(matches!(error(&file(511)), OpenError::TooSmall { size: 511, .. }));
    }

    #[test]
    fn a_discard_gives_space_back() {
        use std::os::unix::fs::MetadataExt;
        on_each_backend(SIZE, |mut device, path| {
            assert_eq!(run(&mut *device, write(1, 0, 1, 2 << 20)).result, Ok(()));
            let flush = || Operation {
                token: 2,
                kind: OperationKind::Flush,
            };
            run(&mut *device, flush());
            let before = std::fs::metadata(path).unwrap().blocks();
            let kind = OperationKind::Discard {
                offset: 0,
                length: 2 << 20,
            };
            run(&mut *device, Operation { token: 3, kind });
            run(&mut *device, flush());
            let after = std::fs::metadata(path).unwrap();
            assert!(
                after.blocks() < before,
                "{before} blocks before, {} after",
                after.blocks()
            );
            assert_eq!(after.len(), SIZE);
        });
    }
}
