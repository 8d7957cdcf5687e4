//! What a Linux host has told so far, put together. Pure: messages in, state out.
//!
//! A message of the kind "this is there now" or "this has gone" is entered as it is, if it says all there is to know. What a
//! message about a route leaves open (which of several routes it is about, what a next hop object means now, what else
//! has gone with a link) is not guessed: the tables are marked as stale, and read again.

use std::collections::BTreeMap;
use std::time::Instant;

use super::message::{self, Object, RouteMessage};
use crate::datagram::Damaged;
use crate::netlink::message::{self as netlink, Message};
use crate::routes::ledger::Ledger;
use crate::routes::stale::Stale;
use crate::routes::state::{
    Address, Link, LinkIndex, Neighbour, NeighbourKey, NextHop, Route, RouteKey, RouteKind,
};

/// Groups in groups are not allowed by the kernel; this ends a walk through damaged ones.
const MAX_DEPTH: u8 = 4;

/// What is known, and what has to be read again.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) ledger: Ledger,
    pub(crate) stale: Stale,
    objects: Objects,
    table: u32,
}

/// Next hop objects by their numbers.
type Objects = BTreeMap<u32, Object>;

impl Follower {
    /// Follows the routes of `table`.
    pub(crate) fn new(table: u32) -> Follower {
        Follower { ledger: Ledger::default(), stale: Stale::default(), objects: BTreeMap::new(), table }
    }

    /// Takes in a datagram of events. Damage leaves what was there before, and has everything read again.
    pub(crate) fn take(&mut self, datagram: &[u8], now: Instant) {
        for message in netlink::messages(datagram) {
            if message.and_then(|message| self.event(message, now)).is_err() {
                self.stale.everything = true;
            }
        }
    }

    fn event(&mut self, message: Message<'_>, now: Instant) -> Result<(), Damaged> {
        match message.kind {
            message::RTM_NEWLINK => {
                if let Some((index, link)) = message::link(message.payload)? {
                    self.new_link(index, link, now)?;
                }
            }
            message::RTM_DELLINK => {
                if let Some((index, _)) = message::link(message.payload)? {
                    self.ledger.remove_link(index);
                    self.stale.unsettled(now);
                }
            }
            message::RTM_NEWADDR | message::RTM_DELADDR => {
                if let Some((address, usable)) = message::address(message.payload)? {
                    self.address(address, usable && message.kind == message::RTM_NEWADDR, now);
                }
            }
            message::RTM_NEWROUTE | message::RTM_DELROUTE => {
                if let Some(route) = message::route(message.payload)? {
                    self.route(message, route);
                }
            }
            message::RTM_NEWNEIGH | message::RTM_DELNEIGH => {
                if let Some((key, neighbour)) = message::neighbour(message.payload)? {
                    let neighbour = (message.kind == message::RTM_NEWNEIGH).then_some(neighbour);
                    self.ledger.neighbours.set(key, neighbour);
                }
            }
            message::RTM_NEWNEXTHOP | message::RTM_DELNEXTHOP => self.stale.unsettled(now),
            netlink::NLMSG_OVERRUN => self.stale.everything = true,
            _ => {}
        }
        Ok(())
    }

    fn new_link(&mut self, index: LinkIndex, link: Link, now: Instant) -> Result<(), Damaged> {
        if link.name.is_empty() {
            return Err(Damaged);
        }
        if self.ledger.links.get(&index) != Some(&link) {
            self.ledger.links.set(index, Some(link));
            self.stale.unsettled(now);
        }
        Ok(())
    }

    fn address(&mut self, address: Address, there: bool, now: Instant) {
        if self.ledger.addresses.get(&address).is_some() != there {
            self.ledger.addresses.set(address, there.then_some(()));
            self.stale.unsettled(now);
        }
    }

    fn route(&mut self, message: Message<'_>, told: RouteMessage) {
        let key = told.key;
        if key.table != self.table {
            return;
        }
        let Some(route) = resolved(told, &self.objects) else {
            self.stale.routes = true;
            return;
        };
        let known = self.ledger.routes.get(&key).map(Vec::as_slice).unwrap_or_default();
        let is_new = message.kind == message::RTM_NEWROUTE;
        let replaces = message.flags & netlink::NLM_F_REPLACE != 0;
        match known {
            // Told again.
            [] if !is_new => {}
            [one] if is_new && *one == route => {}
            [] => self.ledger.routes.set(key, Some(vec![route])),
            [_] if is_new && replaces => self.ledger.routes.set(key, Some(vec![route])),
            [one] if !is_new && same_way(one, &route) => self.ledger.routes.set(key, None),
            // Put beside another, or one of several, or a part of one.
            _ => self.stale.routes = true,
        }
    }

    /// Takes over tables that have been read; which of them, `read` says.
    pub(crate) fn replace(&mut self, read: Tables, everything: bool) {
        let Tables { links, addresses, routes, neighbours, objects } = read;
        if everything {
            self.ledger.links.replace(links);
            self.ledger.addresses.replace(addresses);
            self.ledger.neighbours.replace(neighbours);
        }
        let mut lists: BTreeMap<RouteKey, Vec<Route>> = BTreeMap::new();
        for told in routes.into_iter().filter(|told| told.key.table == self.table) {
            let (key, kind, source, selective) =
                (told.key, told.route.kind, told.route.source, told.route.selective);
            // An object that went while the tables were read: a route without hops, which nothing can use.
            let route = resolved(told, &objects).unwrap_or(Route { kind, hops: vec![], source, selective });
            lists.entry(key).or_default().push(route);
        }
        self.ledger.routes.replace(lists);
        self.objects = objects;
        self.stale.clear();
    }
}

/// Whether two messages are about the same route: a hop that has died meanwhile is still that hop.
fn same_way(one: &Route, other: &Route) -> bool {
    let way = |hop: &NextHop| (hop.link, hop.gateway);
    one.kind == other.kind
        && one.selective == other.selective
        && one.hops.iter().map(way).eq(other.hops.iter().map(way))
}

/// The route with the hops of the object that it names, unless the message has them already; `None` where that object is
/// not known.
fn resolved(told: RouteMessage, objects: &Objects) -> Option<Route> {
    let mut route = told.route;
    if let (Some(id), true) = (told.object, route.hops.is_empty() && route.kind == RouteKind::Unicast) {
        collect(id, 1, objects, MAX_DEPTH, &mut route.hops)?;
        if route.hops.is_empty() {
            route.kind = RouteKind::Blackhole;
        }
    }
    Some(route)
}

fn collect(id: u32, weight: u32, objects: &Objects, depth: u8, hops: &mut Vec<NextHop>) -> Option<()> {
    match objects.get(&id)? {
        Object::Blackhole => {}
        Object::Hop(hop) => hops.push(NextHop { weight, ..*hop }),
        Object::Group(members) => {
            let depth = depth.checked_sub(1)?;
            for &(member, weight) in members {
                collect(member, weight, objects, depth, hops)?;
            }
        }
    }
    Some(())
}

/// Tables while they are being read.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    links: BTreeMap<LinkIndex, Link>,
    addresses: BTreeMap<Address, ()>,
    routes: Vec<RouteMessage>,
    neighbours: BTreeMap<NeighbourKey, Neighbour>,
    objects: Objects,
}

impl Tables {
    /// Adds another table.
    pub(crate) fn extend(&mut self, other: Tables) {
        self.links.extend(other.links);
        self.addresses.extend(other.addresses);
        self.routes.extend(other.routes);
        self.neighbours.extend(other.neighbours);
        self.objects.extend(other.objects);
    }

    /// Takes in an entry.
    pub(crate) fn take(&mut self, message: Message<'_>) -> Result<(), Damaged> {
        let payload = message.payload;
        match message.kind {
            message::RTM_NEWLINK => self.links.extend(message::link(payload)?),
            message::RTM_NEWADDR => {
                let usable = message::address(payload)?.filter(|(_, usable)| *usable);
                self.addresses.extend(usable.map(|(address, _)| (address, ())));
            }
            message::RTM_NEWROUTE => self.routes.extend(message::route(payload)?),
            message::RTM_NEWNEIGH => self.neighbours.extend(message::neighbour(payload)?),
            message::RTM_NEWNEXTHOP => self.objects.extend(message::object(payload)?),
            _ => {}
        }
        Ok(())
    }
}
