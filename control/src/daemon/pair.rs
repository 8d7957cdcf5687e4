//! What the two routers of a pair make of what they tell each other: SAs with their numbers and windows, what paths take, and
//! who is master.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_engine::exception::thread::{Announcement, Order};

use super::carp::{masters, shared_mac};
use super::{Daemon, log};
use crate::carp::Role;
use crate::config::{Group, Router};
use crate::sync::link::Frame;
use crate::sync::message::{INTERVALS, LONGEST, Message, READINESS, STATIONS};

/// How often the edges of windows are told while they move, and numbers in hand looked at. What was received in this time, and
/// while it is on its way, is what a new master could accept a second time.
const TELL: Duration = Duration::from_millis(25);
/// How often it is looked for stations that it has not been told of.
const LOOK_FOR_STATIONS: Duration = Duration::from_secs(1);
/// Both may be master for so long: one of them has not heard yet.
const BOTH: Duration = Duration::from_secs(2);

/// The other router, as it is known from what it says.
#[derive(Default)]
pub(super) struct Pair {
    /// There is a session.
    up: bool,
    /// The version that is spoken in it.
    version: u16,
    /// It has told of all SAs that it had when the session began.
    complete: bool,
    roles: BTreeMap<String, Role>,
    /// What keeps it from being ready to be master; `None`: it has not said.
    missing: Option<Vec<String>>,
    /// What it was told last that this one lacks.
    told_missing: Option<Vec<String>>,
    /// What it was told last.
    told_roles: Vec<(String, Role)>,
    /// The time between advertisements for a group, in 1/256 s: as it has said, and as it was told last.
    intervals: BTreeMap<String, u16>,
    told_intervals: BTreeMap<String, u16>,
    told_mtus: BTreeMap<String, u16>,
    /// Stations that it has told of, or was told of and that are there still; and when others are looked for.
    stations: BTreeSet<IpAddr>,
    look_for_stations: Option<Instant>,
    /// When it is told next.
    tell: Option<Instant>,
    /// Groups of which both are master, and since when.
    both: BTreeMap<Group, Instant>,
    /// Those of them for which that is no passing thing.
    split: BTreeSet<Group>,
    /// It has told of something that may be this router's to go on with.
    claims: bool,
    /// What does not fit was told of.
    complained: bool,
}

impl Pair {
    /// When it is to be told something by the clock.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.tell.filter(|_| self.up)
    }

    /// Has it said all that this router has to know?
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// What the other router has said that keeps it from being ready to be master; `None`: it has not said, as older ones do not.
    pub(super) fn missing(&self) -> Option<&[String]> {
        self.missing.as_deref()
    }

    /// The other router says what it lacks. Returns whether it has become ready with that.
    fn hear_missing(&mut self, missing: Vec<String>) -> bool {
        let ready = missing.is_empty();
        let before = self.missing.replace(missing);
        ready && before.is_none_or(|before| !before.is_empty())
    }

    /// The same of this router, if the other one would understand it and has not been told.
    fn missing_to_tell(&mut self, missing: Option<&[String]>) -> Option<Message> {
        let missing = missing.filter(|_| self.up && self.version >= READINESS)?;
        if self.told_missing.as_deref() == Some(missing) {
            return None;
        }
        self.told_missing = Some(missing.to_vec());
        Some(Message::Missing(missing.to_vec()))
    }

    /// The times between this router's advertisements, if the other one would understand them and has not been told.
    fn intervals_to_tell(&mut self, intervals: BTreeMap<String, u16>) -> Option<Message> {
        if !self.up || self.version < INTERVALS || self.told_intervals == intervals {
            return None;
        }
        self.told_intervals.clone_from(&intervals);
        Some(Message::Intervals(intervals.into_iter().collect()))
    }

    /// Is it time to tell it of stations?
    fn hears_of_stations(&mut self, now: Instant) -> bool {
        let due = self.up && self.version >= STATIONS && self.look_for_stations.is_none_or(|due| now >= due);
        if due {
            self.look_for_stations = Some(now + LOOK_FOR_STATIONS);
        }
        due
    }

    /// Of the stations that are there, those that it has to hear of.
    fn stations_to_tell(&mut self, there: &BTreeSet<IpAddr>) -> Vec<Message> {
        let new: Vec<IpAddr> = there.difference(&self.stations).copied().collect();
        // One that goes and comes back is told of once more.
        self.stations.clone_from(there);
        new.chunks(LONGEST).map(|some| Message::Stations(some.to_vec())).collect()
    }

    /// Of two masters of the group, is this router, `router`, the one that goes quiet? By CARP's own rule, the one that advertises less
    /// often; where that is not known of both, or is the same, the second. Both know of the same: what each has told.
    pub(super) fn is_loser(&self, group: &Group, router: Router) -> bool {
        let group = group.to_string();
        match (self.told_intervals.get(&group), self.intervals.get(&group)) {
            (Some(ours), Some(its)) if ours != its => ours > its,
            _ => router == Router::Second,
        }
    }

    /// Groups of which both are master for too long.
    pub(super) fn splits(&self) -> impl Iterator<Item = &Group> {
        self.split.iter()
    }

    /// Are both master of the group, and have been for too long?
    pub(super) fn is_split(&self, group: &Group) -> bool {
        self.split.contains(group)
    }

    /// What the other router has said that it is in a group, once it has told all; `None`: it has not.
    pub(super) fn said(&self, group: &Group) -> Option<Role> {
        self.roles.get(&group.to_string()).copied().filter(|_| self.complete)
    }

    /// What the other router has said that it is; [`Role::Init`] if it has said nothing.
    pub(super) fn role(&self, group: &Group) -> Role {
        self.roles.get(&group.to_string()).copied().unwrap_or(Role::Init)
    }

    /// Is the other router master of the group?
    pub(super) fn is_master(&self, group: Option<&Group>) -> bool {
        group.is_some_and(|group| self.role(group) == Role::Master)
    }
}

impl Daemon {
    /// A session with the partner begins: it hears of everything.
    pub(super) fn meet_partner(&mut self, version: u16, now: Instant) {
        self.pair = Pair { up: true, version, ..Pair::default() };
        self.tell_all(now);
    }

    /// Tells the partner of everything: what it is not told of is not there any more.
    pub(super) fn tell_all(&mut self, now: Instant) {
        self.keys.forget_partner();
        self.tell_roles();
        self.say(&Message::Begin);
        self.tell_partner(now);
        self.say(&Message::Complete);
    }

    /// The session has ended.
    pub(super) fn miss_partner(&mut self) {
        self.keys.forget_partner();
        let before = std::mem::take(&mut self.pair);
        if !before.split.is_empty() {
            // Whether the other one is master is not known any more.
            self.apply_roles(Instant::now());
        }
    }

    /// Says it, or not: without a session, a new one begins with everything.
    fn say(&mut self, message: &Message) {
        if self.pair.up && self.partner.send(message.encode()).is_err() {
            // What was to be heard is lost, and the session ends.
            self.pair.up = false;
        }
    }

    fn tell_roles(&mut self) {
        let roles: Vec<_> =
            self.carp.members().map(|(group, member)| (group.to_string(), member.role)).collect();
        if self.pair.up && roles != self.pair.told_roles {
            self.say(&Message::Roles(roles.clone()));
            self.pair.told_roles = roles;
        }
    }

    /// Tells the partner what it has to hear.
    pub(super) fn tell_partner(&mut self, now: Instant) {
        if !self.pair.up {
            return;
        }
        self.tell_roles();
        let mut messages: Vec<_> = self.pair.missing_to_tell(self.readiness.missing()).into_iter().collect();
        let intervals = self.tell_intervals();
        let judged = intervals.is_some();
        messages.extend(intervals);
        if self.pair.hears_of_stations(now) {
            messages.extend(self.pair.stations_to_tell(&self.host.stations()));
        }
        self.keys.tell_partner(now, |message| messages.push(message));
        for (tunnel, mtu) in self.config.tunnels.iter().zip(&self.learned.path_mtus) {
            if let (Some(_), Some(mtu)) = (tunnel.local.group(), mtu)
                && self.pair.told_mtus.get(&tunnel.name) != Some(mtu)
            {
                self.pair.told_mtus.insert(tunnel.name.clone(), *mtu);
                messages.push(Message::PathMtu(tunnel.name.clone(), *mtu));
            }
        }
        messages.iter().for_each(|message| self.say(message));
        self.pair.tell = Some(now + TELL);
        if judged {
            self.judge_splits(now);
        }
    }

    /// The same, if it is time.
    pub(super) fn remind_partner(&mut self, now: Instant) {
        if self.pair.deadline().is_some_and(|due| now >= due) {
            self.tell_partner(now);
        }
    }

    /// Takes in what the partner says. Returns whether other SAs are to be installed.
    pub(super) fn hear_message(&mut self, frame: &Frame, now: Instant) -> bool {
        let Ok(message) = Message::decode(frame) else {
            self.complain("it says what is not understood here");
            return false;
        };
        match message {
            Message::Roles(roles) => {
                let before = std::mem::replace(&mut self.pair.roles, roles.into_iter().collect());
                self.pair.claims = true;
                self.follow_doubts(now);
                self.look_at_roles(now);
                // Its own announcements may have been the last.
                let left = |group: &&Group| {
                    before.get(&group.to_string()) == Some(&Role::Master) && !self.pair.is_master(Some(group))
                };
                masters(&self.carp).iter().filter(left).for_each(|group| self.announce(group));
            }
            Message::Begin => self.keys.partner_begins(),
            Message::Complete => {
                self.pair.complete = true;
                log::info("carp sync: the partner has told of all its SAs");
                let tunnels = self.config.tunnels.iter();
                let its = tunnels.filter(|tunnel| self.pair.is_master(tunnel.local.group()));
                let its: BTreeSet<&str> = its.map(|tunnel| tunnel.name.as_str()).collect();
                let changed = self.keys.partner_has_told(now, |name| its.contains(name));
                // That was missing here.
                self.follow_readiness(now);
                self.follow_doubts(now);
                return changed;
            }
            Message::Sa(name, told) => match self.keys.adopt(&name, *told, now) {
                Ok(changed) => {
                    self.pair.claims = true;
                    return changed;
                }
                Err(why) => self.complain(format!("an SA of tunnel {name:?} cannot be taken: {why}")),
            },
            Message::Removed(id) => return self.keys.partner_removed(id, now),
            Message::Moved(id, ends) => return self.keys.partner_moved(id, ends),
            Message::Edge(id, edge) => self.keys.edge(id, edge),
            Message::Ask(id, count) => {
                if let Some(numbers) = self.keys.give(id, count) {
                    self.say(&Message::Give(id, *numbers.start(), *numbers.end()));
                }
            }
            Message::Give(id, first, last) => return self.keys.take(id, first..=last),
            Message::Missing(missing) => {
                // It may take what it has more right to, and takes all of it together.
                if self.pair.hear_missing(missing) {
                    self.readiness.advertise();
                }
            }
            Message::Intervals(intervals) => {
                self.pair.intervals = intervals.into_iter().collect();
                self.judge_splits(now);
            }
            // Known before this router needs them.
            Message::Stations(stations) => {
                stations.iter().for_each(|station| self.host.meet(*station));
                self.pair.stations.extend(stations);
            }
            Message::PathMtu(name, mtu) => {
                let number = self.config.tunnels.iter().position(|it| it.name == name);
                let learned = number.and_then(|number| self.learned.path_mtus.get_mut(number));
                if let Some(learned) = learned
                    && learned.is_none_or(|known| mtu < known)
                {
                    *learned = Some(mtu);
                    self.pair.told_mtus.insert(name, mtu);
                    self.note_change();
                }
            }
        }
        false
    }

    /// The partner may have said whether an address that was here before makes this router master.
    fn follow_doubts(&mut self, now: Instant) {
        if self.carp.is_in_doubt() {
            self.follow_carp(now);
        }
    }

    fn complain(&mut self, why: impl std::fmt::Display) {
        if !std::mem::replace(&mut self.pair.complained, true) {
            log::error(format_args!("carp sync: the partner and this router do not fit: {why}"));
        }
    }

    /// Where this router is master, and the partner is not, it goes on with all that is its.
    pub(super) fn claim(&mut self) -> bool {
        let mut changed = false;
        if !std::mem::take(&mut self.pair.claims) {
            return false;
        }
        for (tunnel, kept) in self.config.tunnels.iter().zip(&self.kept.tunnels) {
            let group = tunnel.local.group();
            if group.is_some() && !kept.backup && !self.pair.is_master(group) {
                changed |= self.keys.stand(&tunnel.name, false, false);
            }
        }
        changed
    }

    /// The tunnels' SAs are as the roles are. Returns whether other SAs are to be installed.
    pub(super) fn stand(&mut self) -> bool {
        let tunnels = self.config.tunnels.iter().zip(&self.kept.tunnels);
        let doubted: Vec<&Group> = self.carp.doubted().collect();
        let known = tunnels.filter_map(|(tunnel, kept)| {
            tunnel.local.group().filter(|group| !doubted.contains(group)).map(|group| (tunnel, kept, group))
        });
        known.fold(false, |any, (tunnel, kept, group)| {
            let beside = self.pair.is_master(Some(group)) && !self.pair.is_split(group);
            any | self.keys.stand(&tunnel.name, kept.backup, beside)
        })
    }

    /// Are both routers master? If that lasts, one of them goes quiet: the second.
    pub(super) fn look_at_roles(&mut self, now: Instant) {
        let ours = self.carp.members().filter(|(_, member)| member.role == Role::Master);
        let both: Vec<Group> = ours.map(|(group, _)| group.clone()).collect();
        let both: Vec<Group> = both.into_iter().filter(|group| self.pair.is_master(Some(group))).collect();
        self.pair.both.retain(|group, _| both.contains(group));
        for group in both {
            self.pair.both.entry(group).or_insert(now);
        }
        let lasting = self.pair.both.iter().filter(|(_, since)| now >= **since + BOTH);
        let split: BTreeSet<Group> = lasting.map(|(group, _)| group.clone()).collect();
        if split == self.pair.split {
            return;
        }
        for group in split.difference(&self.pair.split) {
            let what =
                if self.is_loser(group) { "this one is silent" } else { "the other one is to be silent" };
            log::error(format_args!(
                "carp {group}: both routers are master; {what}: do they hear each other's advertisements?"
            ));
        }
        for group in self.pair.split.difference(&split) {
            log::info(format_args!("carp {group}: one router is master again"));
        }
        self.pair.split = split;
        self.apply_roles(now);
        self.announce_splits();
    }

    /// Of two masters of the group, is this the one that goes quiet?
    pub(super) fn is_loser(&self, group: &Group) -> bool {
        self.pair.is_loser(group, self.config.carp.router)
    }

    /// Are both routers master of the group, and is this the one that goes quiet?
    pub(super) fn is_quiet(&self, group: &Group) -> bool {
        self.pair.is_split(group) && self.is_loser(group)
    }

    /// What the partner is to hear of the times between advertisements.
    fn tell_intervals(&mut self) -> Option<Message> {
        let known =
            self.carp.members().filter_map(|(group, member)| Some((group.to_string(), member.interval?)));
        self.pair.intervals_to_tell(known.collect())
    }

    /// Who goes quiet of two masters may be another one.
    fn judge_splits(&mut self, now: Instant) {
        if self.pair.splits().next().is_some() {
            self.apply_roles(now);
            self.announce_splits();
        }
    }

    /// While both are master, hosts and switches follow the one that they have heard last. That is to be the one that carries packets.
    pub(super) fn announce_splits(&self) {
        self.pair.splits().filter(|group| !self.is_loser(group)).for_each(|group| self.announce(group));
    }

    /// Has those around hear that a group's address is here, where its interface is a port.
    pub(super) fn announce(&self, group: &Group) {
        let member = self.carp.members().find(|(name, _)| *name == group).map(|(_, member)| member);
        let port = self.ports.iter().position(|port| port.link() == group.interface);
        let link = port.and_then(|port| self.view.links.get(port));
        let (Some(member), Some(port), Some((mac, _))) = (member, port, link) else { return };
        // FreeBSD's CARP has an address of the group's own for it, others that of the interface which has it: keepalived may
        // give it one of its own.
        let of_host = self.host.link_address_of(member.address);
        let mac = if cfg!(target_os = "freebsd") { shared_mac(group) } else { of_host.unwrap_or(*mac) };
        let Ok(port) = u16::try_from(port) else { return };
        // The thread ends with this one.
        let _ = self.orders.send(Order::Announce(Announcement { port, mac, address: member.address }));
        self.exceptions_bell.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CARP's rule where both have said how often they advertise; else the second. The two come to the same end.
    #[test]
    fn who_goes_quiet() {
        let group: Group = "2@vmx0".parse().expect("a group");
        let pair = |ours: Option<u16>, its: Option<u16>| {
            let of = |interval: Option<u16>| interval.map(|it| (group.to_string(), it)).into_iter().collect();
            Pair { intervals: of(its), told_intervals: of(ours), ..Pair::default() }
        };
        for (first, second, loser) in [
            (Some(256), Some(356), Router::Second),
            (Some(356), Some(256), Router::First),
            (Some(512), Some(510), Router::First),
            (Some(256), Some(256), Router::Second),
            (Some(356), None, Router::Second),
            (None, Some(256), Router::Second),
            (None, None, Router::Second),
        ] {
            for (router, ours, its) in [(Router::First, first, second), (Router::Second, second, first)] {
                let quiet = pair(ours, its).is_loser(&group, router);
                assert_eq!(quiet, router == loser, "{router:?} of {first:?} and {second:?}");
            }
        }
        let told = || [("2@vmx0".to_owned(), 356)].into();
        for (version, says) in [(INTERVALS - 1, false), (INTERVALS, true)] {
            let mut pair = Pair { up: true, version, ..Pair::default() };
            assert_eq!(pair.intervals_to_tell(told()).is_some(), says);
            assert!(pair.intervals_to_tell(told()).is_none(), "once");
            assert_eq!(pair.told_intervals.is_empty(), !says);
        }
    }

    /// Each station is told once, not back to who has told of it, and again when it had gone.
    #[test]
    fn stations_are_told() {
        let [one, two]: [IpAddr; 2] = [[10, 1, 0, 1].into(), [10, 1, 0, 2].into()];
        let mut pair = Pair { up: true, version: STATIONS, ..Pair::default() };
        let start = Instant::now();
        assert!(pair.hears_of_stations(start) && !pair.hears_of_stations(start), "once a second");
        assert!(pair.hears_of_stations(start + LOOK_FOR_STATIONS));
        assert!(
            !Pair { version: STATIONS - 1, ..Pair { up: true, ..Pair::default() } }.hears_of_stations(start)
        );
        let tell = |pair: &mut Pair, there: &[IpAddr]| {
            let told = pair.stations_to_tell(&there.iter().copied().collect());
            told.into_iter()
                .flat_map(|message| match message {
                    Message::Stations(stations) => stations,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        pair.stations.insert(two);
        assert_eq!(tell(&mut pair, &[one, two]), [one]);
        assert_eq!(tell(&mut pair, &[one, two]), [] as [IpAddr; 0]);
        assert_eq!(tell(&mut pair, &[two]), [] as [IpAddr; 0]);
        assert_eq!(tell(&mut pair, &[one, two]), [one]);
        let many: Vec<IpAddr> =
            (0..LONGEST as u32 + 5).map(|n| std::net::Ipv4Addr::from_bits(n).into()).collect();
        assert_eq!(tell(&mut pair, &many), many);
    }

    /// What this router lacks is said once, again when it is something else, and not to a partner that would not understand it.
    #[test]
    fn readiness_is_told() {
        let down = || vec!["port \"wan\" is down".to_owned()];
        let say = |pair: &mut Pair, missing: Option<&[String]>| match pair.missing_to_tell(missing) {
            Some(Message::Missing(missing)) => Some(missing),
            _ => None,
        };
        let mut pair = Pair { up: true, version: READINESS, ..Pair::default() };
        assert_eq!(say(&mut pair, None), None, "nobody has looked yet");
        assert_eq!(say(&mut pair, Some(&down())), Some(down()));
        assert_eq!(say(&mut pair, Some(&down())), None);
        assert_eq!(say(&mut pair, Some(&[])), Some(Vec::new()));
        assert_eq!(say(&mut pair, Some(&[])), None);
        for mut other in [
            Pair { up: true, version: READINESS - 1, ..Pair::default() },
            Pair { up: false, version: READINESS, ..Pair::default() },
        ] {
            assert_eq!(say(&mut other, Some(&down())), None);
        }
    }

    #[test]
    fn a_partner_becomes_ready_once() {
        let mut pair = Pair::default();
        for (missing, becomes) in [
            (vec!["a check"], false),
            (vec![], true),
            (vec![], false),
            (vec!["a port"], false),
            (vec![], true),
        ] {
            let missing: Vec<String> = missing.into_iter().map(str::to_owned).collect();
            assert_eq!((pair.hear_missing(missing.clone()), pair.missing()), (becomes, Some(&*missing)));
        }
    }
}
