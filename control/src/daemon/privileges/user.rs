//! A user of the daemon's own (`culvert run --user NAME`), in place of root.
//!
//! 1. [`User::named`]: who that is.
//! 2. [`User::move_in`], as root: folders become that user's, one for the socket and the files beside it, and the one for state.
//!    At the places where clients look for the sockets stand symbolic links, which lead to nobody once the daemon has ended.
//! 3. [`User::become_it`]: for good. The capabilities that the daemon needs stay (`setuid(2)` takes them all otherwise); whatever
//!    it opens, makes and changes from then on is what that user may open, make and change with them.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, geteuid, initgroups, setresgid, setresuid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities};

use super::super::offloads;
use super::linux::KEPT;
use crate::Failure;
use crate::socket;
use crate::transaction::store;

/// Of the folder that has the socket, behind the socket's own name.
const FOLDER: &str = ".d";
/// What stands beside a socket and is looked for by others: nothing more, and what charon's plugin looks for.
const SOUGHT: [&str; 2] = ["", ".keys"];

/// A user that is not the one who runs this.
pub(in super::super) struct User {
    name: CString,
    uid: Uid,
    gid: Gid,
}

impl User {
    /// The user of that name; `None`: it is the one who runs this.
    ///
    /// # Errors
    /// There is none, or only root may become it; code 2.
    pub(in super::super) fn named(name: &str) -> Result<Option<User>, Failure> {
        let wrong = |why: String| Failure::usage(format!("run: --user {name}: {why}"));
        let found = nix::unistd::User::from_name(name).map_err(|error| wrong(error.to_string()))?;
        let found = found.ok_or_else(|| {
            wrong(format!("there is no such user; make it (useradd --system {name}), or leave --user out"))
        })?;
        if found.uid == geteuid() {
            return Ok(None);
        }
        if !geteuid().is_root() {
            return Err(wrong(
                "only root can become another user; run it as root, or as that user".to_owned(),
            ));
        }
        let name = CString::new(name).map_err(|error| wrong(error.to_string()))?;
        Ok(Some(User { name, uid: found.uid, gid: found.gid }))
    }

    /// Step 2: where the socket that clients look for at `socket` is to be, now that `state` is the user's as well.
    ///
    /// # Errors
    /// A daemon listens there, a folder is somebody else's or holds other files, or the system refuses; in words.
    pub(in super::super) fn move_in(&self, socket: &Path, state: &Path) -> Result<PathBuf, String> {
        let about = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        for suffix in SOUGHT {
            socket::make_way(&with(socket, suffix))?;
        }
        let folder = with(socket, FOLDER);
        let name = socket.file_name().map(PathBuf::from).unwrap_or_default();
        let prefix = name.to_string_lossy().into_owned();
        // What a daemon that was root, and was killed, has left to put back.
        let (left, found) = (with(socket, offloads::SUFFIX), folder.join(with(&name, offloads::SUFFIX)));
        make(&folder).map_err(|error| about(&folder, &error))?;
        match fs::rename(&left, found) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(about(&left, &error)),
            _ => {}
        }
        self.take(&folder, |file| file.starts_with(&prefix)).map_err(|why| about(&folder, &why))?;
        self.take(state, store::is_ours).map_err(|why| about(state, &why))?;
        let below = with(&name, FOLDER);
        for suffix in SOUGHT {
            let (at, to) = (with(socket, suffix), below.join(with(&name, suffix)));
            symlink(to, &at).map_err(|error| about(&at, &error))?;
        }
        Ok(folder.join(name))
    }

    /// Makes a folder the user's alone, with the files in it; makes it where there is none.
    fn take(&self, folder: &Path, ours: impl Fn(&str) -> bool) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        make(folder).map_err(text)?;
        let opened = open(folder, libc::O_DIRECTORY).map_err(text)?;
        let owner = opened.metadata().map_err(text)?.uid();
        if owner != 0 && owner != self.uid.as_raw() {
            return Err(format!("it belongs to user {owner}; give the daemon a folder of its own"));
        }
        for entry in fs::read_dir(folder).map_err(text)? {
            let entry = entry.map_err(text)?;
            if !entry.file_name().to_str().is_some_and(&ours) {
                let other = entry.file_name();
                return Err(format!(
                    "it holds {}, which is not Culvert's; give the daemon a folder of its own",
                    other.display()
                ));
            }
            if entry.file_type().map_err(text)?.is_file() {
                let file = open(&entry.path(), 0).map_err(text)?;
                let metadata = file.metadata().map_err(text)?;
                // One that is elsewhere as well may be anybody's: whoever has the folder can have linked it there.
                if metadata.uid() == 0 && metadata.nlink() == 1 {
                    self.give(&file).map_err(text)?;
                }
            }
        }
        if owner == 0 {
            // As long as it is ours: root without CAP_FOWNER changes nobody else's.
            opened.set_permissions(PermissionsExt::from_mode(0o700)).map_err(text)?;
            self.give(&opened).map_err(text)?;
        }
        Ok(())
    }

    fn give(&self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// Step 3. No other thread may run yet: capabilities are each thread's own.
    ///
    /// # Errors
    /// The system refuses; code 1.
    pub(in super::super) fn become_it(&self) -> Result<(), Failure> {
        self.change()
            .map_err(|error| Failure::failed(format!("run: --user {}: {error}", self.name.to_string_lossy())))
    }

    fn change(&self) -> io::Result<()> {
        set_keep_capabilities(true)?;
        initgroups(&self.name, self.gid)?;
        setresgid(self.gid, self.gid, self.gid)?;
        setresuid(self.uid, self.uid, self.uid)?;
        set_keep_capabilities(false)?;
        // SETPCAP: to take the others out of reach, which ends with taking itself away.
        let kept = capabilities(None)?.permitted & (KEPT | CapabilitySet::SETPCAP);
        set_capabilities(
            None,
            CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
        )?;
        // Another user: the kernel has reconsidered it.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(())
    }
}

/// The same path with something more at its end.
fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Never through a symbolic link.
fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags | libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Makes a folder, and those that it is in, for everybody to pass through.
fn make(folder: &Path) -> io::Result<()> {
    if folder.symlink_metadata().is_ok() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make(parent)?;
    }
    DirBuilder::new().mode(0o755).create(folder)?;
    fs::set_permissions(folder, PermissionsExt::from_mode(0o755))
}
