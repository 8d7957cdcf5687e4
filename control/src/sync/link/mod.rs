//! The connection between the daemons of two routers that share addresses: frames of bytes, in order, each once or not at all, to
//! a partner that has proved who it is. What the frames say is not this room's business.
//!
//! A *session* is one connection, from [`Event::Up`] to [`Event::Down`]. What was sent in one never arrives in another: whoever
//! speaks begins every session with all that the partner has to know. Sessions come and go by themselves; a new one begins only
//! when the end of the one before has been taken out by [`Link::next`].
//!
//! Nothing here ever waits for the partner, the network or the caller, but for the one thread that it all runs on. What has to
//! be kept meanwhile is bounded ([`QUEUE`] each way): a partner that does not take what it is sent loses the session
//! ([`Unsent::Full`]), and one that sends faster than frames are taken out is read no further until they are.

mod connection;
pub mod frame;
mod keeper;
mod proof;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use self::frame::Hello;
use self::keeper::Keeper;
use crate::config::{Router, Sync};
use crate::daemon::Bell;

pub(crate) use proof::{is_name, usable};

/// What is sent at once: at most [`LONGEST`] bytes, wiped when dropped.
pub type Frame = Zeroizing<Vec<u8>>;

/// The longest frame, in bytes.
pub const LONGEST: usize = 1 << 16;
/// How many bytes wait at most to be sent, and to be taken out; frames count with [`OVERHEAD`] each.
pub const QUEUE: usize = 32 << 20;
/// What a frame counts beside its bytes.
pub const OVERHEAD: usize = 64;
/// The versions of what is said in frames that this program speaks, lowest and highest.
pub const VERSIONS: (u16, u16) = (1, 4);

/// What the partner is told that we are.
const PROGRAM: &str = concat!("culvert ", env!("CARGO_PKG_VERSION"));

/// The connection. It ends when this is dropped.
pub struct Link {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What has happened, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A session has begun. Frames can be sent from now on.
    Up {
        /// Who is there.
        partner: Partner,
        /// The highest version that both speak, within [`VERSIONS`].
        version: u16,
    },
    /// The partner says something.
    Frame(Frame),
    /// The session has ended.
    Down {
        /// Why, in words for the log.
        why: String,
    },
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partner {
    /// Where it is.
    pub address: SocketAddr,
    /// Which of the pair it is: never the one that we are.
    pub router: Router,
    /// What program it runs: `culvert 0.1.0`.
    pub program: String,
}

/// Why a frame will not arrive. It is gone; the session that it was meant for has ended, or ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// There is no session, or its [`Event::Up`] has not been taken out yet.
    Down,
    /// The partner does not take what it is sent: [`QUEUE`] bytes wait.
    Full,
    /// It has more than [`LONGEST`] bytes.
    Long,
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unsent::Down => "there is no session with the partner",
            Unsent::Full => "the partner does not take what it is sent",
            Unsent::Long => "it is too long",
        })
    }
}

/// How the link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The session's partner and version; `None`: there is no session.
    pub up: Option<(Partner, u16)>,
    /// Why there is none.
    pub why: Option<String>,
    /// For how long that has been so.
    pub since: Duration,
    /// Sessions so far.
    pub sessions: u64,
    /// Bytes that wait to be sent, and to be taken out.
    pub waiting: (usize, usize),
    /// Frames sent and received, in all sessions.
    pub frames: (u64, u64),
    /// Their bytes.
    pub bytes: (u64, u64),
    /// Connections that were refused: not the partner, or not able to prove it.
    pub refused: u64,
}

impl Link {
    /// Begins to look for the partner. `wake` is called, on another thread, whenever [`Link::next`] has something after it had
    /// nothing.
    ///
    /// # Errors
    /// The system gives no thread or descriptors, or TLS cannot use the settings. An address that is not there (yet) is no
    /// error: it is tried again, and [`Link::status`] says so.
    pub fn start(settings: &Sync, router: Router, wake: impl Fn() + Send + 'static) -> io::Result<Link> {
        Link::speaking(VERSIONS, settings, router, Box::new(wake))
    }

    fn speaking(
        versions: (u16, u16),
        settings: &Sync,
        router: Router,
        wake: Box<dyn Fn() + Send>,
    ) -> io::Result<Link> {
        let shared = Arc::new(Shared { bell: Bell::new()?, state: Mutex::new(State::new(Instant::now())) });
        let hello = Hello { versions, router, dead: settings.dead, program: PROGRAM.to_owned() };
        let keeper = Keeper::new(settings, hello, Arc::clone(&shared), wake).map_err(io::Error::other)?;
        let thread = thread::Builder::new().name("carp-sync".to_owned()).spawn(move || keeper.run())?;
        Ok(Link { shared, thread: Some(thread) })
    }

    /// Sends a frame in this session. Never waits.
    ///
    /// # Errors
    /// It will not arrive. On [`Unsent::Full`] the session is dropped, and a new one begins.
    pub fn send(&self, frame: Frame) -> Result<(), Unsent> {
        let outcome = self.shared.lock().send(frame);
        self.shared.bell.wake();
        outcome
    }

    /// Takes out what has happened next. Never waits.
    #[must_use]
    pub fn next(&self) -> Option<Event> {
        let mut state = self.shared.lock();
        let event = state.events.pop_front()?;
        match &event {
            Event::Up { .. } => state.told = state.sessions,
            Event::Frame(frame) => {
                let was_full = state.inbound >= QUEUE;
                state.inbound -= frame.len() + OVERHEAD;
                if was_full && state.inbound < QUEUE {
                    self.shared.bell.wake();
                }
            }
            Event::Down { .. } => {
                state.ending = false;
                self.shared.bell.wake();
            }
        }
        Some(event)
    }

    /// Has [`Link::next`] nothing now?
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.shared.lock().events.is_empty()
    }

    /// How the link is now.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.shared.lock();
        Status {
            up: state.up.clone(),
            why: state.why.clone().filter(|_| state.up.is_none()),
            since: state.since.elapsed(),
            sessions: state.sessions,
            waiting: (state.outbound_bytes, state.inbound),
            frames: state.frames,
            bytes: state.bytes,
            refused: state.refused,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.bell.ring();
        // It waits for nothing but its bell.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the thread and its owner share.
struct Shared {
    /// Wakes the thread.
    bell: Bell,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever holds it changes one thing after another, and does not panic between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Shared`]. Held for moments only.
struct State {
    stop: bool,
    up: Option<(Partner, u16)>,
    /// Sessions that have begun; the last one's number.
    sessions: u64,
    /// The last session whose beginning has been taken out.
    told: u64,
    /// The end of a session waits to be taken out.
    ending: bool,
    /// There was no room for a frame.
    full: bool,
    outbound: VecDeque<Frame>,
    /// Bytes in `outbound`, with [`OVERHEAD`].
    outbound_bytes: usize,
    events: VecDeque<Event>,
    /// Bytes in `events`, with [`OVERHEAD`].
    inbound: usize,
    why: Option<String>,
    since: Instant,
    frames: (u64, u64),
    bytes: (u64, u64),
    refused: u64,
}

impl State {
    fn new(now: Instant) -> State {
        State {
            stop: false,
            up: None,
            sessions: 0,
            told: 0,
            ending: false,
            full: false,
            outbound: VecDeque::new(),
            outbound_bytes: 0,
            events: VecDeque::new(),
            inbound: 0,
            why: Some("the partner has not answered yet".to_owned()),
            since: now,
            frames: (0, 0),
            bytes: (0, 0),
            refused: 0,
        }
    }

    fn send(&mut self, frame: Frame) -> Result<(), Unsent> {
        if self.up.is_none() || self.told != self.sessions || self.full {
            return Err(Unsent::Down);
        }
        if frame.len() > LONGEST {
            return Err(Unsent::Long);
        }
        let bytes = self.outbound_bytes + frame.len() + OVERHEAD;
        if bytes > QUEUE {
            self.full = true;
            return Err(Unsent::Full);
        }
        self.outbound_bytes = bytes;
        self.outbound.push_back(frame);
        Ok(())
    }

    /// The next frame to be sent.
    fn take(&mut self) -> Option<Frame> {
        let frame = self.outbound.pop_front()?;
        self.outbound_bytes -= frame.len() + OVERHEAD;
        self.frames.0 += 1;
        self.bytes.0 += frame.len() as u64;
        Some(frame)
    }

    /// A session begins.
    fn begin(&mut self, partner: Partner, version: u16, now: Instant) {
        self.sessions += 1;
        self.up = Some((partner.clone(), version));
        (self.why, self.since) = (None, now);
        self.events.push_back(Event::Up { partner, version });
    }

    /// A frame has come.
    fn hear(&mut self, frame: Frame) {
        self.frames.1 += 1;
        self.bytes.1 += frame.len() as u64;
        self.inbound += frame.len() + OVERHEAD;
        self.events.push_back(Event::Frame(frame));
    }

    /// The session ends.
    fn end(&mut self, why: String, now: Instant) {
        self.up = None;
        self.full = false;
        self.ending = true;
        self.outbound = VecDeque::new();
        self.outbound_bytes = 0;
        (self.why, self.since) = (Some(why.clone()), now);
        self.events.push_back(Event::Down { why });
    }
}

#[cfg(test)]
mod tests;
