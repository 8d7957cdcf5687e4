//! Addresses that have to go on answering when a configuration is changed (`apply --watch`).
//!
//! 1. Before the change each is asked by ICMP echo, by the client's thread ([`Lookout::before`]); those that answer are watched.
//! 2. From the change on a thread of its own asks them every quarter of a second ([`Lookout::keep`]).
//! 3. One that leaves [`MISSED`] requests in a row unanswered is told of, and the control thread takes the change back.
//!
//! Requests go through the host's stack, as an operator's session does, and each looks for its way and its source address anew.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use culvert_engine::wire::{Icmpv4, Icmpv4Message, Icmpv6, Icmpv6Message, icmpv4, icmpv6};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, connect, recv, send,
    socket,
};
use ring::rand::{SecureRandom, SystemRandom};

use super::bell::Bell;
use crate::Failure;

/// Addresses for one change, at most.
const MOST: usize = 16;
/// From one request to the next.
const EVERY: Duration = Duration::from_millis(250);
/// Requests before the change, until an address counts as silent.
const BEFORE: usize = 4;
/// Requests in a row without an answer until an address is lost: 2 seconds, in which next hops are found anew.
const MISSED: usize = 8;
/// What a request carries, in bytes.
const TOKEN: usize = 8;

/// Addresses that answered before the change, and those that did not.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    pub(super) answered: Vec<IpAddr>,
    pub(super) silent: Vec<IpAddr>,
}

/// Addresses are watched as long as this is there.
#[derive(Debug)]
pub(super) struct Watching {
    lost: Receiver<IpAddr>,
    /// The thread ends when it is gone.
    _over: Sender<()>,
}

impl Watching {
    /// An address that has stopped answering.
    pub(super) fn lost(&self) -> Option<IpAddr> {
        self.lost.try_recv().ok()
    }
}

impl Lookout {
    /// Step 1. Takes a second where one of them is silent.
    ///
    /// # Errors
    /// There are too many, or nobody can be asked.
    pub(super) fn before(addresses: &[IpAddr]) -> Result<Lookout, Failure> {
        if addresses.len() > MOST {
            return Err(Failure::usage(format!("watch: at most {MOST} addresses can be watched")));
        }
        let failed =
            |error: io::Error| Failure::failed(format!("watch: no echo request can be sent: {error}"));
        let mut waiting = addresses
            .iter()
            .map(|address| Echo::new(*address))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed)?;
        let mut answered = Vec::new();
        for _ in 0..BEFORE {
            for echo in &mut waiting {
                echo.ask().map_err(failed)?;
            }
            for _ in 0..10 {
                if waiting.is_empty() {
                    break;
                }
                thread::sleep(EVERY / 10);
                waiting.retain_mut(|echo| {
                    let silent = !echo.is_answered();
                    if !silent {
                        answered.push(echo.address);
                    }
                    silent
                });
            }
        }
        Ok(Lookout { answered, silent: waiting.iter().map(|echo| echo.address).collect() })
    }

    /// Steps 2 and 3, by a thread that rings when there is something to tell.
    ///
    /// # Errors
    /// The system has no thread left, or no random numbers.
    pub(super) fn keep(&self, bell: Arc<Bell>) -> io::Result<Watching> {
        let mut echoes =
            self.answered.iter().map(|address| Echo::new(*address)).collect::<io::Result<Vec<_>>>()?;
        let (tell, lost) = bounded(1);
        let (over, ended) = bounded(0);
        let watch = move || {
            loop {
                for echo in &mut echoes {
                    // What cannot be sent is not answered.
                    let _ = echo.ask();
                }
                if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                for echo in &mut echoes {
                    echo.missed = if echo.is_answered() { 0 } else { echo.missed + 1 };
                }
                if let Some(echo) = echoes.iter().find(|echo| echo.missed >= MISSED) {
                    let _ = tell.send(echo.address);
                    return bell.ring();
                }
            }
        };
        thread::Builder::new().name("lookout".to_owned()).spawn(watch)?;
        Ok(Watching { lost, _over: over })
    }
}

/// Echo requests to an address.
struct Echo {
    address: IpAddr,
    /// By which answers are known: identifier and data.
    token: [u8; TOKEN],
    sequence: u16,
    /// Requests in a row that nothing was heard after.
    missed: usize,
    /// A socket for each of the latest requests. A connected one gets what comes from there alone.
    asked: VecDeque<OwnedFd>,
}

impl Echo {
    fn new(address: IpAddr) -> io::Result<Echo> {
        let mut token = [0; TOKEN];
        SystemRandom::new()
            .fill(&mut token)
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        Ok(Echo { address, token, sequence: 0, missed: 0, asked: VecDeque::with_capacity(MISSED) })
    }

    fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.token[0], self.token[1]])
    }

    /// Sends a request. That there is no way to the address is no error: nobody answers then.
    ///
    /// # Errors
    /// The system gives no socket for it.
    fn ask(&mut self) -> io::Result<()> {
        let (identifier, sequence) = (self.identifier(), self.sequence);
        self.sequence = sequence.wrapping_add(1);
        let mut packet = [0; icmpv4::HEADER_LEN + TOKEN];
        packet[icmpv4::HEADER_LEN..].copy_from_slice(&self.token);
        let (family, protocol, written) = match self.address {
            IpAddr::V4(_) => {
                let request = Icmpv4Message::EchoRequest { identifier, sequence };
                (AddressFamily::Inet, SockProtocol::Icmp, request.emit(&mut packet))
            }
            IpAddr::V6(address) => {
                // The system computes the checksum, as it chooses the source (RFC 3542 §3.1).
                let request = Icmpv6Message::EchoRequest { identifier, sequence };
                let written = request.emit(&mut packet, Ipv6Addr::UNSPECIFIED, address);
                (AddressFamily::Inet6, SockProtocol::IcmpV6, written)
            }
        };
        written.map_err(io::Error::other)?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, SockType::Raw, flags, protocol)?;
        let fd = socket.as_raw_fd();
        let way = match self.address {
            IpAddr::V4(address) => connect(fd, &SockaddrIn::from(SocketAddrV4::new(address, 0))),
            IpAddr::V6(address) => connect(fd, &SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0))),
        };
        let sent = way.and_then(|()| send(fd, &packet, MsgFlags::empty()));
        if self.asked.len() >= MISSED {
            self.asked.pop_front();
        }
        if sent.is_ok() {
            self.asked.push_back(socket);
        }
        Ok(())
    }

    /// Has a request been answered since the last time?
    fn is_answered(&mut self) -> bool {
        let answered = self.asked.iter().rposition(|socket| self.has_answer(socket));
        if let Some(latest) = answered {
            self.asked.drain(..=latest);
        }
        answered.is_some()
    }

    fn has_answer(&self, socket: &OwnedFd) -> bool {
        let mut packet = [0; 256];
        // Whatever else comes from there; errors about a packet of ours are no answer.
        (0..64).any(|_| match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => packet.get(..length).is_some_and(|packet| self.is_answer(packet)),
            Err(_) => false,
        })
    }

    fn is_answer(&self, packet: &[u8]) -> bool {
        let (kind, rest, body) = match self.address {
            IpAddr::V4(_) => {
                // A raw socket gets the IP header as well; some systems change the length in it.
                let header = packet.first().map_or(0, |first| 4 * usize::from(first & 15));
                let message = packet.get(header..).unwrap_or_default();
                let Ok(message) = Icmpv4::parse(message) else { return false };
                (message.kind() == icmpv4::ECHO_REPLY, message.rest(), message.body())
            }
            IpAddr::V6(_) => {
                let Ok(message) = Icmpv6::parse(packet) else { return false };
                (message.kind() == icmpv6::ECHO_REPLY, message.rest(), message.body())
            }
        };
        kind && rest.starts_with(&self.identifier().to_be_bytes()) && body == self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(address: &str) -> Echo {
        Echo::new(address.parse().expect("an address")).expect("an echo")
    }

    #[test]
    fn only_an_answer_to_the_request_is_one() {
        let echo = echo("192.0.2.9");
        let identifier = echo.identifier();
        let packet = |message: Icmpv4Message, token: [u8; TOKEN]| {
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 9, 192, 0, 2, 1];
            packet.resize(28, 0);
            packet.extend(token);
            message.emit(&mut packet[20..]).expect("room");
            packet
        };
        let reply = Icmpv4Message::EchoReply { identifier, sequence: 3 };
        assert!(echo.is_answer(&packet(reply, echo.token)));
        let mut other = echo.token;
        other[7] ^= 1;
        assert!(!echo.is_answer(&packet(reply, other)));
        assert!(!echo.is_answer(&packet(Icmpv4Message::EchoRequest { identifier, sequence: 3 }, echo.token)));
        let stranger = Icmpv4Message::EchoReply { identifier: identifier.wrapping_add(1), sequence: 3 };
        assert!(!echo.is_answer(&packet(stranger, echo.token)));
        for length in 0..36 {
            assert!(!echo.is_answer(&packet(reply, echo.token)[..length]), "{length}");
        }
    }

    #[test]
    fn too_many_are_refused() {
        let failure = Lookout::before(&[IpAddr::V6(Ipv6Addr::LOCALHOST); MOST + 1]).expect_err("too many");
        assert_eq!(failure.code(), 2);
    }
}
