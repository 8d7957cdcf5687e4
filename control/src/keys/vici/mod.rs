//! VICI: how strongSwan's daemon, charon, is told what to negotiate, and tells what became of it.
//!
//! One connection serves for everything: requests go over it one after another, and events come in between. A thread of its
//! own holds it, so that nobody else ever waits for charon: who wants something says so ([`Vici::ask`]) and hears of it
//! later ([`Vici::told`]). The thread connects when it can, and again when it must.

mod message;

pub use message::{Malformed, Message};

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zeroize::Zeroize;

/// Where charon listens unless it is configured otherwise (Debian's and FreeBSD's packages agree).
pub const SOCKET: &str = "/var/run/charon.vici";

/// Kinds of packets (the README's "Packet layer").
const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const REQUEST_UNKNOWN: u8 = 2;
const REGISTER: u8 = 3;
const CONFIRMED: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
const EVENT: u8 = 7;

/// The longest packet, in bytes ("Transport protocol").
const LONGEST: usize = 512 << 10;
/// The events that are listened to. Those that list something belong to the request that asked for it.
const EVENTS: [&str; 9] = [
    "ike-updown",
    "ike-rekey",
    "ike-update",
    "child-updown",
    "child-rekey",
    "log",
    "list-sa",
    "list-conn",
    "list-policy",
];
/// How long charon may take to answer. Nothing is asked that it works on for long: what takes long ends in an event.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pauses between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// What the connection tells, in the order in which it happened.
#[derive(Debug)]
pub enum Told {
    /// charon is there, and all that was asked before is forgotten.
    Connected,
    /// charon is not there any more, or is not to be reached, for this reason. Told once.
    Lost(String),
    /// What became of a request.
    Answer(Answer),
    /// An event, by its name.
    Event(String, Message),
}

/// What became of a request.
#[derive(Debug)]
pub struct Answer {
    /// The number that [`Vici::ask`] gave it.
    pub number: u64,
    /// The response, or why there is none.
    pub response: Result<Message, String>,
    /// What was listed, where it asked for a list.
    pub listed: Vec<Message>,
}

impl Answer {
    /// Nothing, if the request was carried out.
    ///
    /// # Errors
    /// Why not: what charon says, or that it says nothing.
    pub fn outcome(&self) -> Result<(), String> {
        match &self.response {
            Err(why) => Err(why.clone()),
            // Commands that only list say nothing of success.
            Ok(response) if response.text("success").is_none_or(|success| success == "yes") => Ok(()),
            Ok(response) => {
                Err(response.text("errmsg").unwrap_or("strongSwan refuses and does not say why").to_owned())
            }
        }
    }
}

/// A request on its way.
struct Request {
    number: u64,
    command: &'static str,
    message: Message,
}

/// The connection to charon. Its thread ends when this is dropped.
pub struct Vici {
    requests: Sender<Request>,
    told: Receiver<Told>,
    rope: UnixStream,
    last: u64,
}

impl Vici {
    /// Holds a connection to the charon that listens at `socket`, from now on. `wake` is called whenever there is something
    /// to be told.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub fn start(socket: &Path, wake: impl Fn() + Send + 'static) -> io::Result<Vici> {
        let (requests, asked) = unbounded();
        let (telling, told) = unbounded();
        let (rope, clapper) = UnixStream::pair()?;
        rope.set_nonblocking(true)?;
        clapper.set_nonblocking(true)?;
        let holder = Holder {
            socket: socket.to_owned(),
            asked,
            clapper,
            tell: Tell { telling, wake: Box::new(wake) },
        };
        thread::Builder::new().name("vici".to_owned()).spawn(move || holder.run())?;
        Ok(Vici { requests, told, rope, last: 0 })
    }

    /// Sends a request. Returns its number, by which its [`Answer`] is known; there will be one.
    pub fn ask(&mut self, command: &'static str, message: Message) -> u64 {
        self.last += 1;
        // The thread ends after this alone.
        let _ = self.requests.send(Request { number: self.last, command, message });
        // A bell that takes no more has been rung.
        let _ = (&self.rope).write(&[1]);
        self.last
    }

    /// The next thing that has happened, if any.
    pub fn told(&self) -> Option<Told> {
        self.told.try_recv().ok()
    }

    /// Is there nothing to be told now?
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.told.is_empty()
    }
}

/// Where the thread says what happens.
struct Tell {
    telling: Sender<Told>,
    wake: Box<dyn Fn() + Send>,
}

impl Tell {
    fn say(&self, what: Told) {
        // Nobody to be told: the next look for requests ends the thread.
        let _ = self.telling.send(what);
        (self.wake)();
    }
}

/// The thread that holds the connection.
struct Holder {
    socket: PathBuf,
    asked: Receiver<Request>,
    clapper: UnixStream,
    tell: Tell,
}

/// Nobody wants the connection any more.
struct Unwanted;

impl Holder {
    fn run(self) {
        let mut pause = PAUSES.0;
        let mut lost: Option<String> = None;
        loop {
            let why = match UnixStream::connect(&self.socket) {
                Ok(stream) => match Connection::new(stream, &self).talk() {
                    Ok(why) => {
                        pause = PAUSES.0;
                        lost = None;
                        why
                    }
                    Err(Unwanted) => return,
                },
                Err(error) => format!("{}: {error}", self.socket.display()),
            };
            if lost.as_ref() != Some(&why) {
                self.tell.say(Told::Lost(why.clone()));
            }
            let next = Instant::now() + pause;
            while let Some(rest) = next.checked_duration_since(Instant::now()) {
                wait(&[&self.clapper], rest);
                if self.refuse(&why).is_err() {
                    return;
                }
            }
            lost = Some(why);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Answers requests while there is no connection.
    fn refuse(&self, why: &str) -> Result<(), Unwanted> {
        self.hush();
        loop {
            match self.asked.try_recv() {
                Ok(request) => self.answer(request.number, Err(why.to_owned()), Vec::new()),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Unwanted),
            }
        }
    }

    fn answer(&self, number: u64, response: Result<Message, String>, listed: Vec<Message>) {
        self.tell.say(Told::Answer(Answer { number, response, listed }));
    }

    /// The bell is silent again.
    fn hush(&self) {
        let mut rung = [0; 64];
        while matches!((&self.clapper).read(&mut rung), Ok(length) if length == rung.len()) {}
    }
}

/// Waits until one of them is readable, or for so long.
fn wait(streams: &[&UnixStream], longest: Duration) {
    let mut waited: Vec<_> =
        streams.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
    // Rounded up, so as not to look in vain.
    let longest = PollTimeout::try_from(longest + Duration::from_micros(999));
    // Whatever it says: what there is to do is looked for.
    let _ = poll(&mut waited, longest.unwrap_or(PollTimeout::from(1_000_u16)));
}

/// A request that charon has been sent.
struct Pending {
    number: u64,
    since: Instant,
    listed: Vec<Message>,
}

/// The connection while it lasts.
struct Connection<'h> {
    holder: &'h Holder,
    stream: UnixStream,
    received: Vec<u8>,
    pending: Option<Pending>,
    waiting: VecDeque<Request>,
}

impl<'h> Connection<'h> {
    fn new(stream: UnixStream, holder: &'h Holder) -> Connection<'h> {
        Connection { holder, stream, received: Vec::new(), pending: None, waiting: VecDeque::new() }
    }

    /// Talks until the connection is lost. Returns why it is.
    fn talk(mut self) -> Result<String, Unwanted> {
        let lost = match self.register() {
            Ok(()) => {
                self.holder.tell.say(Told::Connected);
                loop {
                    match self.step() {
                        Ok(Ok(())) => {}
                        Ok(Err(lost)) => break lost,
                        Err(unwanted) => return Err(unwanted),
                    }
                }
            }
            Err(lost) => lost,
        };
        let unanswered = self.pending.take().map(|pending| pending.number);
        for number in unanswered.into_iter().chain(self.waiting.drain(..).map(|request| request.number)) {
            self.holder.answer(number, Err(lost.clone()), Vec::new());
        }
        Ok(lost)
    }

    /// Asks for the events. What a charon does not know, it will not send.
    fn register(&mut self) -> Result<(), String> {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .and_then(|()| self.stream.set_write_timeout(Some(PATIENCE)))
            .map_err(|error| error.to_string())?;
        for event in EVENTS {
            self.send(REGISTER, event, None)?;
            let asked = Instant::now();
            loop {
                match self.receive()? {
                    Some((CONFIRMED | EVENT_UNKNOWN, _)) => break,
                    Some(packet) => self.hear(packet)?,
                    None if asked.elapsed() > PATIENCE => return Err(silent()),
                    None => {}
                }
            }
        }
        self.stream.set_nonblocking(true).map_err(|error| error.to_string())
    }

    /// Waits for something to do, and does it. The outer error: nobody wants the connection; the inner one: it is lost.
    fn step(&mut self) -> Result<Result<(), String>, Unwanted> {
        self.holder.hush();
        loop {
            match self.holder.asked.try_recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Unwanted),
            }
        }
        Ok(self.turn())
    }

    fn turn(&mut self) -> Result<(), String> {
        if self.pending.is_none()
            && let Some(Request { number, command, message }) = self.waiting.pop_front()
        {
            self.pending = Some(Pending { number, since: Instant::now(), listed: Vec::new() });
            self.send(REQUEST, command, Some(&message))?;
        }
        let patience = match &self.pending {
            Some(pending) => match PATIENCE.checked_sub(pending.since.elapsed()) {
                Some(rest) => rest,
                None => return Err(silent()),
            },
            None => PATIENCE,
        };
        wait(&[&self.stream, &self.holder.clapper], patience);
        while let Some(packet) = self.receive()? {
            self.hear(packet)?;
        }
        Ok(())
    }

    fn send(&mut self, kind: u8, name: &str, message: Option<&Message>) -> Result<(), String> {
        let mut packet = vec![0; 4];
        packet.push(kind);
        packet.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        packet.extend_from_slice(name.as_bytes());
        if let Some(message) = message {
            message.encode(&mut packet).map_err(|error| format!("{name}: {error}"))?;
        }
        let length = u32::try_from(packet.len() - 4).unwrap_or(u32::MAX);
        if let Some(head) = packet.first_chunk_mut() {
            *head = length.to_be_bytes();
        }
        let sent = self.write(&packet);
        // There may have been a secret in it.
        packet.zeroize();
        sent.map_err(|error| format!("{}: {error}", self.holder.socket.display()))
    }

    /// Writes all of it, for as long as charon takes it in.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    let mut waited = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut waited, PollTimeout::from(100_u8));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next packet: its kind, and the bytes behind it. Nothing where it has not all arrived.
    fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        loop {
            if let Some((length, rest)) = self.received.split_first_chunk() {
                let length = u32::from_be_bytes(*length) as usize;
                if length == 0 || length > LONGEST {
                    return Err(format!("{}: no VICI is spoken there", self.holder.socket.display()));
                }
                if let Some((kind, rest)) = rest.get(..length).and_then(<[u8]>::split_first) {
                    let packet = (*kind, rest.to_vec());
                    self.received.drain(..4 + length);
                    return Ok(Some(packet));
                }
            }
            let mut more = [0; 4096];
            match (&self.stream).read(&mut more) {
                Ok(0) => return Err("strongSwan has ended".to_owned()),
                Ok(read) => self.received.extend_from_slice(more.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(format!("{}: {error}", self.holder.socket.display())),
            }
        }
    }

    fn hear(&mut self, (kind, packet): (u8, Vec<u8>)) -> Result<(), String> {
        let broken = |error: Malformed| format!("strongSwan sent what is no message: {error}");
        match kind {
            EVENT => {
                let mut rest = packet.as_slice();
                let name = message::decode_name(&mut rest).map_err(broken)?;
                let message = Message::decode(rest).map_err(broken)?;
                match &mut self.pending {
                    Some(pending) if name.starts_with("list-") => pending.listed.push(message),
                    _ => self.holder.tell.say(Told::Event(name, message)),
                }
            }
            RESPONSE | REQUEST_UNKNOWN => {
                let Some(Pending { number, listed, .. }) = self.pending.take() else {
                    return Err("strongSwan answers what was not asked".to_owned());
                };
                let response = match kind {
                    RESPONSE => Ok(Message::decode(&packet).map_err(broken)?),
                    _ => Err("this strongSwan does not know the command".to_owned()),
                };
                self.holder.answer(number, response, listed);
            }
            // An event that was registered, or is not known.
            _ => {}
        }
        Ok(())
    }
}

fn silent() -> String {
    "strongSwan does not answer".to_owned()
}

#[cfg(test)]
mod tests;
