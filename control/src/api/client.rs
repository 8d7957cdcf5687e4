//! The client's end: what the command line asks of the daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Command, Line, Reply};
use crate::Failure;

/// How long the daemon may take to be heard from. It says by itself that it is busy; what it has begun is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// The longest answer, in bytes: what 100,000 tunnels take, and some.
const LONGEST: u64 = 256 << 20;

/// Asks the daemon that listens at `path`.
///
/// # Errors
/// It is not there, or what it answers.
pub(crate) fn call(path: &Path, command: &Command) -> Result<Value, Failure> {
    call_with(path, command, &[])
}

/// The same, with what follows the request.
///
/// # Errors
/// As [`call`].
pub(crate) fn call_with(path: &Path, command: &Command, body: &[u8]) -> Result<Value, Failure> {
    Connection::ask(path, command, body, PATIENCE).and_then(|(_, outcome)| once(outcome))
}

/// The same, where the daemon may take so long.
///
/// # Errors
/// It is not there, takes longer, or what it answers.
pub(crate) fn call_within(path: &Path, command: &Command, patience: Duration) -> Result<Value, Failure> {
    Connection::ask(path, command, &[], patience).and_then(|(_, outcome)| once(outcome))
}

fn once(outcome: Option<Value>) -> Result<Value, Failure> {
    outcome
        .ok_or_else(|| Failure::failed("the daemon's answer: a stream where none was asked for".to_owned()))
}

/// Records, as they come.
pub(crate) struct Stream(Connection);

impl Stream {
    /// Asks the daemon at `path` for a stream.
    ///
    /// # Errors
    /// It is not there, or what it answers.
    pub(crate) fn open(path: &Path, command: &Command) -> Result<Stream, Failure> {
        let (connection, outcome) = Connection::ask(path, command, &[], PATIENCE)?;
        match outcome {
            None => Ok(Stream(connection)),
            Some(_) => Err(Failure::failed("the daemon's answer: a stream was asked for".to_owned())),
        }
    }

    /// Waits for the next line, at most as long as is said, and else for ever. `None`: not yet.
    ///
    /// # Errors
    /// The daemon has gone, or speaks otherwise.
    pub(crate) fn next(&mut self, wait: Option<Duration>) -> Result<Option<Line>, Failure> {
        let Connection { reader, begun, path } = &mut self.0;
        let trouble = |error: io::Error| Failure::failed(format!("{path}: {error}"));
        // No time at all would mean for ever.
        let wait = wait.map(|wait| wait.max(Duration::from_millis(1)));
        reader.get_ref().set_read_timeout(wait).map_err(trouble)?;
        let room = LONGEST.saturating_sub(begun.len() as u64);
        match reader.take(room).read_until(b'\n', begun) {
            Ok(_) if begun.last() == Some(&b'\n') => {}
            Ok(_) => return Ok(Some(Line::End("the daemon has ended".to_owned()))),
            Err(error) if is_late(&error) => return Ok(None),
            // A daemon that dies takes its sockets with it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Some(Line::End("the daemon has ended".to_owned())));
            }
            Err(error) => return Err(trouble(error)),
        }
        let line = serde_json::from_slice(begun);
        begun.clear();
        line.map(Some).map_err(|error| Failure::failed(format!("the daemon's record: {error}")))
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// A connection whose request was answered.
struct Connection {
    reader: BufReader<UnixStream>,
    /// Of a line whose rest has not come yet.
    begun: Vec<u8>,
    path: String,
}

impl Connection {
    /// Asks, and takes the reply: its result, or `None` where records follow.
    fn ask(
        path: &Path,
        command: &Command,
        body: &[u8],
        patience: Duration,
    ) -> Result<(Connection, Option<Value>), Failure> {
        let unreachable = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "; no daemon runs there: start `culvert run`, or name its socket with --socket"
                }
                io::ErrorKind::PermissionDenied => "; it takes root, or the daemon's user",
                io::ErrorKind::WouldBlock => "; the daemon does not answer",
                _ => "",
            };
            Failure::failed(format!("{}: {error}{hint}", path.display()))
        };
        let mut stream = UnixStream::connect(path).map_err(unreachable)?;
        stream.set_read_timeout(Some(patience)).map_err(unreachable)?;
        stream.set_write_timeout(Some(patience)).map_err(unreachable)?;
        match stream.write_all(&command.to_line()).and_then(|()| stream.write_all(body)) {
            // A daemon that has no place for us says so, and does not listen.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unreachable(error)),
            _ => {}
        }
        let mut reader = BufReader::new(stream);
        let mut answer = Vec::new();
        (&mut reader).take(LONGEST).read_until(b'\n', &mut answer).map_err(unreachable)?;
        let reply: Reply = serde_json::from_slice(&answer)
            .map_err(|error| Failure::failed(format!("the daemon's answer: {error}")))?;
        let outcome = reply.into_outcome()?;
        Ok((Connection { reader, begun: Vec::new(), path: path.display().to_string() }, outcome))
    }
}
