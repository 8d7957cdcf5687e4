//! Processes of ours beside the daemon, which starts them and speaks with them by their standard input: they see it go when its end
//! of the line is closed, whatever ended it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Starts this program with these arguments, and gives the daemon's end of the line.
///
/// # Errors
/// The system gives no process or descriptors.
pub(super) fn start(arguments: &[&OsStr]) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs: OwnedFd = theirs.into();
    Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(theirs)
        .stdout(Stdio::null())
        .current_dir("/")
        // What ends the daemon by its terminal or its group does not end what is still to be done.
        .process_group(0)
        .spawn()?;
    Ok(ours)
}

/// The other end, in such a process.
///
/// # Errors
/// There is no standard input.
pub(super) fn line() -> io::Result<UnixStream> {
    io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from)
}
