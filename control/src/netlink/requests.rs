//! A netlink socket for requests and their answers, of any of its protocols. Numbers tell an answer from what is left of one before.

use std::io;

use netlink_sys::{Socket, SocketAddr};

use super::message::{self, Message};
use super::receive;
use crate::datagram::Damaged;

/// A list that changes while it is read is read again, this often in a row.
const ATTEMPTS: usize = 5;

/// See the module page.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    /// Opens a socket to the kernel.
    pub(crate) fn open(protocol: isize) -> io::Result<Requests> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Requests { socket, sequence: 0 })
    }

    /// Asks for a list, and collects with `take` what it consists of. One that changed meanwhile may lack what was there all the time,
    /// and is read again. `datagram` is room to receive in.
    pub(crate) fn list<T: Default>(
        &mut self,
        datagram: &mut Vec<u8>,
        request: impl Fn(u32) -> Vec<u8>,
        mut take: impl FnMut(&mut T, Message<'_>) -> Result<(), Damaged>,
    ) -> io::Result<T> {
        for _ in 0..ATTEMPTS {
            let mut all = T::default();
            self.send(&request)?;
            if self.take_list(datagram, |message| take(&mut all, message))? {
                return Ok(all);
            }
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    /// Asks for something to be done; the kernel has the answer ready when the request has been sent.
    pub(crate) fn ask(&mut self, datagram: &mut Vec<u8>, request: impl Fn(u32) -> Vec<u8>) -> io::Result<()> {
        self.send(&request)?;
        loop {
            receive(&self.socket, datagram).map_err(unanswered)?;
            for message in message::messages(datagram) {
                let message = message.map_err(damaged)?;
                if message.sequence == self.sequence && message.kind == message::NLMSG_ERROR {
                    return acknowledged(message.payload);
                }
            }
        }
    }

    fn send(&mut self, request: &impl Fn(u32) -> Vec<u8>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(self.sequence), 0).map(drop)
    }

    /// Takes in a list up to its end; false: it changed meanwhile, or more came than there was room for.
    fn take_list(
        &self,
        datagram: &mut Vec<u8>,
        mut take: impl FnMut(Message<'_>) -> Result<(), Damaged>,
    ) -> io::Result<bool> {
        let mut whole = true;
        loop {
            whole &= receive(&self.socket, datagram).map_err(unanswered)?;
            for message in message::messages(datagram) {
                let message = message.map_err(damaged)?;
                // What is left of a list that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= message.flags & message::NLM_F_DUMP_INTR == 0;
                match message.kind {
                    message::NLMSG_DONE => return Ok(whole),
                    message::NLMSG_ERROR => return acknowledged(message.payload).map(|()| whole),
                    _ => take(message).map_err(damaged)?,
                }
            }
        }
    }
}

fn acknowledged(payload: &[u8]) -> io::Result<()> {
    match message::error_code(payload).map_err(damaged)? {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The kernel answers while it takes the request, or the last part of the answer.
fn unanswered(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"),
        _ => error,
    }
}

fn damaged(_: Damaged) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is damaged")
}
