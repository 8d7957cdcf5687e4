//! The process that runs hooks and checks (`culvert carp-hooks`): started before the daemon gives up the right to start anything, and told
//! then what it may run. Later it is told which of these, and when; whoever takes the daemon over gains nothing but that.
//!
//! Both sides send lines of JSON. The first is [`Order::Hooks`]; then come [`Order::Run`]s, and a [`Done`] is the answer to each.
//! When the daemon is gone, what runs is let run, as long as it may, and nothing else begins.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::carp::beside;

/// How much of what a hook prints is told, in bytes.
const TOLD: usize = 4 << 10;
/// How long output is read after a hook has ended: what it left running may hold its end.
const AFTER: Duration = Duration::from_millis(200);
/// How often it is looked whether a hook has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What the daemon says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::carp) enum Order {
    /// What may be run, by its place in this list.
    Hooks(Vec<Program>),
    /// Run one of them.
    Run {
        /// Comes back in [`Done`].
        id: u64,
        /// Which.
        hook: usize,
        /// What it finds in its environment.
        environment: BTreeMap<String, String>,
    },
}

/// A hook as it is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::carp) struct Program {
    /// The program and its arguments.
    pub(in crate::carp) command: Vec<String>,
    /// How long it may run, in milliseconds.
    pub(in crate::carp) timeout: u64,
}

impl Program {
    /// The command, killed after so long.
    pub(in crate::carp) fn new(command: &[String], timeout: Duration) -> Program {
        Program { command: command.to_vec(), timeout: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// What the helper says: a hook has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::carp) struct Done {
    pub(in crate::carp) id: u64,
    /// Why it has failed; `None`: it has not.
    pub(in crate::carp) why: Option<String>,
    /// How long it took, in seconds.
    pub(in crate::carp) seconds: f64,
    /// The last that it printed.
    pub(in crate::carp) output: String,
}

/// Starts the helper, and gives the daemon's end.
///
/// # Errors
/// The system gives no process or descriptors.
pub(in crate::carp) fn start() -> io::Result<UnixStream> {
    beside::start(&["carp-hooks".as_ref()])
}

/// `culvert carp-hooks`: serves the daemon at the other end of standard input.
///
/// # Errors
/// Nobody who speaks this is there.
pub fn run() -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("carp-hooks: {error}"));
    // The daemon's files are its owner's alone; what hooks make is as usual.
    umask(Mode::from_bits_truncate(0o022));
    serve(beside::line().map_err(failed)?).map_err(failed)
}

/// Does what it is told until the other end is gone.
///
/// # Errors
/// What comes is not understood.
pub(in crate::carp) fn serve(stream: UnixStream) -> io::Result<()> {
    let answers = Arc::new(Mutex::new(stream.try_clone()?));
    let mut hooks = Vec::new();
    let mut running = Vec::new();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line)? {
            Order::Hooks(known) => hooks = known,
            Order::Run { id, hook, environment } => {
                let Some(program): Option<&Program> = hooks.get(hook) else { continue };
                let (program, answers) = (program.clone(), Arc::clone(&answers));
                running.retain(|thread: &thread::JoinHandle<()>| !thread.is_finished());
                running.push(thread::spawn(move || {
                    let done = serde_json::to_string(&once(id, &program, &environment)).unwrap_or_default();
                    let mut to = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    // A daemon that is gone wants no answer.
                    let _ = writeln!(to, "{done}");
                }));
            }
        }
    }
    running.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// Runs a hook to its end, or to the end of its time.
fn once(id: u64, program: &Program, environment: &BTreeMap<String, String>) -> Done {
    let begun = Instant::now();
    let mut output = Vec::new();
    let outcome = attempt(program, environment, &mut output, begun + Duration::from_millis(program.timeout));
    let why = match outcome {
        Ok(Some(status)) if status.success() => None,
        Ok(Some(status)) => Some(match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with {code}"),
            (None, signal) => format!("signal {} ended it", signal.unwrap_or(0)),
        }),
        Ok(None) => {
            Some(format!("it did not end within {:?} and was killed", Duration::from_millis(program.timeout)))
        }
        Err(error) => Some(format!("cannot be run: {error}")),
    };
    let output = String::from_utf8_lossy(&output).trim_end().to_owned();
    Done { id, why, seconds: begun.elapsed().as_secs_f64(), output }
}

/// How it ended; `None`: it was killed at the end of its time.
fn attempt(
    program: &Program,
    environment: &BTreeMap<String, String>,
    output: &mut Vec<u8>,
    end: Instant,
) -> io::Result<Option<ExitStatus>> {
    let (name, arguments) = program.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (mut ours, theirs) = io::pipe()?;
    let mut child = Command::new(name)
        .args(arguments)
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        // It is killed with all that it has started.
        .process_group(0)
        .spawn()?;
    let mut open = true;
    let mut killed = false;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        if ended.is_none() {
            ended = child.try_wait()?.map(|status| (status, Instant::now()));
        }
        if let Some((status, since)) = ended
            && (!open || since.elapsed() >= AFTER)
        {
            return Ok((!killed).then_some(status));
        }
        if ended.is_none() && !killed && Instant::now() >= end {
            kill(&child);
            killed = true;
        }
        let mut waited = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
        if !open {
            thread::sleep(LOOK);
        } else if poll(&mut waited, wait).is_ok_and(|ready| ready > 0) {
            open = take(&mut ours, output);
        }
    }
}

/// Reads what has been printed, and keeps the last of it. Is there more to come?
fn take(from: &mut impl Read, output: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 1024];
    let length = from.read(&mut bytes).unwrap_or(0);
    output.extend_from_slice(bytes.get(..length).unwrap_or_default());
    let over = output.len().saturating_sub(TOLD);
    output.drain(..over);
    length > 0
}

fn kill(child: &Child) {
    // Not waited for yet, so the number is still its own.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}
