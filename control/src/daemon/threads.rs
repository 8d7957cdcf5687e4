//! The threads that packets go through: one for each worker, on a core of its own.
//!
//! A worker's thread:
//! 1. turns the worker as long as there is something to do, and for [`SPIN`] longer, as a packet seldom comes alone;
//! 2. after a turn in which anything was done, wakes those threads that sleep and were given something ([`Others`]);
//! 3. then waits until a port has something for it, its bell rings, or [`NAP`] is over.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use culvert_engine::worker::Worker;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::bell::Bell;
use super::log;
use crate::config::Idle;

/// How long a worker that finds nothing looks on before it sleeps. Going to sleep and waking takes some 10 µs.
const SPIN: Duration = Duration::from_micros(50);
/// How long a worker sleeps at most.
const NAP: u16 = 100;
/// How long it sleeps at most where something may come that wakes nobody, in milliseconds.
const SHORT_NAP: u16 = 1;
/// Descriptors that a worker waits on, at most: with more, its naps are short.
const WAITED: usize = 64;
/// Rounds after which a busy worker notes the processor time it has used.
const ROUNDS: u32 = 4096;

/// What a thread has done so far, for those who report.
#[derive(Debug, Default)]
pub(super) struct Activity {
    frames: AtomicU64,
    cpu: AtomicU64,
}

impl Activity {
    /// Frames handled.
    pub(super) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Processor time used.
    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed))
    }

    /// For the thread itself alone.
    pub(super) fn count(&self, frames: usize) {
        let before = self.frames.load(Ordering::Relaxed);
        self.frames.store(before.wrapping_add(frames as u64), Ordering::Relaxed);
    }

    /// For the thread itself alone.
    pub(super) fn note_cpu(&self) {
        if let Ok(used) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            let used = Duration::from(used).as_nanos();
            self.cpu.store(u64::try_from(used).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// A worker on a thread of its own.
pub(super) struct WorkerThread {
    thread: JoinHandle<Worker>,
    stop: Arc<AtomicBool>,
    /// The core that it was told to stay on.
    pub(super) core: Option<usize>,
    /// What it has done.
    pub(super) activity: Arc<Activity>,
    /// Wakes it.
    pub(super) bell: Arc<Bell>,
}

/// Threads that a worker gives frames to.
pub(super) struct Others {
    /// The other workers', in the order of their numbers.
    pub(super) peers: Vec<Arc<Bell>>,
    /// The exception thread's.
    pub(super) exceptions: Option<Arc<Bell>>,
}

impl Others {
    /// Step 2.
    fn wake(&self, worker: &Worker) {
        if let Some(bell) = &self.exceptions {
            bell.wake_if(|| worker.waits_for_exceptions());
        }
        for (peer, bell) in self.peers.iter().enumerate() {
            bell.wake_if(|| worker.waits_for_peer(peer));
        }
    }
}

impl WorkerThread {
    /// Starts the thread of worker `number`, which sleeps by `bell`, on core `core`. A system that does not let it stay there
    /// is told of, and let be.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(
        number: usize,
        worker: Worker,
        (bell, others): (Arc<Bell>, Others),
        core: Option<usize>,
        idle: Idle,
    ) -> io::Result<WorkerThread> {
        let (stop, activity) = (Arc::new(AtomicBool::new(false)), Arc::<Activity>::default());
        let mut turner = Turner {
            worker,
            stop: Arc::clone(&stop),
            bell: Arc::clone(&bell),
            others,
            activity: Arc::clone(&activity),
        };
        let body = move || {
            if let Some(core) = core
                && let Err(error) = pin(core)
            {
                log::warn(format_args!("worker {number}: cannot stay on core {core}: {error}"));
            }
            turner.run(idle);
            turner.worker
        };
        let thread = thread::Builder::new().name(format!("worker{number}")).spawn(body)?;
        Ok(WorkerThread { thread, stop, core, activity, bell })
    }

    /// Ends the thread, after the round it is in, and gives back the worker with its ring pairs. `None` where it had
    /// panicked.
    pub(super) fn stop(self) -> Option<Worker> {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        self.thread.join().ok()
    }
}

/// The cores that this process may run on, in order; empty where the system does not say.
pub(super) fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).collect()
}

fn pin(core: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// What a worker's thread has.
struct Turner {
    worker: Worker,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    others: Others,
    activity: Arc<Activity>,
}

impl Turner {
    fn run(&mut self, idle: Idle) {
        let (mut rounds, mut idle_since) = (0_u32, None);
        while !self.stop.load(Ordering::Relaxed) {
            let frames = self.round();
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ROUNDS) {
                self.activity.note_cpu();
            }
            if frames > 0 || self.worker.waits_for_help() {
                idle_since = None;
                if self.worker.is_settling() {
                    // Perhaps it is this core that the exception thread waits for.
                    thread::yield_now();
                }
            } else if idle == Idle::Adaptive && idle_since.get_or_insert_with(Instant::now).elapsed() >= SPIN
            {
                if self.sleep() {
                    idle_since = None;
                }
            } else {
                std::hint::spin_loop();
            }
        }
        self.activity.note_cpu();
    }

    fn round(&mut self) -> usize {
        let frames = self.worker.round();
        if frames > 0 || self.worker.waits_for_help() {
            self.activity.count(frames);
            self.others.wake(&self.worker);
        }
        frames
    }

    /// Step 3. True where there was something to do after all.
    fn sleep(&mut self) -> bool {
        self.activity.note_cpu();
        self.bell.lie_down();
        let frames = self.round();
        if frames == 0 && !self.worker.waits_for_help() && !self.stop.load(Ordering::Relaxed) {
            wait(&self.worker, &self.bell);
        }
        self.bell.get_up();
        frames > 0
    }
}

/// Waits on what wakes a worker.
fn wait(worker: &Worker, bell: &Bell) {
    let mut waited: ArrayVec<PollFd<'_>, WAITED> = ArrayVec::new();
    waited.push(PollFd::new(bell.as_fd(), PollFlags::POLLIN));
    let mut all = true;
    for fd in worker.wait_fds() {
        all &= waited.try_push(PollFd::new(fd, PollFlags::POLLIN)).is_ok();
    }
    let nap = if all && !worker.is_sending() { NAP } else { SHORT_NAP };
    let readable = |waited: &[PollFd<'_>]| {
        waited.iter().any(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)))
    };
    match poll(&mut waited, PollTimeout::from(nap)) {
        // A device that is down or gone says so without end, and has nothing to give.
        Ok(count) if count > 0 && !readable(&waited) => {
            thread::sleep(Duration::from_millis(u64::from(SHORT_NAP)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use culvert_engine::ring::{Port, RINGS_PER_QUEUE, Region, SPARE_PER_QUEUE, wire};
    use culvert_engine::tables::{Tables, TablesSpec};

    use super::*;

    fn start(number: usize, worker: Worker, idle: Idle) -> WorkerThread {
        let bell = Arc::new(Bell::new().expect("a bell"));
        let others = Others { peers: Vec::new(), exceptions: None };
        WorkerThread::start(number, worker, (bell, others), None, idle).expect("a thread")
    }

    /// A worker with one port, and the far end of its wire.
    fn worker() -> (Worker, Port) {
        let region = Region::new(RINGS_PER_QUEUE, 64, 2048, SPARE_PER_QUEUE, false).expect("a region");
        let (near, far) = wire(&region, 1, true).expect("a wire");
        let tables = Tables::build(TablesSpec::default()).expect("tables").publish();
        (Worker::new(0, &tables, near.queues, None), far)
    }

    #[test]
    fn a_thread_stays_on_its_core() {
        let mine = *cores().last().expect("a core");
        let seen = thread::spawn(move || pin(mine).map(|()| cores())).join().expect("the thread");
        assert_eq!(seen, Ok(vec![mine]));
    }

    /// An idle worker uses next to no processor time, and one that spins all that it gets.
    #[test]
    fn an_idle_worker_sleeps_unless_told_to_spin() {
        let used = |idle| {
            let (worker, _far) = worker();
            let thread = start(0, worker, idle);
            thread::sleep(Duration::from_millis(300));
            let activity = Arc::clone(&thread.activity);
            assert!(thread.stop().is_some());
            activity.cpu()
        };
        let (asleep, awake) = (used(Idle::Adaptive), used(Idle::Spin));
        assert!(asleep < Duration::from_millis(30), "{asleep:?}");
        assert!(awake > asleep * 2, "{asleep:?} {awake:?}");
    }

    #[test]
    fn a_sleeping_worker_stops_at_once() {
        let (worker, _far) = worker();
        let thread = start(3, worker, Idle::Adaptive);
        thread::sleep(Duration::from_millis(20));
        let before = Instant::now();
        assert!(thread.stop().is_some());
        assert!(before.elapsed() < Duration::from_millis(60));
    }

    /// What comes by a wire wakes nobody by itself: its maker rings.
    #[test]
    fn a_worker_wakes_for_a_frame() {
        let (worker, mut far) = worker();
        let thread = start(0, worker, Idle::Adaptive);
        thread::sleep(Duration::from_millis(20));
        let (_, tx) = far.queues.first_mut().expect("a queue");
        assert!(tx.ring.push_bytes(&[0; 60]).is_ok());
        tx.sync();
        thread.bell.wake();
        let end = Instant::now() + Duration::from_millis(60);
        while thread.activity.frames() == 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(thread.activity.frames(), 1);
        assert!(thread.stop().is_some());
    }
}
