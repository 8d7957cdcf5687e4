//! Files: the text of a configuration file with its line index, the files behind `include`, and those that hold one
//! secret each. Whatever was read may contain keys, so every buffer is of its final size from the start (growing would
//! leave copies behind) and is wiped when dropped.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::model::Secret;
use super::report::{Fault, Position, Report};
use super::sources::{Files, Sources};
use super::values::quoted;

/// All files of a configuration together may have this many bytes: far beyond 100,000 tunnels, well below what hurts.
const TOTAL_LIMIT: u64 = 64 << 20;

/// A file that holds one key is no longer than a large RSA key is in PEM; longer means that the wrong file was named.
const SECRET_LIMIT: u64 = 16 << 10;

/// Mode bits that let anybody but the owner in.
const GROUP_AND_OTHERS: u32 = 0o077;

/// Mode bits that let everybody in.
const OTHERS: u32 = 0o007;

/// A configuration file that is being read.
pub(super) struct Document {
    files: Rc<Files>,
    path: Arc<Path>,
    order: u32,
    mode: u32,
    text: Zeroizing<Vec<u8>>,
    line_starts: Vec<usize>,
}

impl Document {
    fn new(files: &Rc<Files>, path: &Path, order: u32, mode: u32, text: Zeroizing<Vec<u8>>) -> Self {
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let line_starts = ends.map(|(offset, _)| offset.saturating_add(1)).collect();
        Self { files: Rc::clone(files), path: path.into(), order, mode, text, line_starts }
    }

    /// The line that holds the byte at `offset`.
    pub(super) fn position(&self, offset: usize) -> Position {
        let before = self.line_starts.partition_point(|start| *start <= offset);
        let line = u32::try_from(before.saturating_add(1)).unwrap_or(u32::MAX);
        Position::new(Arc::clone(&self.path), self.order, line)
    }

    /// A path that this file names, which is relative to the folder it is in.
    pub(super) fn resolve(&self, named: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(named)
    }

    /// The tables of the file; `None`, with the reason noted, if it is not TOML.
    pub(super) fn parse(&self, report: &mut Report) -> Option<DeTable<'_>> {
        let text = match std::str::from_utf8(&self.text) {
            Ok(text) => text,
            Err(error) => {
                let at = self.position(error.valid_up_to());
                report.error("syntax", &at, Fault::new("the text is not UTF-8", "save the file as UTF-8"));
                return None;
            }
        };
        match DeTable::parse(text) {
            Ok(table) => Some(table.into_inner()),
            Err(error) => {
                // The library's `Display` quotes the line, which may hold a key; its message alone does not.
                let at = self.position(error.span().map_or(0, |span| span.start));
                let remedy = "correct the TOML there; the rest of this file is checked once it can be read";
                report.error("syntax", &at, Fault::new(error.message(), remedy));
                None
            }
        }
    }

    /// Refuses a secret in a file that others than its owner may read or write.
    pub(super) fn may_hold_secrets(&self) -> Result<(), Fault> {
        if self.mode & GROUP_AND_OTHERS == 0 {
            return Ok(());
        }
        let why = format!(
            "a secret in a file that group or others have access to (mode {:04o})",
            self.mode & 0o7777
        );
        let file = self.path.display();
        Err(Fault::new(why, format!("run `chmod 600 {file}`, or move it to a file of its own and name that")))
    }
}

/// Opens configuration files, each once, and keeps count of their size.
pub(super) struct Loader {
    files: Rc<Files>,
    seen: HashSet<PathBuf>,
    count: u32,
    bytes: u64,
}

impl Loader {
    pub(super) fn new(files: Files) -> Loader {
        Loader { files: Rc::new(files), seen: HashSet::new(), count: 0, bytes: 0 }
    }

    /// All files that were read, those that hold one secret each as well.
    pub(super) fn sources(&self) -> Sources {
        self.files.sources()
    }

    /// Reads a file whole. `None` if it cannot be read, with the reason noted, or if it was read before. `named_at` is
    /// the line that includes it.
    pub(super) fn open(
        &mut self,
        path: &Path,
        named_at: Option<&Position>,
        report: &mut Report,
    ) -> Option<Document> {
        match self.read(path) {
            Ok(document) => document,
            Err(fault) => {
                report.file_error(path.to_owned(), named_at, fault);
                None
            }
        }
    }

    fn read(&mut self, path: &Path) -> Result<Option<Document>, Fault> {
        let (text, mode) = match self.files.noted(path) {
            Some(_) if self.files.is_again(path) || !self.seen.insert(path.to_owned()) => return Ok(None),
            Some(noted) => {
                let (text, mode) = noted?;
                self.count_bytes(text.len() as u64)?;
                (text, mode)
            }
            None => {
                let real = fs::canonicalize(path).map_err(|error| unreadable(&error))?;
                if !self.seen.insert(real) {
                    self.files.note_again(path);
                    return Ok(None);
                }
                let (file, len, mode) = open_regular(path)?;
                self.count_bytes(len)?;
                (read_exactly(file, len)?, mode)
            }
        };
        self.files.note(path, mode, &text);
        let order = self.count;
        self.count = self.count.saturating_add(1);
        Ok(Some(Document::new(&self.files, path, order, mode, text)))
    }

    fn count_bytes(&mut self, more: u64) -> Result<(), Fault> {
        self.bytes = self.bytes.saturating_add(more);
        if self.bytes > TOTAL_LIMIT {
            let why = format!("the configuration is longer than {} MiB in all", TOTAL_LIMIT >> 20);
            return Err(Fault::new(why, "name a configuration file, or take entries out"));
        }
        Ok(())
    }

    /// The files that an `include` entry stands for, sorted by name. A name without `*` and `?` stands for itself; a
    /// pattern may match nothing, and matches no name that starts with a dot.
    pub(super) fn expand(pattern: &str, document: &Document) -> Result<Vec<PathBuf>, Fault> {
        let full = document.resolve(pattern);
        let is_pattern = |part: &OsStr| part.as_bytes().iter().any(|byte| matches!(byte, b'*' | b'?'));
        let (Some(folder), Some(last)) = (full.parent(), full.file_name()) else {
            return Err(Fault::new(
                format!("{} names no file", quoted(pattern)),
                "write a file name or a pattern",
            ));
        };
        if Path::new(pattern).parent().is_some_and(|parent| is_pattern(parent.as_os_str())) {
            let why = format!("{} has a wildcard in a folder's name", quoted(pattern));
            return Err(Fault::new(why, "use `*` and `?` in the last part only, such as \"conf.d/*.toml\""));
        }
        if !is_pattern(last) {
            return Ok(vec![full]);
        }
        if let Some(found) = document.files.noted_list(&full) {
            return found;
        }
        let mut found = match list(folder, last.as_bytes()) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let why = format!("the folder {} cannot be read: {error}", folder.display());
                return Err(Fault::new(why, "check its name and permissions"));
            }
        };
        found.sort();
        document.files.note_list(&full, &found);
        Ok(found)
    }
}

fn list(folder: &Path, pattern: &[u8]) -> io::Result<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let bytes = name.as_bytes();
        if bytes.first() != Some(&b'.') && matches_pattern(pattern, bytes) {
            found.push(folder.join(&name));
        }
    }
    Ok(found)
}

/// Whether `name` fits `pattern`, where `*` stands for any bytes and `?` for one. Takes the shortest fit for every `*`
/// and goes back to the last one only, which is enough (a later `*` can always take over) and never exponential.
fn matches_pattern(pattern: &[u8], name: &[u8]) -> bool {
    let (mut rest_pattern, mut rest_name) = (pattern, name);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (rest_pattern.split_first(), rest_name.split_first()) {
            (None, None) => return true,
            (Some((b'*', pattern_after)), _) => {
                retry = Some((pattern_after, rest_name));
                rest_pattern = pattern_after;
            }
            (Some((want, pattern_after)), Some((have, name_after))) if *want == b'?' || want == have => {
                (rest_pattern, rest_name) = (pattern_after, name_after);
            }
            _ => {
                let Some((pattern_after, (_, longer))) =
                    retry.and_then(|(after, from)| Some((after, from.split_first()?)))
                else {
                    return false;
                };
                retry = Some((pattern_after, longer));
                (rest_pattern, rest_name) = (pattern_after, longer);
            }
        }
    }
}

impl Document {
    /// Reads a file that holds one secret in text, at a path that [`Document::resolve`] gave: everything in it but white space at
    /// the end. A name that cannot be opened is not repeated, as it may be the secret itself, put in the wrong place.
    pub(super) fn read_secret(&self, path: &Path) -> Result<Secret, Fault> {
        let mut bytes = self.read_private(path)?;
        while bytes.last().is_some_and(u8::is_ascii_whitespace) {
            bytes.pop();
        }
        if bytes.is_empty() {
            return Err(Fault::new(format!("{} is empty", path.display()), "write the key into it"));
        }
        Ok(Secret::new(bytes))
    }

    /// Reads a file that is its owner's alone, every byte of it: the last one of a key in DER may look like white space.
    pub(super) fn read_private(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let (bytes, mode) = match self.files.noted(path) {
            Some(noted) => noted?,
            None => {
                let (file, len, mode) = open_regular(path)?;
                may_hold_a_secret(path, mode, len)?;
                (read_exactly(file, len)?, mode)
            }
        };
        may_hold_a_secret(path, mode, bytes.len() as u64)?;
        self.files.note(path, mode, &bytes);
        Ok(bytes)
    }
}

/// A file of certificates or revocation lists has at most this many bytes: what VICI carries in a value (65,535 bytes), with what PEM adds.
const PUBLIC_LIMIT: u64 = 128 << 10;

impl Document {
    /// Reads a file without a secret in it, at a path that [`Document::resolve`] gave.
    pub(super) fn read_public(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let about = |fault: Fault| Fault::new(format!("{} {}", path.display(), fault.why), fault.remedy);
        let (bytes, mode) = match self.files.noted(path) {
            Some(noted) => noted?,
            None => {
                let (file, len, mode) = open_regular(path).map_err(about)?;
                if len > PUBLIC_LIMIT {
                    let why = format!("has {len} bytes, more than the {PUBLIC_LIMIT} that it may have");
                    return Err(about(Fault::new(
                        why,
                        "name another file; strongSwan fetches longer revocation lists by itself, from where certificates say",
                    )));
                }
                (read_exactly(file, len)?, mode)
            }
        };
        self.files.note(path, mode, &bytes);
        Ok(bytes)
    }
}

fn may_hold_a_secret(path: &Path, mode: u32, len: u64) -> Result<(), Fault> {
    if mode & OTHERS != 0 {
        let why = format!("{} is open to everybody (mode {:04o})", path.display(), mode & 0o7777);
        return Err(Fault::new(why, format!("run `chmod 600 {}`", path.display())));
    }
    if len > SECRET_LIMIT {
        let why = format!(
            "{} has {len} bytes, more than the {SECRET_LIMIT} that a secret may have",
            path.display()
        );
        return Err(Fault::new(why, "name the file that holds the key alone"));
    }
    Ok(())
}

/// Opens a regular file with its length and mode, both taken from the open file, so that nobody can exchange it in
/// between. Never waits: `O_NONBLOCK` keeps a FIFO from holding us up before it is refused.
fn open_regular(path: &Path) -> Result<(File, u64, u32), Fault> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| unreadable(&error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(Fault::new("it is not a regular file", "name a regular file"));
    }
    Ok((file, metadata.len(), metadata.mode()))
}

fn unreadable(error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "create it or correct the name",
        io::ErrorKind::PermissionDenied => "run as a user who may read it, or change its permissions",
        _ => "check the file",
    };
    Fault::new(format!("cannot be read: {error}"), remedy)
}

fn read_exactly(file: File, len: u64) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let room = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::new());
    bytes
        .try_reserve_exact(room)
        .map_err(|_| Fault::new("it does not fit into memory", "take entries out"))?;
    file.take(len).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml.bak", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*ab", "aab", true),
            ("a*", "a", true),
            ("a", "ab", false),
            ("", "", true),
            ("**", "", true),
        ] {
            assert_eq!(matches_pattern(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_stars_takes_no_exponential_time() {
        assert!(!matches_pattern("*a".repeat(60).as_bytes(), "a".repeat(59).as_bytes()));
    }
}
