//! The state that a source has put together so far, and what of it has not been told yet. However often a thing changes
//! between two reports, the report has it once; a thing that is again as it was reported before is not in it.

use std::collections::BTreeMap;

use super::state::{Address, Change, HostState, Link, LinkIndex, Neighbour, NeighbourKey, Route, RouteKey};

/// A table, and what stood in the places that have been written to since the last report.
#[derive(Debug, Clone)]
pub(crate) struct Table<K, V> {
    now: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { now: BTreeMap::new(), before: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Table<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.now.get(key)
    }

    pub(crate) fn set(&mut self, key: K, value: Option<V>) {
        let old = match value {
            Some(value) => self.now.insert(key.clone(), value),
            None => self.now.remove(&key),
        };
        self.before.entry(key).or_insert(old);
    }

    /// Makes the table what `new` is.
    pub(crate) fn replace(&mut self, new: BTreeMap<K, V>) {
        let old = std::mem::replace(&mut self.now, new);
        let changed = |key: &&K| old.get(key) != self.now.get(key);
        for key in old.keys().chain(self.now.keys()).filter(changed) {
            self.before.entry(key.clone()).or_insert_with(|| old.get(key).cloned());
        }
    }

    #[cfg(target_os = "linux")]
    fn remove_where(&mut self, condition: impl Fn(&K) -> bool) {
        let gone: Vec<K> = self.now.keys().filter(|key| condition(key)).cloned().collect();
        gone.into_iter().for_each(|key| self.set(key, None));
    }

    fn report(&mut self, mut tell: impl FnMut(K, Option<V>)) {
        for (key, before) in std::mem::take(&mut self.before) {
            let now = self.now.get(&key);
            if now != before.as_ref() {
                let now = now.cloned();
                tell(key, now);
            }
        }
    }

    fn forget(&mut self) -> BTreeMap<K, V> {
        self.before.clear();
        self.now.clone()
    }
}

/// The four tables of a host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) links: Table<LinkIndex, Link>,
    pub(crate) addresses: Table<Address, ()>,
    pub(crate) routes: Table<RouteKey, Vec<Route>>,
    pub(crate) neighbours: Table<NeighbourKey, Neighbour>,
}

impl Ledger {
    /// The whole state; what has changed up to here counts as told.
    pub(crate) fn snapshot(&mut self) -> HostState {
        HostState {
            links: self.links.forget(),
            addresses: self.addresses.forget().into_keys().collect(),
            routes: self.routes.forget(),
            neighbours: self.neighbours.forget(),
        }
    }

    /// What is otherwise than in the last report. Links come first, since the others name them.
    pub(crate) fn report(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.links.report(|index, link| changes.push(Change::Link(index, link)));
        self.addresses.report(|address, there| changes.push(Change::Address(address, there.is_some())));
        self.routes.report(|key, routes| changes.push(Change::Routes(key, routes.unwrap_or_default())));
        self.neighbours.report(|key, neighbour| changes.push(Change::Neighbour(key, neighbour)));
        changes
    }

    /// The link has gone, and with it what cannot be without it. Routes are the host's to withdraw.
    #[cfg(target_os = "linux")]
    pub(crate) fn remove_link(&mut self, index: LinkIndex) {
        self.links.set(index, None);
        self.addresses.remove_where(|address| address.link == index);
        self.neighbours.remove_where(|(link, _)| *link == index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<u8, char> {
        let mut table = Table::default();
        table.set(1, Some('a'));
        table.set(2, Some('b'));
        table.forget();
        table
    }

    fn report(table: &mut Table<u8, char>) -> Vec<(u8, Option<char>)> {
        let mut told = Vec::new();
        table.report(|key, value| told.push((key, value)));
        told
    }

    #[test]
    fn a_change_is_told_once() {
        let mut table = table();
        table.set(1, Some('x'));
        table.set(1, Some('y'));
        table.set(2, None);
        table.set(3, Some('c'));
        assert_eq!(report(&mut table), [(1, Some('y')), (2, None), (3, Some('c'))]);
        assert_eq!(report(&mut table), []);
    }

    #[test]
    fn what_came_back_is_not_told() {
        let mut table = table();
        table.set(1, None);
        table.set(1, Some('a'));
        table.set(3, Some('c'));
        table.set(3, None);
        assert_eq!(report(&mut table), []);
    }

    #[test]
    fn a_new_table_is_told_by_its_differences() {
        let mut table = table();
        table.set(2, None);
        table.replace(BTreeMap::from([(2, 'b'), (3, 'c')]));
        assert_eq!(report(&mut table), [(1, None), (3, Some('c'))]);
    }
}
