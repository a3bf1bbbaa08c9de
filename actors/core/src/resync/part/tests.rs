//! The part with a bitmap and a source played by the test.

use super::*;
use crate::configuration::ResyncRate;
use mendblock_storage::units::SectorRange;
use std::collections::BTreeSet;

/// No multiple of a block: the last one is cut.
const VOLUME_SECTORS: u64 = 64 * 2048 - 3;

fn configuration(resync: ResyncRate) -> Arc<VolumeConfiguration> {
    Arc::new(VolumeConfiguration {
        peer_window: 16 << 20,
        resync,
        ..VolumeConfiguration::sample(0)
    })
}

struct Bench {
    part: ResyncPart,
    now: u64,
    bits: BTreeSet<u64>,
    unfetchable: BTreeSet<u64>,
    /// Blocks that the source cannot read.
    unreadable: BTreeSet<u64>,
    jobs: VecDeque<(u64, SectorRange)>,
    queries: VecDeque<(Query, u64)>,
    fetched: Vec<SectorRange>,
    finished: Vec<u64>,
    progress: Vec<Option<Progress>>,
}

impl Bench {
    fn new(bits: impl IntoIterator<Item = u64>) -> Self {
        Self::with(ResyncRate::SAMPLE, bits)
    }

    fn with(rate: ResyncRate, bits: impl IntoIterator<Item = u64>) -> Self {
        Self {
            part: ResyncPart::new(configuration(rate), PartGeneration(1)),
            now: 0,
            bits: bits.into_iter().collect(),
            unfetchable: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            jobs: VecDeque::new(),
            queries: VecDeque::new(),
            fetched: Vec::new(),
            finished: Vec::new(),
            progress: Vec::new(),
        }
    }

    fn step(&mut self, message: Option<ResyncIn>) {
        let mut random = || 1;
        let mut cx = Context {
            now: Instant(0).after_ms(self.now),
            wall: 0,
            random: &mut random,
        };
        let mut out = Outbox::default();
        match message {
            Some(message) => self.part.on(&mut cx, message, &mut out),
            None => self.part.wake(&mut cx, &mut out),
        }
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Outbox<ResyncEffect>) {
        for message in out.messages {
            match message {
                To::Volume(VolumeIn::FetchBlocks { job, range }) => {
                    self.jobs.push_back((job, range));
                    self.fetched.push(range);
                }
                To::Bitmap(BitmapIn::NextRun { query, from, .. }) => self.queries.push_back((query, from)),
                To::State(StateIn::ResyncFinished { lost }) => self.finished.push(lost),
                other => panic!("{other:?}"),
            }
        }
        self.progress.extend(
            out.effects
                .into_iter()
                .map(|ResyncEffect::Progress(progress)| progress),
        );
    }

    /// What a snapshot with this state brings about.
    fn state(&mut self, connection: ConnectionState, paused: bool) {
        let mut vector = StateVector {
            connection,
            ..StateVector::START
        };
        vector.paused.user = paused;
        let number = connection.is_connected_or_better().then_some(ConnectionNumber(1));
        let now = Instant(0).after_ms(self.now);
        let mut out = Outbox::default();
        self.part.follow(&vector, number, VOLUME_SECTORS, now, &mut out);
        self.part.go_on(now, &mut out);
        self.carry_out(out);
    }

    fn wake(&mut self) {
        self.now = self.now.max(self.part.wake_at().unwrap().0 / 1_000_000);
        self.step(None);
    }

    fn answer_queries(&mut self) {
        while let Some((query, from)) = self.queries.pop_front() {
            let mut runs: Vec<BlockRange> = Vec::new();
            for &block in self
                .bits
                .range(from..)
                .filter(|block| !self.unfetchable.contains(block))
            {
                let full = runs.len() == 64;
                match runs
                    .last_mut()
                    .filter(|run| run.end() == block && run.count() < 256)
                {
                    Some(run) => *run = BlockRange::new(run.first(), run.count() + 1).unwrap(),
                    None if full => break,
                    None => runs.push(BlockRange::single(block)),
                }
            }
            let (set_bits, unfetchable) = (self.bits.len() as u64, self.unfetchable.len() as u64);
            self.step(Some(ResyncIn::Runs {
                query,
                runs,
                set_bits,
                unfetchable,
            }));
        }
    }

    fn answer_job(&mut self) -> bool {
        let Some((job, range)) = self.jobs.pop_front() else {
            return false;
        };
        let blocks = range.touched_blocks();
        let end = if blocks.iter().any(|block| self.unreadable.contains(&block)) {
            self.unfetchable.extend(blocks.iter());
            JobEnd::SourceCannot
        } else {
            blocks.iter().for_each(|block| {
                self.bits.remove(&block);
            });
            JobEnd::Written
        };
        self.step(Some(ResyncIn::Done { job, end }));
        true
    }

    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.answer_queries();
            if !self.finished.is_empty() {
                return;
            }
            if !self.answer_job() {
                self.wake();
            }
        }
        panic!("never finished: {} bits left", self.bits.len());
    }

    fn in_flight(&self) -> u64 {
        self.jobs.iter().map(|(_, range)| range.byte_length()).sum()
    }
}

#[test]
fn it_finishes_and_cuts_the_last_block() {
    let last = VOLUME_SECTORS / 8;
    let mut bench = Bench::new([0, 1, 2, 700, last]);
    bench.state(ConnectionState::SyncTarget, false);
    bench.settle();
    assert_eq!(bench.finished, [0]);
    assert_eq!(
        bench.fetched,
        [
            SectorRange::new(0, 24).unwrap(),
            SectorRange::new(5600, 8).unwrap(),
            SectorRange::new(last * 8, (VOLUME_SECTORS - last * 8) as u32).unwrap(),
        ]
    );
}

#[test]
fn nothing_to_do_is_finished_at_once() {
    let mut bench = Bench::new([]);
    bench.state(ConnectionState::SyncTarget, false);
    bench.settle();
    assert_eq!((bench.finished.len(), bench.now), (1, 0));
}

#[test]
fn jobs_are_at_most_a_mebibyte_and_several_are_in_flight() {
    let mut bench = Bench::new(0..16_000);
    bench.state(ConnectionState::SyncTarget, false);
    bench.wake();
    bench.answer_queries();
    assert!(bench.in_flight() >= 4 << 20, "{} bytes", bench.in_flight());
    assert!(
        bench.in_flight() <= 9 << 20,
        "half of the peer's buffers and a job"
    );
    assert!(bench.jobs.iter().all(|(_, range)| range.byte_length() <= 1 << 20));
    bench.settle();
    assert!(bench.bits.is_empty());
    assert!(bench.now < 1000, "answers are replaced at once: {} ms", bench.now);
}

#[test]
fn a_fixed_rate_is_kept() {
    let fixed = ResyncRate {
        plan_ahead: 0,
        resync_rate: 10_240,
        ..ResyncRate::SAMPLE
    };
    let mut bench = Bench::with(fixed, 0..7_680);
    bench.state(ConnectionState::SyncTarget, false);
    bench.settle();
    // 30 MiB at 10 MiB/s, with a job of 1 MiB as the unit of a tick.
    assert!((2800..=3200).contains(&bench.now), "{} ms", bench.now);
}

#[test]
fn bits_set_behind_the_cursor_are_found_by_the_next_pass() {
    let mut bench = Bench::new([5000]);
    bench.state(ConnectionState::SyncTarget, false);
    bench.wake();
    bench.answer_queries();
    bench.bits.insert(10);
    bench.settle();
    assert!(bench.bits.is_empty());
    assert_eq!(bench.fetched.last().unwrap().first(), 80);
}

#[test]
fn it_pauses_resumes_and_stops() {
    let mut bench = Bench::new(0..10_000);
    bench.state(ConnectionState::SyncTarget, false);
    bench.wake();
    bench.answer_queries();
    bench.state(ConnectionState::PausedSyncT, true);
    let requested = bench.fetched.len();
    while bench.answer_job() {}
    bench.answer_queries();
    assert_eq!(
        bench.fetched.len(),
        requested,
        "what was requested ends, nothing is added"
    );
    assert_eq!(bench.part.wake_at(), None);
    bench.state(ConnectionState::SyncTarget, false);
    bench.wake();
    bench.answer_queries();
    assert!(bench.fetched.len() > requested);
    bench.state(ConnectionState::WFConnection, false);
    assert_eq!(bench.progress.last(), Some(&None));
    let requested = bench.fetched.len();
    while bench.answer_job() {}
    assert_eq!((bench.fetched.len(), bench.part.wake_at()), (requested, None));
}

#[test]
fn what_the_source_cannot_read_is_lost_and_does_not_hold_up_the_end() {
    let mut bench = Bench::new([3, 4, 900]);
    bench.unreadable.insert(900);
    bench.state(ConnectionState::SyncTarget, false);
    bench.settle();
    assert_eq!(bench.finished, [1]);
    assert_eq!(bench.bits, BTreeSet::from([900]));
}

#[test]
fn a_failed_write_waits_before_it_is_tried_again() {
    let mut bench = Bench::new([3]);
    bench.state(ConnectionState::SyncTarget, false);
    bench.wake();
    bench.answer_queries();
    let (job, _) = bench.jobs.pop_front().unwrap();
    bench.step(Some(ResyncIn::Done {
        job,
        end: JobEnd::WriteFailed,
    }));
    while bench.now < 900 {
        bench.wake();
        bench.answer_queries();
    }
    assert!(bench.jobs.is_empty() && bench.finished.is_empty());
    bench.settle();
    assert_eq!(bench.fetched.len(), 2);
}

#[test]
fn neighbours_that_died_are_asked_again() {
    let mut bench = Bench::new(0..300);
    bench.state(ConnectionState::SyncTarget, false);
    bench.wake();
    let asked = bench.queries.pop_front().unwrap();
    bench.step(Some(ResyncIn::Restarted {
        part: PartName::Bitmap,
        generation: PartGeneration(2),
    }));
    assert_eq!(
        bench
            .queries
            .front()
            .map(|(query, from)| (*query > asked.0, *from)),
        Some((true, 0))
    );
    bench.answer_queries();
    let jobs = std::mem::take(&mut bench.jobs);
    assert!(!jobs.is_empty());
    bench.step(Some(ResyncIn::Restarted {
        part: PartName::Volume,
        generation: PartGeneration(2),
    }));
    assert_eq!(bench.jobs, jobs);
    bench.settle();
    let finished = bench.finished.len();
    bench.step(Some(ResyncIn::Restarted {
        part: PartName::State,
        generation: PartGeneration(2),
    }));
    bench.finished.clear();
    bench.settle();
    assert_eq!(
        (finished, bench.finished.len()),
        (1, 1),
        "the end is told to a new state part"
    );
}

#[test]
fn progress_is_reported_at_most_twice_a_second() {
    let slow = ResyncRate {
        plan_ahead: 0,
        resync_rate: 10_240,
        ..ResyncRate::SAMPLE
    };
    let mut bench = Bench::with(slow, 0..5_120);
    bench.state(ConnectionState::SyncTarget, false);
    bench.settle();
    let reports: Vec<Progress> = bench.progress.iter().flatten().copied().collect();
    assert!(
        (3..=6).contains(&reports.len()),
        "{} reports in {} ms",
        reports.len(),
        bench.now
    );
    assert!(reports.iter().all(|progress| progress.total == 5_120));
    assert!(reports.windows(2).all(|pair| pair[1].left <= pair[0].left));
}
