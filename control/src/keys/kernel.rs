//! What is known of the SAs in a kernel, whatever it tells of them by: [`super::xfrm`] and [`super::pfkey`] hear of SAs, and this
//! makes changes of that.
//!
//! - What the kernel had when it was first asked for all, a former run of ours may have sent with: it is *found*. What comes
//!   later is *added*. Where the kernel's lists are sure to be whole, so is what is seen in a later list, when the news of it was lost.
//! - What is told again changes nothing.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ring::digest::{SHA256, digest};

use super::sa::{Change, Ends, Id, Origin, Sa};

/// What tells one key from another, without being one.
type Fingerprint = [u8; 32];

/// See the module page.
#[derive(Debug)]
pub(super) struct Ledger {
    origin: Origin,
    known: HashMap<Id, (Fingerprint, Ends)>,
    /// The keys that were there first. `None`: all was never listed yet.
    first: Option<HashSet<Fingerprint>>,
}

impl Ledger {
    pub(super) fn new(origin: Origin) -> Ledger {
        Ledger { origin, known: HashMap::new(), first: None }
    }

    /// There is this SA, and `late` is whether it can only have come after the first list, if it was not in that.
    pub(super) fn came(&mut self, sa: Sa, late: bool) -> Option<Change> {
        let fingerprint = fingerprint(&sa);
        match self.known.insert(sa.id, (fingerprint, sa.ends)) {
            Some((before, ends)) if before == fingerprint => {
                return (ends != sa.ends).then_some(Change::Moved(sa.id, sa.ends));
            }
            _ => {}
        }
        // Before the first list it cannot be told from what was there.
        let new = late && self.first.as_ref().is_some_and(|first| !first.contains(&fingerprint));
        Some(if new { Change::Added(sa) } else { Change::Found(sa) })
    }

    /// There is no such SA any more. One that nobody has told of makes no difference: charon reserves a number by an SA without
    /// keys, and may take that away before the SA comes.
    pub(super) fn gone(&mut self, id: Id) -> Option<Change> {
        self.known.remove(&id).map(|_| Change::Removed(id))
    }

    /// It is the same SA, at other addresses, which it is known by from now on.
    pub(super) fn moved(&mut self, id: Id, ends: Ends) -> Option<Change> {
        let (fingerprint, before) = self.known.remove(&id)?;
        self.known.insert(Id { at: ends.destination, ..id }, (fingerprint, ends));
        (before != ends).then_some(Change::Moved(id, ends))
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// There is none any more.
    pub(super) fn flushed(&mut self) -> Change {
        self.known.clear();
        Change::Flushed(self.origin)
    }

    /// These are all that there are, as far as the list was whole; `late` as in [`Ledger::came`]. What is known and not among
    /// them is left to [`Ledger::missing`].
    pub(super) fn list(&mut self, all: Vec<Sa>, late: bool) -> Vec<Change> {
        if self.first.is_some() {
            return all.into_iter().filter_map(|sa| self.came(sa, late)).collect();
        }
        let first = all.iter().map(fingerprint).collect();
        let mut changes = vec![Change::Begins(self.origin)];
        changes.extend(all.into_iter().filter_map(|sa| self.came(sa, late)));
        changes.push(Change::Synchronised(self.origin));
        self.first = Some(first);
        changes
    }

    /// What is known and is not among these, with where its packets come from.
    pub(super) fn missing(&self, all: &[Sa]) -> Vec<(Id, IpAddr)> {
        let there: HashSet<Id> = all.iter().map(|sa| sa.id).collect();
        let known = self.known.iter().filter(|(id, _)| !there.contains(id));
        known.map(|(id, (_, ends))| (*id, ends.source)).collect()
    }
}

fn fingerprint(sa: &Sa) -> Fingerprint {
    digest(&SHA256, sa.key.expose()).as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What changes say, for comparison: a word and an SPI.
    pub(in crate::keys) fn words(changes: &[Change]) -> Vec<String> {
        let word = |change: &Change| match change {
            Change::Added(sa) => format!("added {:x}", sa.id.spi),
            Change::Found(sa) => format!("found {:x}", sa.id.spi),
            Change::Moved(id, ends) => format!("moved {:x} {} {}", id.spi, ends.source, ends.destination),
            Change::Removed(id) => format!("removed {:x}", id.spi),
            Change::Unusable { reqid, .. } => format!("unusable {reqid}"),
            Change::Flushed(_) => "flushed".to_owned(),
            Change::Begins(_) => "begins".to_owned(),
            Change::Synchronised(_) => "synchronised".to_owned(),
        };
        changes.iter().map(word).collect()
    }
}
