//! Outcomes of system calls that real disks seldom give.

use super::*;

const GEOMETRY: Geometry = Geometry {
    size: 64 << 20,
    logical_block: 512,
    read_only: false,
    direct: true,
};

fn job(kind: OperationKind, lacks: &Lacks) -> Job {
    let (job, next) = Job::new(Operation { token: 1, kind }, &GEOMETRY, lacks, Instant::now());
    assert_eq!(next, Next::Step);
    job
}

fn read(length: usize) -> Job {
    let kind = OperationKind::Read {
        offset: 4096,
        buffer: BufferMut::zeroed(length),
    };
    job(kind, &Lacks::default())
}

fn write(fua: bool) -> Job {
    let kind = OperationKind::Write {
        offset: 0,
        buffer: Buffer::from_vec(vec![7; 4096]),
        fua,
    };
    job(kind, &Lacks::default())
}

fn failure(errno: i32) -> Next {
    Next::Done(Err(DeviceError::new(errno)))
}

#[test]
fn short_transfers_go_on_at_a_block() {
    let (mut job, mut lacks) = (read(4096), Lacks::default());
    assert_eq!(job.advance(Ok(1000), &GEOMETRY, &mut lacks), Next::Step);
    assert_eq!(
        job.step(),
        Step::Read {
            offset: 4096 + 512,
            start: 512
        }
    );
    assert_eq!(job.advance(Ok(3584), &GEOMETRY, &mut lacks), Next::Done(Ok(())));
    assert_eq!(job.complete(Ok(()), Instant::now()).transferred, 4096);
}

#[test]
fn no_progress_twice_and_the_end_are_errors() {
    let (mut job, mut lacks) = (read(4096), Lacks::default());
    assert_eq!(job.advance(Ok(100), &GEOMETRY, &mut lacks), Next::Step);
    assert_eq!(job.advance(Ok(100), &GEOMETRY, &mut lacks), failure(errno::EIO));

    let mut job = read(4096);
    assert_eq!(job.advance(Ok(1024), &GEOMETRY, &mut lacks), Next::Step);
    let shrunk = DeviceError {
        errno: errno::EIO,
        shrunk: true,
    };
    assert_eq!(job.advance(Ok(0), &GEOMETRY, &mut lacks), Next::Done(Err(shrunk)));
    assert_eq!(job.complete(Err(shrunk), Instant::now()).transferred, 1024);
}

#[test]
fn transient_errors_wait_longer_each_time_and_end_as_eio() {
    let (mut job, mut lacks) = (read(512), Lacks::default());
    let mut waits = Vec::new();
    let end = loop {
        match job.advance(Err(errno::EAGAIN), &GEOMETRY, &mut lacks) {
            Next::StepAfter(wait) => waits.push(wait.as_millis()),
            next => break next,
        }
    };
    assert_eq!(end, failure(errno::EIO));
    assert_eq!(waits[..9], [1, 2, 4, 8, 16, 32, 64, 128, 256]);
    let total: u128 = waits.iter().sum();
    assert!((4744..=5000).contains(&total), "{total}");
}

#[test]
fn fua_falls_back_to_write_and_flush_and_remembers() {
    let (mut job, mut lacks) = (write(true), Lacks::default());
    assert_eq!(
        job.advance(Err(errno::EOPNOTSUPP), &GEOMETRY, &mut lacks),
        Next::Step
    );
    assert!(lacks.fua);
    let plain = Step::Write {
        offset: 0,
        start: 0,
        fua: false,
    };
    assert_eq!(job.step(), plain);
    assert_eq!(job.advance(Ok(4096), &GEOMETRY, &mut lacks), Next::Step);
    assert_eq!(job.step(), Step::Sync);
    assert_eq!(job.advance(Ok(0), &GEOMETRY, &mut lacks), Next::Done(Ok(())));
}

#[test]
fn a_flush_that_stands_for_fua_fails_the_write() {
    let (mut job, mut lacks) = (write(true), Lacks::default());
    job.advance(Err(errno::EINVAL), &GEOMETRY, &mut lacks);
    assert!(!lacks.fua, "EINVAL may have been about this one write");
    job.advance(Ok(4096), &GEOMETRY, &mut lacks);
    assert_eq!(
        job.advance(Err(errno::EIO), &GEOMETRY, &mut lacks),
        failure(errno::EIO)
    );
}

#[test]
fn zeroing_falls_back_step_by_step() {
    let mut lacks = Lacks::default();
    let discard = || OperationKind::Discard {
        offset: 0,
        length: 3 << 20,
    };
    let mut first = job(discard(), &lacks);
    assert!(matches!(first.step(), Step::PunchHole { .. }));
    assert_eq!(
        first.advance(Err(errno::EOPNOTSUPP), &GEOMETRY, &mut lacks),
        Next::Step
    );
    assert!(matches!(first.step(), Step::ZeroRange { .. }));
    assert_eq!(first.advance(Err(errno::EIO), &GEOMETRY, &mut lacks), Next::Step);
    for offset in [0, 1 << 20, 2 << 20] {
        let length = 1 << 20;
        assert_eq!(first.step(), Step::WriteZeros { offset, length });
        let next = first.advance(Ok(length as u64), &GEOMETRY, &mut lacks);
        assert_eq!(next == Next::Done(Ok(())), offset == 2 << 20);
    }
    assert!(lacks.punch && !lacks.zero_range);
    assert!(matches!(job(discard(), &lacks).step(), Step::ZeroRange { .. }));
}

#[test]
fn writes_to_a_read_only_device_are_refused() {
    let geometry = Geometry {
        read_only: true,
        ..GEOMETRY
    };
    let kind = OperationKind::WriteZeroes {
        offset: 0,
        length: 512,
        may_unmap: false,
    };
    let operation = Operation { token: 1, kind };
    let (_, next) = Job::new(operation, &geometry, &Lacks::default(), Instant::now());
    assert_eq!(next, failure(errno::EROFS));
}
