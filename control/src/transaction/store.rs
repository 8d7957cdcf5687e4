//! What outlives the daemon: the configuration that runs, the one before it, and whether the running one waits to be
//! confirmed. A folder with one small file, `state`, that names configurations in files of their own by the digest of their
//! contents. Nobody but its owner may read any of them: configurations hold keys.
//!
//! [`Store::commit`]:
//! 1. configurations that are not there yet are written under another name, brought to the disk, and renamed;
//! 2. so is `state`, with a check sum in front: its renaming is the one moment at which the old state becomes the new one;
//! 3. files that the new state does not name are removed.
//!
//! Whenever the power goes, the old state or the new one is found whole. What is found otherwise ([`Store::load`]) is damaged:
//! it is told, renamed to `state.damaged`, and not used in any part.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{Digest, Sources};

const STATE: &str = "state";
const DAMAGED: &str = "state.damaged";
const NEW: &str = ".new";
const CONFIGURATION: &str = "config-";
/// The first words of `state`; another version is another format.
const MAGIC: &str = "culvert-state 1 ";

/// Whether a file of that name, in the folder of a store, is the store's.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    [STATE, CONFIGURATION, super::record::NUMBERS].iter().any(|ours| name.starts_with(ours))
}

/// The files of a folder, as far as the store needs them: the system's, or those of a test that loses power.
pub trait Files {
    /// Reads a file; `None`: there is none.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>>;
    /// Makes a file for its owner alone, in place of any of that name, and brings its contents to the disk.
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, name: &str, content: &[u8]) -> io::Result<()>;
    /// Gives a file another name, in place of any of that name.
    ///
    /// # Errors
    /// The system's.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Brings names to the disk.
    ///
    /// # Errors
    /// The system's.
    fn sync(&mut self) -> io::Result<()>;
    /// All names.
    ///
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;
}

/// A folder of the system's, made when something is written to it.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Folder {
        Folder(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn absent<T: Default>(error: io::Error) -> io::Result<T> {
    if error.kind() == io::ErrorKind::NotFound { Ok(T::default()) } else { Err(error) }
}

impl Files for Folder {
    fn read(&self, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        fs::read(self.0.join(name)).map(|content| Some(Zeroizing::new(content))).or_else(absent)
    }

    fn write(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let path = self.0.join(name);
        fs::remove_file(&path).or_else(absent)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name)).or_else(absent)
    }

    fn sync(&mut self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => return absent(error),
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// What is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The file that `culvert run` was given, and the digest of its contents when this was written: whoever has changed it
    /// since wants it to be used.
    pub file: PathBuf,
    /// See `file`.
    pub file_digest: String,
    /// What runs.
    pub running: Sources,
    /// What ran before it.
    pub previous: Option<Sources>,
    /// What runs has to be confirmed: otherwise what ran before it is to run.
    pub pending: bool,
}

/// `state`, behind its check sum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    file: PathBuf,
    file_digest: String,
    running: String,
    previous: Option<String>,
    pending: bool,
}

/// The store. See the module page.
#[derive(Debug)]
pub struct Store<F: Files> {
    files: F,
}

impl<F: Files> Store<F> {
    /// A store in these files.
    pub fn new(files: F) -> Store<F> {
        Store { files }
    }

    /// The files.
    pub fn files(&self) -> &F {
        &self.files
    }

    /// What is kept; `None`: nothing is.
    ///
    /// # Errors
    /// What is there is damaged, or cannot be read, and why. It has been set aside, where that can be done.
    pub fn load(&mut self) -> Result<Option<State>, String> {
        let found = self.read();
        if found.is_err() {
            // Where it cannot be renamed, it is told again next time.
            let _ = self.files.rename(STATE, DAMAGED).and_then(|()| self.files.sync());
        }
        found
    }

    fn read(&self) -> Result<Option<State>, String> {
        let Some(content) = self.files.read(STATE).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let body = unseal(MAGIC, &content)?;
        let record: Record = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let Record { file, file_digest, running, previous, pending } = record;
        Ok(Some(State {
            file,
            file_digest,
            running: self.configuration(&running)?,
            previous: previous.map(|name| self.configuration(&name)).transpose()?,
            pending,
        }))
    }

    fn configuration(&self, digest: &str) -> Result<Sources, String> {
        let name = format!("{CONFIGURATION}{digest}");
        let content = self.files.read(&name).map_err(|error| format!("{name}: {error}"))?;
        let content = content.ok_or_else(|| format!("{name} is missing"))?;
        if Digest::of(&content).to_string() != digest {
            return Err(format!("{name} is damaged"));
        }
        Sources::from_bytes(&content)
    }

    /// Keeps this from now on.
    ///
    /// # Errors
    /// It cannot be kept, and why. What is kept then is what was kept before.
    pub fn commit(&mut self, state: &State) -> Result<(), String> {
        let running = state.running.to_bytes()?;
        let previous = state.previous.as_ref().map(Sources::to_bytes).transpose()?;
        let name = |content: &Zeroizing<Vec<u8>>| Digest::of(content).to_string();
        let record = Record {
            file: state.file.clone(),
            file_digest: state.file_digest.clone(),
            running: name(&running),
            previous: previous.as_ref().map(name),
            pending: state.pending,
        };
        let body = serde_json::to_string(&record).map_err(|error| error.to_string())?;
        let text = seal(MAGIC, &body);
        let contents = [Some((&record.running, &running)), record.previous.as_ref().zip(previous.as_ref())];
        let contents = contents.into_iter().flatten();
        let named = contents.map(|(digest, content)| (format!("{CONFIGURATION}{digest}"), content));
        self.write(&named.collect::<Vec<_>>(), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn write(&mut self, configurations: &[(String, &Zeroizing<Vec<u8>>)], state: &[u8]) -> io::Result<()> {
        let there = self.files.list()?;
        for (name, content) in configurations {
            // One that was damaged meanwhile is written again.
            let whole = there.contains(name) && self.files.read(name)?.as_ref() == Some(*content);
            if !whole {
                replace(&mut self.files, name, content)?;
            }
        }
        self.files.sync().or_else(absent)?;
        replace(&mut self.files, STATE, state)?;
        self.files.sync()?;
        let ours = |name: &&String| name.starts_with(CONFIGURATION) || name.ends_with(NEW);
        for name in there.iter().filter(ours) {
            if configurations.iter().all(|(kept, _)| kept != name) {
                // It is only in the way; the next time it goes.
                let _ = self.files.remove(name);
            }
        }
        Ok(())
    }
}

/// The text of a file: what it is, and a check sum, stand in its first line.
pub(super) fn seal(magic: &str, body: &str) -> String {
    format!("{magic}{}\n{body}", Digest::of(body.as_bytes()))
}

/// What [`seal`] was given.
///
/// # Errors
/// It is not whole, or something else.
pub(super) fn unseal<'a>(magic: &str, content: &'a [u8]) -> Result<&'a str, String> {
    let content = std::str::from_utf8(content).map_err(|_| "it is no text".to_owned())?;
    let (head, body) = content.split_once('\n').ok_or("it ends too early")?;
    let sum = head.strip_prefix(magic).ok_or("it is of another version")?;
    if sum != Digest::of(body.as_bytes()).to_string() {
        return Err("its check sum is wrong".to_owned());
    }
    Ok(body)
}

/// Puts a file in the place of another, at one moment.
pub(super) fn replace(files: &mut impl Files, name: &str, content: &[u8]) -> io::Result<()> {
    let new = format!("{name}{NEW}");
    files.write(&new, content)?;
    files.rename(&new, name)
}

#[cfg(test)]
pub(super) mod tests;
