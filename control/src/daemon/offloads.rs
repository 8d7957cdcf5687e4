//! The offloads of the ports' interfaces across a daemon that is killed: what is on is written down before the ports are
//! opened, and put back by the next start. A daemon that ends in order has given them back itself.
//!
//! 1. [`OffloadFile::restore`] puts back what an earlier daemon has left, and forgets it.
//! 2. [`OffloadFile::note`] writes down what is on now, whole or not at all.
//! 3. [`OffloadFile::remove`] forgets it, when the interfaces have theirs again.
//!
//! The file is text: a line `INTERFACE=NAME,..` for each interface, with the names that the system's own tools have.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use culvert_engine::ring::offload::{self, Offloads};

use super::devices;
use super::log;
use crate::config::Config;

/// What its name ends in, behind the socket's.
pub(super) const SUFFIX: &str = ".offloads";

/// The file beside the daemon's socket.
pub(super) struct OffloadFile {
    path: PathBuf,
}

impl OffloadFile {
    pub(super) fn beside(socket: &Path) -> OffloadFile {
        let mut path = socket.as_os_str().to_owned();
        path.push(SUFFIX);
        OffloadFile { path: path.into() }
    }

    /// Step 1. An interface that is gone is told of, and the others go on.
    pub(super) fn restore(&self) {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return log::error(self.about(&error)),
        };
        for line in text.lines() {
            let restored = match parse(line) {
                Ok((interface, offloads)) => offload::restore(interface, offloads)
                    .map(|()| log::info(format_args!("{interface}: has its offloads again: {offloads}")))
                    .map_err(|error| error.to_string()),
                Err(why) => Err(why),
            };
            if let Err(why) = restored {
                log::warn(self.about(&why));
            }
        }
        self.remove();
    }

    /// Step 2.
    ///
    /// # Errors
    /// The file cannot be written; in words.
    pub(super) fn note(&self, config: &Config) -> Result<(), String> {
        let mut text = String::new();
        for (interface, cleared) in config.ports.iter().filter_map(devices::cleared_offloads) {
            // Opening the port says what is wrong with it.
            let Ok(active) = offload::active(interface) else { continue };
            let active = active.and(cleared.unwrap_or(active));
            if !active.is_empty() {
                text += &format!("{interface}={active}\n");
            }
        }
        if text.is_empty() { Ok(()) } else { self.write(&text).map_err(|error| self.about(&error)) }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut partial = self.path.as_os_str().to_owned();
        partial.push(".new");
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &self.path)?;
        // The name is on the disk only when its folder is.
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// Step 3.
    pub(super) fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => log::error(self.about(&error)),
            _ => {}
        }
    }

    fn about(&self, why: &dyn std::fmt::Display) -> String {
        format!("offloads, {}: {why}", self.path.display())
    }
}

fn parse(line: &str) -> Result<(&str, Offloads), String> {
    let (interface, offloads) = line.split_once('=').ok_or_else(|| format!("no line of ours: {line:?}"))?;
    Ok((interface, offloads.parse().map_err(|error| format!("{interface}: {error}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes with the value.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("removed");
        }
    }

    fn file(name: &str) -> (Folder, OffloadFile) {
        let folder = std::env::temp_dir().join(format!("culvert-offloads-{}-{name}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let file = OffloadFile::beside(&folder.join("socket"));
        (Folder(folder), file)
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(&folder.0).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn it_is_written_whole_for_its_owner_alone() {
        let (folder, file) = file("written");
        file.write("eth0=lro\n").expect("written");
        file.write("eth1=lro\n").expect("written again");
        assert_eq!(names(&folder), ["socket.offloads"]);
        let mode = fs::metadata(&file.path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&file.path).expect("text"), "eth1=lro\n");
        file.remove();
        file.remove();
        assert_eq!(names(&folder), [""; 0]);
    }

    /// What cannot be put back any more is told once, and does not stand in the way for ever.
    #[test]
    fn a_restored_file_is_gone_whatever_was_in_it() {
        let (folder, file) = file("restored");
        file.write("nothere0=lro\n=lro\nlo\nlo=tso9\n").expect("written");
        file.restore();
        assert_eq!(names(&folder), [""; 0]);
        file.restore();
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let lro: Offloads = "lro".parse().expect("known everywhere");
        assert_eq!(parse("eth0=lro"), Ok(("eth0", lro)));
        assert_eq!(parse("eth0="), Ok(("eth0", Offloads::default())));
        assert!(parse("eth0").is_err());
        assert!(parse("eth0=tso9").is_err());
    }
}
