//! The files of a configuration as they were read: what a configuration is sent to the daemon in, and kept in, so that it can
//! be loaded again although the files have changed meanwhile. They hold whatever secrets the files hold: never shown, wiped
//! when dropped, and written only where nobody else may read.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::report::Fault;

/// A configuration's files. Serialized: `top`, the file that was named; `files`, each with `path`, `mode` and its `text` (or
/// `hex`, where it is not UTF-8); `lists`, what stood behind each pattern of `include`; `again`, names of files that are there
/// under another name already.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    top: PathBuf,
    files: BTreeMap<PathBuf, Source>,
    lists: BTreeMap<PathBuf, Vec<PathBuf>>,
    again: BTreeSet<PathBuf>,
}

/// A file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// Its permissions when it was read.
    mode: u32,
    #[serde(with = "content")]
    content: Zeroizing<Vec<u8>>,
}

/// What tells the contents of two configurations apart.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        Digest::finish(context)
    }

    /// What 64 hexadecimal digits say.
    #[must_use]
    pub fn parse(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        if pairs.len() != bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Digest(bytes))
    }

    fn finish(context: Context) -> Digest {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Digest(bytes)
    }
}

/// As 64 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Sources {
    pub(super) fn new(top: &Path) -> Sources {
        Sources { top: top.to_owned(), ..Sources::default() }
    }

    /// The file that was named, the others being those that it names.
    #[must_use]
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// All files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// The digest of what the files say, whatever they are called.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        for source in self.files.values() {
            context.update(&source.content.len().to_be_bytes());
            context.update(&source.content);
        }
        Digest::finish(context)
    }

    /// As bytes, to be kept or sent.
    ///
    /// # Errors
    /// A file's name is not UTF-8; in words.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        // Of its final size from the start: growing would leave copies behind.
        let length: usize = self.files.values().map(|source| 2 * source.content.len() + 4096).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        serde_json::to_writer(&mut *bytes, self).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// What [`Sources::to_bytes`] gave.
    ///
    /// # Errors
    /// It is something else; in words, without any of it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Sources, String> {
        serde_json::from_slice(bytes).map_err(|error| {
            format!("not the files of a configuration (line {}, column {})", error.line(), error.column())
        })
    }
}

/// Nothing of what is in the files.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sources({}, {} files)", self.top.display(), self.files.len())
    }
}

/// A noted file's content and mode.
type Noted = (Zeroizing<Vec<u8>>, u32);

/// Where files come from while a configuration is loaded.
pub(super) enum Files {
    /// From the system; what is read is noted.
    System(RefCell<Sources>),
    /// From what was noted once.
    Noted(Sources),
}

impl Files {
    /// Notes a file that was read.
    pub(super) fn note(&self, path: &Path, mode: u32, content: &Zeroizing<Vec<u8>>) {
        if let Files::System(sources) = self {
            let source = Source { mode, content: content.clone() };
            sources.borrow_mut().files.insert(path.to_owned(), source);
        }
    }

    /// Notes a name of a file that was read under another one.
    pub(super) fn note_again(&self, path: &Path) {
        if let Files::System(sources) = self {
            sources.borrow_mut().again.insert(path.to_owned());
        }
    }

    /// Notes what a pattern stands for.
    pub(super) fn note_list(&self, pattern: &Path, found: &[PathBuf]) {
        if let Files::System(sources) = self {
            sources.borrow_mut().lists.insert(pattern.to_owned(), found.to_vec());
        }
    }

    /// A noted file with its mode; `None` where files come from the system.
    pub(super) fn noted(&self, path: &Path) -> Option<Result<Noted, Fault>> {
        let Files::Noted(sources) = self else { return None };
        let source = sources.files.get(path);
        Some(source.map(|source| (source.content.clone(), source.mode)).ok_or_else(missing))
    }

    /// Is it the name of a file that was read under another one?
    pub(super) fn is_again(&self, path: &Path) -> bool {
        matches!(self, Files::Noted(sources) if sources.again.contains(path))
    }

    /// What a pattern stood for; `None` where files come from the system.
    pub(super) fn noted_list(&self, pattern: &Path) -> Option<Result<Vec<PathBuf>, Fault>> {
        let Files::Noted(sources) = self else { return None };
        Some(sources.lists.get(pattern).cloned().ok_or_else(missing))
    }

    /// All that was read.
    pub(super) fn sources(&self) -> Sources {
        match self {
            Files::System(sources) => sources.borrow().clone(),
            Files::Noted(sources) => sources.clone(),
        }
    }
}

fn missing() -> Fault {
    Fault::new("is not among the files that came with the configuration", "apply it again from its file")
}

/// A file's content as text where it is some, else in hexadecimal digits.
mod content {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Content {
        Text(Zeroizing<String>),
        Hex(Zeroizing<String>),
    }

    #[derive(Serialize)]
    #[serde(rename_all = "lowercase")]
    enum Borrowed<'c> {
        Text(&'c str),
        Hex(&'c str),
    }

    pub(super) fn serialize<S: Serializer>(content: &Zeroizing<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(content) {
            Ok(text) => Borrowed::Text(text).serialize(to),
            Err(_) => {
                let mut digits = Zeroizing::new(String::with_capacity(2 * content.len()));
                for byte in content.iter() {
                    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
                    digits.extend([digit(byte >> 4), digit(byte & 15)]);
                }
                Borrowed::Hex(&digits).serialize(to)
            }
        }
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        match Content::deserialize(from)? {
            Content::Text(mut text) => Ok(Zeroizing::new(std::mem::take(&mut *text).into_bytes())),
            Content::Hex(digits) => {
                let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
                let mut digits = digits.chars().map(|digit| digit.to_digit(16));
                while let Some(high) = digits.next() {
                    match (high, digits.next().flatten()) {
                        (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
                        _ => return Err(D::Error::custom("hexadecimal digits are wanted")),
                    }
                }
                Ok(bytes)
            }
        }
    }
}
