//! How far the sequence numbers of SAs from fixed keys may have been used, on the disk: written *ahead of use*, so that the next
//! process goes on beyond, however this one ends. Were it to begin with 1, the far end would take nothing until its packets are
//! beyond what it has seen.
//!
//! - An SA begins behind the mark that is recorded for it, and may send nothing at first.
//! - [`Record::keep_ahead`], called in good time, records a mark [`AHEAD`] numbers on, and only then lets the SA send up to it.
//! - At a good end, [`Record::settle`] records what was used, so that no number is left out. After another one, up to [`AHEAD`]
//!   numbers are nobody's.
//!
//! Where nothing can be recorded, an SA sends all the same: IVs do not depend on it, each process has its own (see [`super::ledger`]).
//!
//! The file names an SA by a digest of its key, and says nothing of the key itself.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::config::Digest;

use super::ledger::{Ledger, Marks};
use super::store::{self, Files};

/// Numbers that are recorded at once. Used up in [`EVERY`] by 67 million packets a second; without ESN, 256 of it are all that
/// an SA has.
pub const AHEAD: u64 = 1 << 24;
/// How often it is looked whether half of them are used.
const EVERY: Duration = Duration::from_millis(125);
/// Of more SAs than that, those that are not there are forgotten.
const MOST: usize = 1 << 17;
/// The file.
pub(super) const NUMBERS: &str = "numbers";
/// Its first words; another version is another format.
const MAGIC: &str = "culvert-numbers 1 ";

/// The record. See the module page.
pub struct Record<F: Files> {
    files: F,
    marks: Marks,
    looks: Option<Instant>,
}

impl<F: Files> Record<F> {
    /// What is recorded in these files, and why it cannot be used where that is so; it is overwritten then.
    pub fn open(files: F) -> (Record<F>, Option<String>) {
        let read = || {
            let Some(content) = files.read(NUMBERS).map_err(|error| error.to_string())? else {
                return Ok(Marks::new());
            };
            store::unseal(MAGIC, &content)?
                .lines()
                .map(line)
                .collect::<Option<Marks>>()
                .ok_or("a line is wrong".to_owned())
        };
        let (marks, trouble) = match read() {
            Ok(marks) => (marks, None),
            Err(why) => (Marks::new(), Some(why)),
        };
        (Record { files, marks, looks: None }, trouble)
    }

    /// For each SA the highest number that may have been used.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// When to call [`Record::keep_ahead`] next, at the latest; `None`: not before there is another SA.
    pub fn due(&self) -> Option<Instant> {
        self.looks
    }

    /// Lets the ledger's SAs send on, once it is recorded how far.
    ///
    /// # Errors
    /// It cannot be recorded, and why. They send on all the same.
    pub fn keep_ahead(&mut self, ledger: &Ledger, now: Instant) -> Result<(), String> {
        let mut low = Vec::new();
        self.looks = None;
        for (name, sa) in ledger.recorded() {
            self.looks = Some(now + EVERY);
            let used = sa.highest();
            if sa.last().saturating_sub(used) <= AHEAD / 2 && sa.last() < sa.end() {
                low.push((name, sa, used.saturating_add(AHEAD).min(sa.end())));
            }
        }
        let recorded = self.keep(ledger, low.iter().map(|(name, _, mark)| (*name, *mark)));
        low.iter().for_each(|(_, sa, mark)| sa.extend(*mark));
        recorded
    }

    /// Records what was used. Nobody sends any more.
    ///
    /// # Errors
    /// It cannot be recorded, and why.
    pub fn settle(&mut self, ledger: &Ledger) -> Result<(), String> {
        self.keep(ledger, ledger.recorded().map(|(name, sa)| (name, sa.highest())))
    }

    /// Brings these marks to the disk, in place of those that the SAs had.
    fn keep(&mut self, ledger: &Ledger, new: impl Iterator<Item = (Digest, u64)>) -> Result<(), String> {
        let mut new = new.peekable();
        if new.peek().is_none() {
            return Ok(());
        }
        let mut marks = self.marks.clone();
        if marks.len() > MOST {
            let known: HashSet<Digest> = ledger.recorded().map(|(name, _)| name).collect();
            marks.retain(|name, _| known.contains(name));
        }
        marks.extend(new);
        let mut lines: Vec<String> = marks.iter().map(|(name, mark)| format!("{name} {mark}\n")).collect();
        lines.sort_unstable();
        let text = store::seal(MAGIC, &lines.concat());
        store::replace(&mut self.files, NUMBERS, text.as_bytes())
            .and_then(|()| self.files.sync())
            .map_err(|error| error.to_string())?;
        self.marks = marks;
        Ok(())
    }
}

/// A digest and a number.
fn line(line: &str) -> Option<(Digest, u64)> {
    let (name, mark) = line.split_once(' ')?;
    Some((Digest::parse(name)?, mark.parse().ok()?))
}

#[cfg(test)]
mod tests;
