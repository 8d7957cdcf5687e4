//! The daemon's end of the local API: a UNIX socket that root and the daemon's own user may use.
//!
//! Each client has a thread of its own, of which there are [`CLIENTS`] at most. It reads requests, has the control thread answer
//! them (`commands.rs`), and writes what is answered; so a client that is slow, silent or broken holds up nobody but itself.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::bell::Bell;
use super::log;
use super::lookout::Lookout;
use super::stream::Records;
use super::transact::Proposal;
use crate::Failure;
use crate::api::{Command, Line, Reply, line};
use crate::socket::{self, Listener};

/// Where the daemon listens unless told otherwise.
pub const SOCKET: &str = "/var/run/culvert.sock";
/// Clients at a time.
const CLIENTS: usize = 16;
/// Those of them whose replies are streams: there is always room for one who wants to put something right.
const STREAMS: usize = 8;
/// The longest request, in bytes.
const LONGEST: usize = 64 << 10;
/// The longest that may follow a request, in bytes: the files of 100,000 tunnels, and some.
const LONGEST_BODY: u64 = 128 << 20;
/// How long a client may take for a request or a reply, and how long it waits for the control thread to have time for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of records that are written at once.
const TOGETHER: usize = 64 << 10;
/// How often it is looked whether the client of a silent stream has left.
const LOOK: Duration = Duration::from_millis(250);

/// What a client asks of the control thread.
pub(super) struct Query {
    /// What it wants.
    pub(super) command: Command,
    /// The configuration that came with it.
    pub(super) proposal: Option<Box<Proposal>>,
    /// Where the answer goes.
    pub(super) answer: Sender<Result<Answer, Failure>>,
    /// Set by the control thread, which does it, or by the client's, which waits no longer: whoever is first.
    taken: Arc<AtomicBool>,
}

impl Query {
    /// One that only looks at what there is: done too late, it does no harm.
    pub(super) fn look(command: Command, answer: Sender<Result<Answer, Failure>>) -> Query {
        Query { command, proposal: None, answer, taken: Arc::default() }
    }

    /// The control thread begins. False: nobody waits for it any more, and it must not be done.
    pub(super) fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::Relaxed)
    }
}

/// What the control thread answers.
pub(super) enum Answer {
    /// All there is to say.
    Once(serde_json::Value),
    /// It is not known yet what there is to say.
    Later(Receiver<Result<serde_json::Value, Failure>>),
    /// It goes on.
    Stream(Records),
}

/// The socket that is listened at.
pub(super) struct Endpoint(Listener);

impl Endpoint {
    /// Listens at `path`.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub(super) fn bind(path: &Path) -> Result<Endpoint, String> {
        Listener::bind(path).map(Endpoint)
    }

    /// Answers clients from a thread of its own, which lives as long as the process: `queries` go to the thread that `bell`
    /// wakes.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(super) fn serve(&self, queries: Sender<Query>, bell: Arc<Bell>) -> io::Result<()> {
        let listener = self.0.try_clone()?;
        let desk = Arc::new(Desk {
            queries,
            bell,
            patience: PATIENCE,
            clients: Arc::default(),
            streams: Arc::default(),
        });
        let accept = move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => admit(stream, &desk),
                    // For want of descriptors, most likely: some may be free soon.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            }
        };
        thread::Builder::new().name("api".to_owned()).spawn(accept).map(drop)
    }
}

/// A client that leaves makes room for another.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// One of `all` places, if one is free.
    fn take(taken: &Arc<AtomicUsize>, all: usize) -> Option<Place> {
        let place = Place(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < all).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What clients' threads share.
struct Desk {
    queries: Sender<Query>,
    bell: Arc<Bell>,
    /// [`PATIENCE`].
    patience: Duration,
    clients: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
}

fn admit(stream: UnixStream, desk: &Arc<Desk>) {
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    let refuse = |why: &str| drop(send(&stream, &line(&refusal(why))));
    match socket::peer(&stream) {
        Ok(uid) if uid == 0 || uid == geteuid().as_raw() => {}
        Ok(uid) => {
            log::warn(format_args!("socket: user {uid} was refused"));
            return refuse("this is for root and the daemon's own user");
        }
        Err(error) => return refuse(&format!("who asks is not known: {error}")),
    }
    let Some(place) = Place::take(&desk.clients, CLIENTS) else {
        return refuse("too many clients; try again");
    };
    let desk = Arc::clone(desk);
    let talk = move || {
        // However it ends, the client has left.
        let _ = talk(&stream, &desk);
        drop(place);
    };
    if let Err(error) = thread::Builder::new().name("client".to_owned()).spawn(talk) {
        log::warn(format_args!("socket: no thread for a client: {error}"));
    }
}

fn refusal(why: &str) -> Reply {
    Err(Failure::failed(why.to_owned())).into()
}

/// Answers one client until it leaves.
fn talk(stream: &UnixStream, desk: &Desk) -> io::Result<()> {
    let mut requests = Requests { stream, read: Vec::new() };
    while let Some(request) = requests.next()? {
        let Some(request) = request else {
            let why = format!("request: it is one line of at most {LONGEST} bytes");
            return send(stream, &line(&Reply::from(Err(Failure::usage(why)))));
        };
        let answer = Command::read(&request).and_then(|command| {
            let body = match command.body() {
                Some(length) => Some(requests.body(length)?),
                None => None,
            };
            let mut proposal = body.map(|body| Proposal::read(&body).map(Box::new)).transpose()?;
            if let (Some(proposal), Command::Apply { watch, .. }) = (&mut proposal, &command)
                && !watch.is_empty()
            {
                proposal.watch = Some(Lookout::before(watch)?);
            }
            ask(command, proposal, desk)
        });
        match answer {
            Ok(Answer::Once(result)) => send(stream, &line(&Reply::from(Ok(result))))?,
            Ok(Answer::Later(outcome)) => {
                let ended = |_| Err(Failure::failed("the daemon has ended meanwhile".to_owned()));
                send(stream, &line(&Reply::from(outcome.recv().unwrap_or_else(ended))))?;
            }
            Ok(Answer::Stream(mut records)) => match Place::take(&desk.streams, STREAMS) {
                Some(_place) => return pour(stream, &mut records),
                None => send(stream, &line(&refusal("too many streams; end one, or try again")))?,
            },
            Err(failure) => send(stream, &line(&Reply::from(Err(failure))))?,
        }
    }
    Ok(())
}

/// The requests of a client.
struct Requests<'a> {
    stream: &'a UnixStream,
    /// What has been read and not used.
    read: Vec<u8>,
}

impl Requests<'_> {
    /// What follows a request.
    ///
    /// # Errors
    /// It is too long, or does not come in time.
    fn body(&mut self, length: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("request: what follows it: {why}"));
        let room = usize::try_from(length).ok().filter(|_| length <= LONGEST_BODY);
        let room = room.ok_or_else(|| wrong(&format_args!("at most {LONGEST_BODY} bytes")))?;
        let end = Instant::now() + PATIENCE;
        // Of its final size from the start: it holds keys, and growing would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(room));
        let rest = self.read.split_off(room.min(self.read.len()));
        body.append(&mut std::mem::replace(&mut self.read, rest));
        let mut chunk = Zeroizing::new([0; 65_536]);
        while body.len() < room {
            let wanted = chunk.len().min(room - body.len());
            match self.stream.read(chunk.get_mut(..wanted).unwrap_or_default()) {
                Ok(0) => return Err(wrong(&"it ends too early")),
                Ok(length) => body.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) => {
                    wait_after(error, self.stream, PollFlags::POLLIN, Some(end))
                        .map_err(|error| wrong(&error))?;
                }
            }
        }
        Ok(body)
    }

    /// The next line; `None` when there is none, and `Some(None)` when it is none: too long, or without an end.
    ///
    /// # Errors
    /// Nothing came in time, or those of reading.
    fn next(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        let end = Instant::now() + PATIENCE;
        let mut looked = 0;
        loop {
            if let Some(length) = self.read.iter().skip(looked).position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(looked + length + 1);
                return Ok(Some(Some(std::mem::replace(&mut self.read, rest))));
            }
            looked = self.read.len();
            if looked >= LONGEST {
                return Ok(Some(None));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.read.is_empty() => return Ok(None),
                Ok(0) => return Ok(Some(None)),
                Ok(length) => self.read.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) => wait_after(error, self.stream, PollFlags::POLLIN, Some(end))?,
            }
        }
    }
}

fn ask(command: Command, proposal: Option<Box<Proposal>>, desk: &Desk) -> Result<Answer, Failure> {
    let (answer, answered) = bounded(1);
    let busy = || Failure::failed("the daemon is busy, and nothing was done; try again".to_owned());
    let taken = Arc::new(AtomicBool::new(false));
    let query = Query { command, proposal, answer, taken: Arc::clone(&taken) };
    desk.queries.try_send(query).map_err(|_| busy())?;
    desk.bell.wake();
    let answer = answered.recv_timeout(desk.patience);
    if answer.is_err() && !taken.swap(true, Ordering::Relaxed) {
        return Err(busy());
    }
    // What has been begun is told of, however long it takes.
    let answer = answer.or_else(|_| answered.recv());
    answer.map_err(|_| Failure::failed("the daemon has ended meanwhile".to_owned()))?
}

/// Records, until there are no more or the client has left. It may take as long over them as it likes: it loses those for
/// which there is no room meanwhile.
fn pour(stream: &UnixStream, records: &mut Records) -> io::Result<()> {
    send(stream, &line(&Reply::STREAM))?;
    loop {
        match records.next(LOOK) {
            Some(record) => {
                let mut ended = matches!(record, Line::End(_));
                let mut lines = line(&record);
                // Those that are there already go along.
                while !ended
                    && lines.len() < TOGETHER
                    && let Some(more) = records.next(Duration::ZERO)
                {
                    ended = matches!(more, Line::End(_));
                    lines.extend(line(&more));
                }
                write(stream, &lines, None)?;
                if ended {
                    return Ok(());
                }
            }
            None if has_left(stream)? => return Ok(()),
            None => {}
        }
    }
}

/// Has the other end been closed? One that only says no more is still there.
fn has_left(stream: &UnixStream) -> io::Result<bool> {
    let mut waited = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut waited, PollTimeout::ZERO)?;
    let [waited] = waited;
    Ok(waited.revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)))
}

fn send(stream: &UnixStream, line: &[u8]) -> io::Result<()> {
    write(stream, line, Some(Instant::now() + PATIENCE))
}

/// Writes all of it, until `end` at most.
fn write(mut stream: &UnixStream, mut line: &[u8], end: Option<Instant>) -> io::Result<()> {
    while !line.is_empty() {
        match stream.write(line) {
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) => wait_after(error, stream, PollFlags::POLLOUT, end)?,
        }
    }
    Ok(())
}

/// Waits until the client is ready again, where that is what the error says.
///
/// # Errors
/// It is another error, or `end` has come.
fn wait_after(
    error: io::Error,
    stream: &UnixStream,
    ready: PollFlags,
    end: Option<Instant>,
) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => return Ok(()),
        io::ErrorKind::WouldBlock => {}
        _ => return Err(error),
    }
    let wait = match end.map(|end| end.saturating_duration_since(Instant::now())) {
        None => PollTimeout::NONE,
        Some(Duration::ZERO) => return Err(io::ErrorKind::TimedOut.into()),
        Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
    };
    match poll(&mut [PollFd::new(stream.as_fd(), ready)], wait) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
