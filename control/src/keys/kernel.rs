//! What is known of the SAs in a kernel, whatever it tells of them by: [`super::xfrm`] and [`super::pfkey`] hear of SAs, and this
//! makes changes of that.
//!
//! - What the kernel had when it was first asked for all, a former run of ours may have sent with: it is *found*. What comes
//!   later is *added*. Where the kernel's lists are sure to be whole, so is what is seen in a later list, when the news of it was lost.
//! - Where no list was whole, an SA that was there first may be unknown. One that goes without having been known may be such, and
//!   if it comes back (moved by taking it away and adding it again), it is found.
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
    /// The keys that were there first, or may have been. `None`: there was no list yet.
    first: Option<HashSet<Fingerprint>>,
    begun: bool,
    /// Was the last list whole? `None`: that is not known yet.
    whole: Option<bool>,
    /// The numbers of SAs that went without having been known.
    strangers: HashSet<u32>,
}

impl Ledger {
    pub(super) fn new(origin: Origin) -> Ledger {
        Ledger {
            origin,
            known: HashMap::new(),
            first: None,
            begun: false,
            whole: None,
            strangers: HashSet::new(),
        }
    }

    /// From now on it is told what there is. Says so once.
    pub(super) fn begin(&mut self) -> Option<Change> {
        let begun = std::mem::replace(&mut self.begun, true);
        (!begun).then_some(Change::Begins(self.origin))
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
        let stranger = self.strangers.remove(&sa.id.spi);
        // Before the first list it cannot be told from what was there.
        let Some(first) = &mut self.first else { return Some(Change::Found(sa)) };
        if !late {
            first.insert(fingerprint);
        }
        let new = !stranger && !first.contains(&fingerprint);
        Some(if new { Change::Added(sa) } else { Change::Found(sa) })
    }

    /// There is no such SA any more. One that nobody has told of makes no difference: charon reserves a number by an SA without
    /// keys, and may take that away before the SA comes.
    pub(super) fn gone(&mut self, id: Id) -> Option<Change> {
        let known = self.known.remove(&id);
        if known.is_none() && self.whole != Some(true) {
            self.strangers.insert(id.spi);
        }
        known.map(|_| Change::Removed(id))
    }

    /// Is it there, as far as has been told?
    pub(super) fn knows(&self, id: Id) -> bool {
        self.known.contains_key(&id)
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

    /// These are all that there are, as far as the list was whole; `late` says of each what [`Ledger::came`] has to know. What is
    /// known and not among them is left to [`Ledger::missing`].
    pub(super) fn list(&mut self, all: Vec<Sa>, mut late: impl FnMut(Id) -> bool) -> Vec<Change> {
        let came = |sa: Sa| {
            let late = late(sa.id);
            self.came(sa, late)
        };
        let changes = all.into_iter().filter_map(came).collect();
        self.first.get_or_insert_with(|| self.known.values().map(|(key, _)| *key).collect());
        changes
    }

    /// The list was whole, or whole lists are not to be had. Says so where that is news.
    pub(super) fn settle(&mut self, whole: bool) -> Option<Change> {
        if self.whole.replace(whole) == Some(whole) {
            return None;
        }
        if whole {
            self.strangers.clear();
        }
        Some(if whole { Change::Synchronised(self.origin) } else { Change::Cut(self.origin) })
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
            Change::Cut(_) => "cut".to_owned(),
        };
        changes.iter().map(word).collect()
    }
}
