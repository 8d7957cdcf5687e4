//! The daemon's end of the line to the process that runs commands ([`helper`]).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::helper::{self, Done, Order, Program};

/// See the module page. Without commands, there is no process.
#[derive(Default)]
pub(in crate::carp) struct Runner {
    stream: Option<UnixStream>,
    /// What was said of a line that has not ended yet.
    read: Vec<u8>,
    orders: u64,
}

impl Runner {
    /// Starts the process, for these commands.
    ///
    /// # Errors
    /// The system gives no process or descriptors.
    pub(in crate::carp) fn start(programs: Vec<Program>) -> io::Result<Runner> {
        if programs.is_empty() { Ok(Runner::default()) } else { Runner::with(programs, helper::start()?) }
    }

    /// With a process that is there.
    pub(in crate::carp) fn with(programs: Vec<Program>, stream: UnixStream) -> io::Result<Runner> {
        stream.set_nonblocking(true)?;
        let mut runner = Runner { stream: Some(stream), ..Runner::default() };
        runner.order(&Order::Hooks(programs))?;
        Ok(runner)
    }

    /// Has the command of that number run. What comes back has the order's number, which is returned.
    ///
    /// # Errors
    /// The process is gone.
    pub(in crate::carp) fn run(
        &mut self,
        command: usize,
        environment: BTreeMap<String, String>,
    ) -> io::Result<u64> {
        self.orders += 1;
        let id = self.orders;
        self.order(&Order::Run { id, hook: command, environment }).map(|()| id)
    }

    /// It is told little, and has room for all of it.
    fn order(&mut self, order: &Order) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        stream.write_all(&line)
    }

    /// What has ended, and whether the process was found gone. Never waits.
    pub(in crate::carp) fn hear(&mut self) -> (Vec<Done>, bool) {
        let Some(stream) = &mut self.stream else { return (Vec::new(), false) };
        let mut bytes = [0; 4096];
        let gone = loop {
            match stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(length) => self.read.extend_from_slice(bytes.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        let mut done = Vec::new();
        while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.read.drain(..=end).collect();
            done.extend(serde_json::from_slice::<Done>(&line));
        }
        if gone {
            self.stream = None;
        }
        (done, gone)
    }

    /// Readable when something has ended.
    pub(in crate::carp) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }
}
