//! The thread that keeps the link: it listens and connects, judges who is there, and moves frames.
//!
//! Both routers listen. `second` connects; `first` does so once when it begins, as the other one may have looked for it for long and
//! pause, and then only after a while without the partner, for where something between the two lets connections through in one direction alone. A connection on which both have said hello replaces the session:
//! the partner has begun anew, whatever the old one looks like.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ring::rand::{SecureRandom, SystemRandom};

use super::connection::{Connection, Ended};
use super::frame::{Hello, Message};
use super::proof::Proof;
use super::{Partner, QUEUE, Shared};
use crate::config::{Router, Sync};

/// Connections that have proved nothing yet, at most.
const COMING: usize = 4;
/// The least time that a connection has until both have said hello; or the dead time, where that is longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// From one attempt to connect to the next: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// When `first` connects after its start: `second`, if it is there and does not pause, has connected by then.
const FIRST: Duration = Duration::from_millis(300);
/// So many attempts are made at the first pace: a daemon that is just restarted is met soon.
const EAGER: u32 = 20;
/// From one attempt to listen to the next.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// Messages that are read before others have their turn.
const TURN: usize = 256;

/// See the module page.
pub(super) struct Keeper {
    settings: Sync,
    hello: Hello,
    proof: Proof,
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send>,
    listener: Option<TcpListener>,
    listen_at: Instant,
    dial_at: Instant,
    retry: Duration,
    /// Attempts since the start, or the last session.
    attempts: u32,
    coming: Vec<Connection>,
    /// Both have said hello; it becomes the session once the end of the last one has been taken out.
    next: Option<Peer>,
    session: Option<Peer>,
}

/// A connection on which both have said hello.
struct Peer {
    connection: Connection,
    hello: Hello,
    version: u16,
    /// How often it wants to hear of us.
    heartbeat: Duration,
}

impl Keeper {
    /// Of these settings; it begins when it [`Keeper::run`]s.
    ///
    /// # Errors
    /// TLS cannot use the settings, in words.
    pub(super) fn new(
        settings: &Sync,
        hello: Hello,
        shared: Arc<Shared>,
        wake: Box<dyn Fn() + Send>,
    ) -> Result<Keeper, String> {
        let now = Instant::now();
        let mut keeper = Keeper {
            proof: Proof::new(&settings.proof)?,
            settings: settings.clone(),
            hello,
            shared,
            wake,
            listener: None,
            listen_at: now,
            dial_at: now,
            retry: RETRY.0,
            attempts: 0,
            coming: Vec::new(),
            next: None,
            session: None,
        };
        keeper.dial_later(now);
        Ok(keeper)
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            if self.shared.lock().stop {
                let peers = [self.session.take(), self.next.take()].into_iter().flatten();
                peers.for_each(|peer| peer.connection.close("the daemon ends", now));
                return;
            }
            self.listen(now);
            self.dial(now);
            self.meet(now);
            self.begin(now);
            let more = self.converse(now);
            self.wait(if more { now } else { self.due(now) });
        }
    }

    /// Takes the listening socket, and connections that others make.
    fn listen(&mut self, now: Instant) {
        if self.listener.is_none() && now >= self.listen_at {
            self.listen_at = now + LISTEN_AGAIN;
            match listen(self.settings.listen) {
                Ok(listener) => self.listener = Some(listener),
                Err(error) => self.say_why(format!("cannot listen at {}: {error}", self.settings.listen)),
            }
        }
        // Not all that there may be: others have to have their turn.
        for _ in 0..COMING {
            let Some(accepted) = self.listener.as_ref().map(TcpListener::accept) else { return };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                // Descriptors are short: what waits is looked at later.
                Err(error) => {
                    (self.listener, self.listen_at) = (None, now + LISTEN_AGAIN);
                    return self.say_why(format!("cannot take connections: {error}"));
                }
            };
            let room = self.coming.iter().filter(|connection| !connection.dialled).count() < COMING;
            if !room || from.ip().to_canonical() != self.settings.partner.ip() {
                self.shared.lock().refused += 1;
                continue;
            }
            match Connection::answer(stream, from, &self.proof, self.hello.clone(), now) {
                Ok(connection) => self.coming.push(connection),
                Err(why) => self.say_why(why),
            }
        }
    }

    /// Connects, when it is time.
    fn dial(&mut self, now: Instant) {
        if now < self.dial_at || self.session.is_some() || self.next.is_some() {
            return;
        }
        if !self.may_dial() {
            return;
        }
        self.dial_later(now);
        let (from, to) = (self.settings.listen.ip(), self.settings.partner);
        match Connection::dial(from, to, &self.proof, self.hello.clone(), now) {
            Ok(connection) => self.coming.push(connection),
            Err(why) => self.say_why(why),
        }
    }

    /// Is no connection on its way already? Two that cross would end each other.
    fn may_dial(&self) -> bool {
        let begun = |connection: &Connection| connection.dialled || self.hello.router == Router::First;
        !self.coming.iter().any(begun)
    }

    /// Sets when to connect next, later from time to time, and not when everybody else does.
    fn dial_later(&mut self, now: Instant) {
        let mut chance = [0; 1];
        // Without chance, it is half of it.
        let _ = SystemRandom::new().fill(&mut chance);
        let wait = match self.hello.router {
            Router::Second => self.retry,
            Router::First if self.attempts == 0 => FIRST,
            Router::First => self.settings.dead * 2 + self.retry,
        };
        self.dial_at = now + wait / 2 + wait / 2 * u32::from(chance[0]) / 255;
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts > EAGER {
            self.retry = (self.retry * 2).min(RETRY.1);
        }
    }

    /// Hears out who has not said hello yet.
    fn meet(&mut self, now: Instant) {
        for mut connection in std::mem::take(&mut self.coming) {
            let patience = self.settings.dead.max(PATIENCE);
            let outcome = match connection.next(&self.proof, now) {
                Ok(Some(Message::Hello(hello))) => {
                    self.judge(connection, hello, now);
                    continue;
                }
                Ok(Some(Message::Bye(why))) => Err(format!("the partner refuses us: {why}")),
                Ok(Some(_)) => Err("the partner says no hello".to_owned()),
                Ok(None) if now.saturating_duration_since(connection.begun) >= patience => {
                    Err(format!("{} does not answer", connection.with))
                }
                Ok(None) => connection.flush().map_err(|Ended(why)| why),
                Err(Ended(why)) => Err(why),
            };
            match outcome {
                Ok(()) => self.coming.push(connection),
                Err(why) => {
                    if !connection.dialled {
                        self.shared.lock().refused += 1;
                    }
                    self.say_why(why);
                }
            }
        }
    }

    /// Somebody has said hello who could prove to be the partner.
    fn judge(&mut self, connection: Connection, hello: Hello, now: Instant) {
        let version = match agree(&self.hello, &hello) {
            Ok(version) => version,
            Err((ours, theirs)) => {
                connection.close(&theirs, now);
                self.shared.lock().refused += 1;
                return self.say_why(ours);
            }
        };
        let heartbeat = self.settings.heartbeat.min(hello.dead / 3).max(Duration::from_millis(1));
        if let Some(before) = self.next.replace(Peer { connection, hello, version, heartbeat }) {
            before.connection.close("there is a newer connection", now);
        }
        self.end("the partner has begun anew", Some("there is a newer connection"), now);
    }

    /// The next connection becomes the session.
    fn begin(&mut self, now: Instant) {
        if self.session.is_some() || self.shared.lock().ending {
            return;
        }
        let Some(peer) = self.next.take() else { return };
        // Nobody else is waited for.
        for connection in std::mem::take(&mut self.coming) {
            connection.close("there is a session", now);
        }
        (self.retry, self.attempts) = (RETRY.0, 1);
        let partner = Partner {
            address: peer.connection.with,
            router: peer.hello.router,
            program: peer.hello.program.clone(),
        };
        let version = peer.version;
        self.session = Some(peer);
        self.tell(|state| state.begin(partner, version, now));
    }

    /// Moves frames in both directions. Is there more to be done at once?
    fn converse(&mut self, now: Instant) -> bool {
        let dead = self.settings.dead;
        if let Some(next) = &mut self.next {
            next.keep_alive(now);
            // It is read when it has become the session.
            if next.connection.ignore().is_err() {
                self.next = None;
            }
        }
        if self.shared.lock().full {
            let why = "the partner does not take what it is sent";
            self.end(why, Some("you do not take what you are sent"), now);
        }
        match self.hear(now) {
            Ok(more) => {
                let Some(session) = &mut self.session else { return false };
                if session.connection.silence(now) >= dead {
                    let why = format!("nothing was heard of the partner for {dead:?}");
                    self.end(&why, Some("nothing was heard of you"), now);
                    return false;
                }
                session.send(&self.shared, now);
                session.keep_alive(now);
                more
            }
            Err(Ended(why)) => {
                self.end(&why, None, now);
                false
            }
        }
    }

    /// Reads what the partner says, as far as there is room. Is there more?
    fn hear(&mut self, now: Instant) -> Result<bool, Ended> {
        for _ in 0..TURN {
            let Some(session) = &mut self.session else { return Ok(false) };
            if self.shared.lock().inbound >= QUEUE {
                session.connection.ignore()?;
                return Ok(false);
            }
            match session.connection.next(&self.proof, now)? {
                Some(Message::Frame(frame)) => self.tell(|state| state.hear(frame)),
                Some(Message::Heartbeat) => {}
                Some(Message::Bye(why)) => return Err(Ended(format!("the partner says: {why}"))),
                Some(Message::Hello(_)) | None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Ends the session, if there is one; `goodbye`: what the other side is told.
    fn end(&mut self, why: &str, goodbye: Option<&str>, now: Instant) {
        let Some(session) = self.session.take() else { return };
        if let Some(goodbye) = goodbye {
            session.connection.close(goodbye, now);
        }
        self.tell(|state| state.end(why.to_owned(), now));
        self.dial_later(now);
    }

    /// Changes the state so that there is an event, and wakes who waits for it.
    fn tell(&self, change: impl FnOnce(&mut super::State)) {
        let mut state = self.shared.lock();
        let silent = state.events.is_empty();
        change(&mut state);
        drop(state);
        if silent {
            (self.wake)();
        }
    }

    /// Why there is no session, as far as is known now.
    fn say_why(&self, why: String) {
        self.shared.lock().why = Some(why);
    }

    /// When there is something to do though nothing has come.
    fn due(&self, now: Instant) -> Instant {
        let patience = self.settings.dead.max(PATIENCE);
        let mut due = self.coming.iter().map(|connection| connection.begun + patience).min();
        let mut at = |moment: Instant| due = Some(due.map_or(moment, |due| due.min(moment)));
        if self.listener.is_none() {
            at(self.listen_at);
        }
        match &self.session {
            Some(session) => {
                let left = self.settings.dead.saturating_sub(session.connection.silence(now));
                at(now + left.max(Duration::from_millis(1)));
            }
            None if self.next.is_none() && self.may_dial() => {
                at(self.dial_at);
            }
            None => {}
        }
        for peer in self.session.iter().chain(&self.next) {
            at(now + peer.heartbeat.saturating_sub(peer.connection.quiet(now)));
        }
        due.unwrap_or(now + LISTEN_AGAIN)
    }

    /// Waits for something to do, until `due` at most.
    fn wait(&self, due: Instant) {
        let bell = &self.shared.bell;
        bell.lie_down();
        let state = self.shared.lock();
        let room = state.inbound < QUEUE;
        let sends = self.session.as_ref().is_some_and(|session| session.connection.has_room());
        let begins = self.next.is_some() && self.session.is_none() && !state.ending;
        let busy = state.stop || state.full || begins || (sends && !state.outbound.is_empty());
        drop(state);
        if !busy {
            let mut waited = vec![PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
            waited.extend(
                self.listener.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
            );
            let coming = self.coming.iter().map(|connection| (connection, true));
            let session = self.session.iter().map(|session| (&session.connection, room));
            let next = self.next.iter().map(|next| (&next.connection, false));
            for (connection, listen) in coming.chain(session).chain(next) {
                let interest = connection.interest(listen);
                // One that is not to be read may have ended, which would be told again and again.
                if !interest.is_empty() {
                    waited.push(PollFd::new(connection.as_fd(), interest));
                }
            }
            // Rounded up, so as not to look in vain.
            let wait = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::from(1_000_u16));
            // Whatever it says: what there is to do is looked for.
            let _ = poll(&mut waited, wait);
        }
        bell.get_up();
    }
}

impl Peer {
    /// Gives TLS what waits to be sent, as far as it goes out.
    fn send(&mut self, shared: &Shared, now: Instant) {
        loop {
            // What cannot be written shows when it is read next.
            let _ = self.connection.flush();
            if !self.connection.has_room() {
                return;
            }
            let Some(frame) = shared.lock().take() else { return };
            self.connection.say(&Message::Frame(frame), now);
        }
    }

    fn keep_alive(&mut self, now: Instant) {
        if self.connection.quiet(now) >= self.heartbeat && self.connection.has_room() {
            self.connection.say(&Message::Heartbeat, now);
        }
        let _ = self.connection.flush();
    }
}

/// The version that both speak.
///
/// # Errors
/// The two do not go together: in words for us, and for the other side.
fn agree(ours: &Hello, theirs: &Hello) -> Result<u16, (String, String)> {
    if ours.router == theirs.router {
        let why = format!(
            "both routers are `{}`; say router = \"first\" in [carp] on one and \"second\" on the other",
            ours.router.name()
        );
        return Err((why.clone(), why));
    }
    let version = ours.versions.1.min(theirs.versions.1);
    if version >= ours.versions.0.max(theirs.versions.0) {
        return Ok(version);
    }
    let of = |hello: &Hello| match hello.versions {
        (low, high) if low == high => format!("{} speaks version {low}", hello.program),
        (low, high) => format!("{} speaks versions {low} to {high}", hello.program),
    };
    let (ours, theirs) = (of(ours), of(theirs));
    Err((
        format!("the partner's {theirs}, and our {ours}; update the older one"),
        format!("your {theirs}, and our {ours}; update the older one"),
    ))
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
