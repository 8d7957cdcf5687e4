//! The tunnels' host interfaces: one for each tunnel that carries IP packets, named after it, with the tunnel's MTU and inner
//! addresses, and the routes that the configuration leads into it, so that the host's own packets take the tunnel too.
//!
//! Making an interface takes a kernel that has thousands of them milliseconds. So they are made and deleted piece by piece
//! ([`TunnelInterfaces::go_on`]), and between the pieces the control thread does what else there is to do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use culvert_engine::fib::Prefix;
use culvert_engine::ring::TunSet;

use super::assemble::{has_interface, host_routes};
use super::log;
use crate::config::{Config, Tunnel};
use crate::interface::{HostInterfaces, Inner};

/// How long a piece takes.
const PIECE: Duration = Duration::from_millis(100);
/// Interfaces that are deleted at once.
const TOGETHER: usize = 32;

/// The interfaces, and what they were given.
pub(super) struct TunnelInterfaces {
    set: TunSet,
    host: HostInterfaces,
    /// By tunnel.
    given: Vec<Option<u32>>,
    /// What went wrong the last time, so that it is told once.
    troubles: Vec<Option<String>>,
    /// Numbers and names of those that have to go.
    going: Vec<(u32, String)>,
    /// The tunnel whose interface is looked at next; `None`: all have been.
    next: Option<usize>,
}

impl TunnelInterfaces {
    /// None yet.
    ///
    /// # Errors
    /// The system lets nobody configure interfaces.
    pub(super) fn new(set: TunSet, config: &Config) -> Result<TunnelInterfaces, String> {
        let host = HostInterfaces::open().map_err(|error| format!("tunnels' interfaces: {error}"))?;
        let count = config.tunnels.len();
        Ok(TunnelInterfaces {
            set,
            host,
            given: vec![None; count],
            troubles: vec![None; count],
            going: Vec::new(),
            next: None,
        })
    }

    /// Makes each tunnel's interface what it should be, where that has changed, or begins to: `mtus` are the tunnels' MTUs in
    /// bytes. What cannot be done is told, and tried again with the next call.
    pub(super) fn apply(&mut self, config: &Config, mtus: &[usize]) {
        self.next = Some(0);
        self.go_on(config, mtus);
    }

    /// Is there something left to do?
    pub(super) fn are_behind(&self) -> bool {
        self.next.is_some()
    }

    /// A piece of what is left: first those that have to go, as others may take their names; then those that are made.
    pub(super) fn go_on(&mut self, config: &Config, mtus: &[usize]) {
        let end = Instant::now() + PIECE;
        while !self.going.is_empty() {
            self.delete_some();
            if Instant::now() >= end {
                return;
            }
        }
        let first = self.next.take().unwrap_or_default();
        for (number, (tunnel, mtu)) in config.tunnels.iter().zip(mtus).enumerate().skip(first) {
            let mtu = u32::try_from(*mtu).unwrap_or(u32::MAX);
            if !has_interface(config, number) || self.given.get(number) == Some(&Some(mtu)) {
                continue;
            }
            let trouble = self.make(config, number, tunnel, mtu).err();
            if let Some(given) = self.given.get_mut(number) {
                *given = trouble.is_none().then_some(mtu);
            }
            if let Some(last) = self.troubles.get_mut(number)
                && *last != trouble
            {
                trouble.iter().for_each(|trouble| log::tunnel(&tunnel.name).error(trouble));
                *last = trouble;
            }
            if Instant::now() >= end {
                self.next = Some(number + 1);
                return;
            }
        }
    }

    /// Numbers that a configuration gives to tunnels are free of interfaces that have to go: what the host sends into one would
    /// be taken for the new tunnel's.
    pub(super) fn free(&mut self, config: &Config) {
        let taken =
            |number: u32| config.tunnels.get(number as usize).is_some_and(|tunnel| !tunnel.is_vacant());
        let (now, later) =
            std::mem::take(&mut self.going).into_iter().partition(|(number, _)| taken(*number));
        self.going = now;
        while !self.going.is_empty() {
            self.delete_some();
        }
        self.going = later;
    }

    fn delete_some(&mut self) {
        let some = self.going.split_off(self.going.len().saturating_sub(TOGETHER));
        let made: BTreeSet<&str> = self.set.made().into_iter().collect();
        let names: Vec<&str> =
            some.iter().map(|(_, name)| &**name).filter(|name| made.contains(name)).collect();
        if let Err(error) = self.host.delete_all(&names) {
            log::warn(error);
        }
        let numbers: Vec<u32> = some.iter().map(|(number, _)| *number).collect();
        if let Err(error) = self.set.remove(&numbers) {
            log::warn(error);
        }
    }

    /// The configuration has changed from `before` to `after` in the tunnels that are `touched`: interfaces of those that have none
    /// any more go, and the others' are looked at by the next [`TunnelInterfaces::apply`].
    pub(super) fn change(&mut self, before: &Config, after: &Config, touched: &BTreeSet<usize>) {
        for number in touched {
            if let Some(given) = self.given.get_mut(*number) {
                *given = None;
            }
            if let Some(trouble) = self.troubles.get_mut(*number) {
                *trouble = None;
            }
            if has_interface(before, *number)
                && !has_interface(after, *number)
                && let (Ok(place), Some(tunnel)) = (u32::try_from(*number), before.tunnels.get(*number))
            {
                self.going.push((place, tunnel.name.clone()));
            }
        }
        self.given.resize(after.tunnels.len(), None);
        self.troubles.resize(after.tunnels.len(), None);
    }

    /// The first tunnel whose interface is not as it should be, and why.
    pub(super) fn trouble(&self) -> Option<(usize, &str)> {
        self.troubles.iter().enumerate().find_map(|(tunnel, trouble)| Some((tunnel, trouble.as_deref()?)))
    }

    fn make(&mut self, config: &Config, number: usize, tunnel: &Tunnel, mtu: u32) -> Result<(), String> {
        let place = u32::try_from(number).unwrap_or(u32::MAX);
        self.set.add(place, &tunnel.name, mtu).map_err(|error| error.to_string())?;
        let inner: Vec<Inner> = tunnel.inner.iter().map(|inner| inner_of(*inner, tunnel)).collect();
        self.host.configure(&tunnel.name, mtu, &inner).map_err(|error| error.to_string())?;
        let routes: BTreeSet<Prefix> = host_routes(config, number).into_iter().collect();
        self.host.set_routes(&tunnel.name, &routes).map_err(|error| error.to_string())
    }

    /// Makes interfaces anew that somebody has deleted. True where there were any.
    pub(super) fn restore(&mut self, config: &Config, mtus: &[usize]) -> bool {
        let mut lost = self.set.lost();
        lost.retain(|number| self.going.iter().all(|(going, _)| going != number));
        for number in &lost {
            let Some(tunnel) = config.tunnels.get(*number as usize) else { continue };
            log::tunnel(&tunnel.name).warn("its interface was deleted; it is made again");
            self.host.forget(&tunnel.name);
            if let Some(given) = self.given.get_mut(*number as usize) {
                *given = None;
            }
        }
        let unfinished = self.trouble().is_some();
        if !lost.is_empty() || unfinished {
            self.apply(config, mtus);
        }
        !lost.is_empty()
    }

    /// Takes all of them away.
    pub(super) fn remove(mut self) {
        let made: Vec<String> = self.set.made().into_iter().map(str::to_owned).collect();
        let made: Vec<&str> = made.iter().map(String::as_str).collect();
        if let Err(error) = self.host.delete_all(&made) {
            log::warn(error);
        }
    }
}

/// The configuration's inner address as the interface has it.
fn inner_of(inner: crate::config::Prefix, tunnel: &Tunnel) -> Inner {
    let peer = tunnel.peer.filter(|peer| peer.is_ipv4() == inner.addr.is_ipv4());
    Inner { local: inner.addr, prefix_len: inner.len, peer }
}
