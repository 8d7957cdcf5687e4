//! The process that demotes the router when its daemon dies (`culvert carp-guard`): CARP would leave it master of tunnels that
//! nobody carries any more, for as long as nobody starts another daemon.
//!
//! The daemon tells it, in a byte, whether there is an address that the other router could take. A daemon that is gone has closed
//! its end of the line, whatever ended it. One that ended as it should has demoted the router itself by then, and it is done once.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::unistd::dup2_stderr;

use crate::Failure;

use super::beside;
use super::demotion::{Demoted, demotion};

/// What the daemon says: there is something to be taken over, or there is not.
const SHARES: u8 = b'+';
const ALONE: u8 = b'-';

/// When all is advertised once more after the router was demoted, in milliseconds since the last time: its ports go back to the
/// kernel meanwhile, which starts them anew, and what it sends is lost until they are there.
const AGAIN: [u64; 5] = [50, 100, 200, 400, 800];

/// `culvert carp-guard`.
#[derive(clap::Args, Debug)]
pub struct CarpGuard {
    /// The daemon's socket, beside which it notes what it has added to the demotion.
    pub socket: PathBuf,
}

/// The daemon's end.
pub struct Guard {
    line: Option<UnixStream>,
    shares: bool,
}

impl Guard {
    /// Without a process, which is started when there is something to be guarded.
    #[must_use]
    pub fn idle() -> Guard {
        Guard { line: None, shares: false }
    }

    /// From now on there is an address to be taken over by the other router, or there is none.
    ///
    /// # Errors
    /// The system gives no process or descriptors, or the process is gone.
    pub fn watch(&mut self, shares: bool, socket: &Path) -> io::Result<()> {
        if shares == self.shares {
            return Ok(());
        }
        let line = match self.line.take() {
            Some(line) => line,
            None => beside::start(&["carp-guard".as_ref(), std::path::absolute(socket)?.as_os_str()])?,
        };
        (&line).write_all(&[if shares { SHARES } else { ALONE }])?;
        (self.line, self.shares) = (Some(line), shares);
        Ok(())
    }
}

/// Guards the daemon at the other end of standard input.
///
/// # Errors
/// The router could not be demoted.
pub fn run(arguments: &CarpGuard) -> Result<(), Failure> {
    let failed = |why: String| Failure::failed(format!("carp-guard: {why}"));
    let line = beside::line().map_err(|error| failed(error.to_string()))?;
    let demoted = || Demoted::beside(&arguments.socket, demotion());
    let serve = serve(line, demoted, tell, thread::sleep);
    serve.map_err(|why| failed(format!("the daemon is gone, and this router is not demoted: {why}")))
}

/// Says that the router is demoted, where the daemon's log goes, and lets go of that: daemon(8) would wait for it, and not start
/// the next one meanwhile.
fn tell() {
    let what = "carp: the daemon is gone: this router is demoted until the next one is ready";
    let _ = writeln!(io::stderr(), "culvert: warn: {what}");
    let _ = File::create("/dev/null").map(dup2_stderr);
}

/// Waits until the daemon is gone, and demotes the router for that where it is not demoted yet. `tell` says so, `wait` lets time
/// pass.
fn serve(
    line: impl Read,
    demoted: impl FnOnce() -> Demoted,
    tell: impl FnOnce(),
    wait: impl Fn(Duration),
) -> Result<(), String> {
    // Whatever ends it, nobody is there any more.
    let last = BufReader::new(line).bytes().map_while(Result::ok).last();
    if last != Some(SHARES) {
        return Ok(());
    }
    let mut demoted = demoted();
    if demoted.set(true)? {
        tell();
        for pause in AGAIN {
            wait(Duration::from_millis(pause));
            demoted.advertise();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::super::demotion::scripted::Scripted;
    use super::*;

    /// The daemon has said this, and is gone: was the router demoted by the guard, and what is the count? `before`: the daemon has
    /// demoted it itself.
    fn gone(name: &str, said: &[bool], before: bool) -> (bool, i32) {
        let folder = std::env::temp_dir().join(format!("culvert-guard-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (socket, kernel) = (folder.join("socket"), Scripted::default());
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut guard = Guard { line: Some(ours), shares: false };
        said.iter().for_each(|shares| guard.watch(*shares, &socket).expect("it is told"));
        if before {
            Demoted::beside(&socket, Some(Box::new(kernel.clone()))).set(true).expect("demoted");
        }
        drop(guard);
        let (demoted, waited) = (Cell::new(false), Cell::new(Duration::ZERO));
        let ended = serve(
            theirs,
            || Demoted::beside(&socket, Some(Box::new(kernel.clone()))),
            || demoted.set(true),
            |pause| waited.set(waited.get() + pause),
        );
        assert_eq!(ended, Ok(()));
        fs::remove_dir_all(&folder).expect("removed");
        // The daemon has done it once, or the guard has, and goes on saying so for as long as a port takes.
        let demoted = demoted.get();
        let said = if demoted { 1 + AGAIN.len() } else { usize::from(before) };
        assert_eq!(kernel.advertised.get(), said);
        assert_eq!(waited.get() > Duration::from_secs(1), demoted);
        (demoted, kernel.count.get())
    }

    #[test]
    fn a_daemon_that_dies_leaves_its_router_demoted() {
        assert_eq!(gone("dies", &[true], false), (true, 240));
        assert_eq!(gone("again", &[true, false, true], false), (true, 240));
    }

    #[test]
    fn once_and_only_where_another_router_could_take_over() {
        assert_eq!(gone("ended", &[true], true), (false, 240), "the daemon has done it itself");
        assert_eq!(gone("alone", &[true, false], false), (false, 0), "there is nothing to be taken over");
        assert_eq!(gone("never", &[], false), (false, 0));
    }
}
