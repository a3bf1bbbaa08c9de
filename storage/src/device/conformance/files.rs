//! Devices over real files, and what only they show.

use super::*;
use crate::buffer::{BufferPool, PoolSizes, Share};
use crate::device::{Backend, OpenError, Options, Readiness, open};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
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

/// A loop device; detached when it is dropped.
struct LoopDevice {
    path: String,
    _file: TempPath,
}

impl LoopDevice {
    /// None, with a message, where none can be made.
    fn new(size: u64) -> Option<Self> {
        let file = file(size);
        let output = losetup(&["--show".as_ref(), "--find".as_ref(), file.as_os_str()]);
        match output {
            Ok(output) if output.status.success() => Some(Self {
                path: String::from_utf8(output.stdout).unwrap().trim().to_owned(),
                _file: file,
            }),
            refused => {
                eprintln!("no loop device can be made, block devices are not tested: {refused:?}");
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // One that stays attached is no reason to hide what the test found.
        let _ = losetup(&["--detach".as_ref(), self.path.as_ref()]);
    }
}

fn losetup(arguments: &[&OsStr]) -> std::io::Result<Output> {
    Command::new("losetup").args(arguments).output()
}

#[test]
fn a_block_device_conforms() {
    let Some(disk) = LoopDevice::new(SIZE) else { return };
    let path = Path::new(&disk.path);
    for backend in BACKENDS {
        let Some(mut device) = open_with(backend, path) else {
            continue;
        };
        let kind = OperationKind::Discard {
            offset: 0,
            length: SIZE,
        };
        run(&mut *device, Operation { token: 0, kind });
        conforms(&mut *device);
        let error = open(path, Options::default()).err().unwrap();
        assert!(
            error.to_string().contains("in use by this process itself"),
            "{error}"
        );
    }
}

/// Waiting is edge-triggered: what comes between a reap and the next wait must not be lost.
#[test]
fn readiness_misses_no_completion() {
    const DEPTH: u64 = 32;
    const READS: u64 = 2000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    on_each_backend(SIZE, |mut device, _| {
        runtime.block_on(async {
            let ready = Readiness::of(&*device).unwrap().unwrap();
            let (mut submitted, mut reaped) = (0, 0);
            let mut completions = Vec::new();
            while reaped < READS {
                while submitted < READS && submitted < reaped + DEPTH {
                    device.submit(read(submitted, submitted % 1024 * 4096, 4096));
                    submitted += 1;
                }
                device.kick();
                device.reap(&mut completions);
                if completions.is_empty() {
                    let waited = tokio::time::timeout(Duration::from_secs(30), ready.wait());
                    waited.await.expect("a completion within 30 s").unwrap();
                    device.reap(&mut completions);
                }
                reaped += completions.len() as u64;
                assert!(completions.drain(..).all(|completion| completion.result.is_ok()));
            }
        });
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
        let mut taken = Vec::new();
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
        // Had the pool got memory back that the kernel still reads, this would reach the disk.
        while let Some(mut stolen) = pool.take(Share::Clients, 1 << 20) {
            stolen.fill(0xcd);
            taken.push(stolen);
        }
        taken.clear();
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
