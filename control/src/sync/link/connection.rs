//! One connection: TCP, TLS inside it, messages inside that. Whoever drives it never waits.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, setsockopt, socket,
    sockopt,
};
use rustls::Connection as Tls;

use super::frame::{Hello, Message, Reader};
use super::proof::Proof;

/// What is given to TLS at once, in bytes: more waits outside, where it is counted.
const AT_ONCE: usize = 1 << 16;

/// See the module page.
pub(super) struct Connection {
    stream: TcpStream,
    tls: Tls,
    reader: Reader,
    /// Who it is with.
    pub(super) with: SocketAddr,
    /// We have made it.
    pub(super) dialled: bool,
    /// TCP stands.
    connected: bool,
    /// What we say first, once TLS stands.
    greeting: Option<Hello>,
    /// When it began.
    pub(super) begun: Instant,
    /// When something came last.
    heard: Instant,
    /// When something was sent last.
    said: Instant,
    /// Nothing was read lately, for want of room: silence means nothing.
    deaf: bool,
    /// Bytes that are given to TLS and not written yet, as far as that is known.
    leaving: usize,
    /// The other side says nothing more.
    ended: bool,
    /// It takes nothing more, and why.
    cut: Option<String>,
}

/// Why a connection has ended.
pub(super) struct Ended(pub(super) String);

impl Connection {
    /// Begins to connect from `from` to `to`.
    ///
    /// # Errors
    /// The system refuses at once, in words.
    pub(super) fn dial(
        from: IpAddr,
        to: SocketAddr,
        proof: &Proof,
        greeting: Hello,
        now: Instant,
    ) -> Result<Connection, String> {
        let fd = begin(from, to).map_err(|error| from_words(from, to, error))?;
        let tls = proof.dial().map_err(|error| proof.explain(&error))?;
        Ok(Connection::new(fd.into(), tls, to, (true, false), greeting, now))
    }

    /// Takes one that somebody else has made.
    ///
    /// # Errors
    /// The system refuses, in words.
    pub(super) fn answer(
        stream: TcpStream,
        from: SocketAddr,
        proof: &Proof,
        greeting: Hello,
        now: Instant,
    ) -> Result<Connection, String> {
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let tls = proof.answer().map_err(|error| proof.explain(&error))?;
        Ok(Connection::new(stream, tls, from, (false, true), greeting, now))
    }

    fn new(
        stream: TcpStream,
        mut tls: Tls,
        with: SocketAddr,
        (dialled, connected): (bool, bool),
        greeting: Hello,
        now: Instant,
    ) -> Connection {
        // What is said is small, and waits for nothing.
        let _ = stream.set_nodelay(true);
        // What waits is bounded by whoever says it.
        tls.set_buffer_limit(None);
        Connection {
            stream,
            tls,
            reader: Reader::default(),
            with,
            dialled,
            connected,
            greeting: Some(greeting),
            begun: now,
            heard: now,
            said: now,
            deaf: false,
            leaving: 0,
            ended: false,
            cut: None,
        }
    }

    /// What has to come true for there to be something to do; `listen`: messages are wanted.
    pub(super) fn interest(&self, listen: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        if !self.connected || (self.tls.wants_write() && self.cut.is_none()) {
            flags |= PollFlags::POLLOUT;
        }
        if self.connected && (listen || self.tls.is_handshaking()) {
            flags |= PollFlags::POLLIN;
        }
        flags
    }

    /// TLS stands.
    pub(super) fn is_proven(&self) -> bool {
        self.connected && !self.tls.is_handshaking()
    }

    /// For how long nothing has come that could have.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        if self.deaf { Duration::ZERO } else { now.saturating_duration_since(self.heard) }
    }

    /// For how long nothing has been said.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.said)
    }

    /// The next message; `None`: there is none now.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) fn next(&mut self, proof: &Proof, now: Instant) -> Result<Option<Message>, Ended> {
        if std::mem::take(&mut self.deaf) {
            self.heard = now;
        }
        if !self.connected && !self.finish_connecting()? {
            return Ok(None);
        }
        loop {
            // First what TLS has already.
            if self.is_proven() {
                match self.reader.read(&mut self.tls.reader()) {
                    Ok(Some(message)) => return Ok(Some(message)),
                    Ok(None) => {}
                    Err(error) => return Err(self.broken(&error)),
                }
            }
            if self.ended {
                return Err(self.broken(&io::ErrorKind::UnexpectedEof.into()));
            }
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => self.ended = true,
                Ok(_) => {
                    self.heard = now;
                    let outcome = self.tls.process_new_packets();
                    if let Err(error) = outcome {
                        // The other side is told why.
                        let _ = self.tls.write_tls(&mut self.stream);
                        return Err(Ended(proof.explain(&error)));
                    }
                    self.greet();
                    // What TLS has to answer.
                    self.flush()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.check().map(|()| None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    /// There is no room for messages: they are not read.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) fn ignore(&mut self) -> Result<(), Ended> {
        self.deaf = true;
        self.check()
    }

    /// A side that takes nothing more is gone, once all has been read that it said.
    fn check(&self) -> Result<(), Ended> {
        self.cut.clone().map_or(Ok(()), |why| Err(Ended(why)))
    }

    /// Says something as soon as it can; what is more than fits at once has to wait elsewhere ([`Connection::has_room`]).
    pub(super) fn say(&mut self, message: &Message, now: Instant) {
        let bytes = message.to_bytes();
        // Into a buffer without a bound: it takes all.
        let _ = self.tls.writer().write_all(&bytes);
        self.leaving += bytes.len();
        self.said = now;
    }

    /// Whether more can be said now.
    pub(super) fn has_room(&self) -> bool {
        self.leaving < AT_ONCE
    }

    /// Writes what there is to be written, as far as the system takes it.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        if !self.connected && !self.finish_connecting()? {
            return Ok(());
        }
        self.greet();
        while self.cut.is_none() && self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the other side said last may say more.
                Err(error) => {
                    self.cut = Some(words(self.with, error));
                    return Ok(());
                }
            }
        }
        self.leaving = 0;
        Ok(())
    }

    /// Says why it ends, and ends.
    pub(super) fn close(mut self, why: &str, now: Instant) {
        if self.is_proven() {
            self.say(&Message::Bye(why.to_owned()), now);
        }
        self.tls.send_close_notify();
        // As far as the system takes it at once.
        let _ = self.flush();
    }

    fn greet(&mut self) {
        if self.is_proven()
            && let Some(greeting) = self.greeting.take()
        {
            self.say(&Message::Hello(greeting), self.heard);
        }
    }

    fn finish_connecting(&mut self) -> Result<bool, Ended> {
        let error = getsockopt(&self.stream, sockopt::SocketError).unwrap_or_else(|errno| errno as i32);
        if error != 0 {
            return Err(Ended(words(self.with, io::Error::from_raw_os_error(error))));
        }
        match self.stream.peer_addr() {
            Ok(_) => self.connected = true,
            Err(error) if error.raw_os_error() == Some(Errno::ENOTCONN as i32) => {}
            Err(error) => return Err(Ended(words(self.with, error))),
        }
        Ok(self.connected)
    }

    fn broken(&self, error: &io::Error) -> Ended {
        Ended(match error.kind() {
            io::ErrorKind::UnexpectedEof if self.is_proven() => {
                "the partner has closed the connection".to_owned()
            }
            io::ErrorKind::UnexpectedEof => {
                "the partner has closed the connection before it proved anything".to_owned()
            }
            io::ErrorKind::InvalidData => format!("the partner is not understood: {error}"),
            _ => words(self.with, io::Error::from(error.kind())),
        })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn words(with: SocketAddr, error: io::Error) -> String {
    format!("{with}: {error}")
}

/// An error of connecting, which may be about either address.
fn from_words(from: IpAddr, to: SocketAddr, errno: Errno) -> String {
    match errno {
        Errno::EADDRNOTAVAIL => format!("{from}, which `listen` has, is no address of this router now"),
        errno => words(to, errno.into()),
    }
}

/// Begins to connect, without waiting.
pub(super) fn begin(from: IpAddr, to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    // The port is whichever is free, also where an earlier connection has not quite gone.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(fd),
        Err(errno) => Err(errno),
    }
}
