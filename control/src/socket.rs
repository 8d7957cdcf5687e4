//! A UNIX socket to listen on, and its file: made for its owner alone, and gone with the listener.

use std::fs;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

/// The socket and its file, which goes away with it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`, for the owner's processes alone. The file of a daemon that has died is replaced.
    ///
    /// # Errors
    /// Another daemon listens there, something else is there, or the system refuses; in words.
    pub(crate) fn bind(path: &Path) -> Result<Listener, String> {
        make_way(path)?;
        // Nobody else may use it from its first moment on. No other thread makes files now.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(|error| about(path, &error))?;
        Ok(Listener { listener, path: path.to_owned(), file: identity(path) })
    }
}

impl Deref for Listener {
    type Target = UnixListener;

    fn deref(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not another daemon's, which has taken the place meanwhile.
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what a daemon that has ended left at `path`: a socket, or a symbolic link to where it was.
///
/// # Errors
/// A daemon listens there, something else is there, or the system refuses; in words.
pub(crate) fn make_way(path: &Path) -> Result<(), String> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(about(path, &error)),
    };
    if !kind.is_socket() && !kind.is_symlink() {
        let why = "there is a file that is no socket; choose another place with --socket";
        return Err(about(path, &why));
    }
    if UnixStream::connect(path).is_ok() {
        let why = "another daemon listens there; stop it, or choose another place with --socket";
        return Err(about(path, &why));
    }
    fs::remove_file(path).map_err(|error| about(path, &error))
}

fn about(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("socket {}: {why}", path.display())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The user behind the other end.
#[cfg(target_os = "linux")]
pub(crate) fn peer(stream: &UnixStream) -> nix::Result<u32> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    getsockopt(stream, PeerCredentials).map(|credentials| credentials.uid())
}

/// The user behind the other end.
#[cfg(target_os = "freebsd")]
pub(crate) fn peer(stream: &UnixStream) -> nix::Result<u32> {
    nix::unistd::getpeereid(stream).map(|(uid, _)| uid.as_raw())
}
