//! Keys: what strongSwan negotiates for the tunnels.
//!
//! - [`connection`]: what charon, strongSwan's daemon, is told of a tunnel.
//! - [`vici`]: how it is told. [`pilot`]: when, and how far each tunnel is.
//! - [`sa`], [`source`]: the SAs that come of it, and who tells of them. Stock strongSwan gives them to the kernel, which tells
//!   of them by XFRM (Linux) or PF_KEY (FreeBSD: [`pfkey`]); where the kernel has no ESP, a [`plugin`] in charon does. All
//!   that there are on a system are listened to: charon uses one.
//! - [`associations`]: the SAs of one tunnel, and which of them sends. [`partner`]: what the other router of a pair has to do with
//!   them. [`mapping`]: far ends behind a NAT that moves them.
//!
//! [`Keys`] holds it all together for the control thread, which never waits for any of it: it looks in when it is woken or
//! [`Keys::deadline`] has come ([`Keys::follow`]), installs what there is ([`Keys::installed`]), and says so
//! ([`Keys::settle`]), so that charon goes on only when an SA is in force.

pub mod associations;
pub mod connection;
mod kernel;
pub mod loaded;
pub mod mapping;
pub mod outbound;
mod partner;
pub mod pfkey;
pub mod pilot;
pub mod plugin;
pub mod sa;
pub mod source;
pub mod vici;
#[cfg(target_os = "linux")]
pub mod xfrm;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use culvert_engine::counters::{TunnelCounterSet, TunnelCounters};
use culvert_engine::esp::Router;
use ring::rand::{SecureRandom, SystemRandom};

use self::associations::{Associations, Installed, Traffic, Want};
use self::mapping::{Mapping, Mappings};
use self::pilot::{Order, Pilot};
use self::sa::{Change, Ends, Id, Origin, Sa};
use self::source::{Answer, Ear, Heard, Said, Saying};
use self::vici::Vici;
use crate::config::{Direction, Ike, Protect, Tunnel};
use crate::report::{IkeReport, SaReport};
use crate::socket::Listener;

/// How often SAs are looked at: always, and while one has just come.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));
/// For how long one has just come: until it must send, and what it replaces has drained.
const YOUNG: Duration = Duration::from_secs(8);

/// Where the others are.
#[derive(Debug, Clone)]
pub struct Places {
    /// charon's VICI socket.
    pub vici: PathBuf,
    /// Where the plugin finds us.
    pub plugin: PathBuf,
}

/// See the module page.
pub struct Keys {
    places: Places,
    wake: Arc<dyn Fn() + Send + Sync>,
    /// From the first tunnel with negotiated keys on.
    open: Option<Open>,
    pilot: Pilot,
    tunnels: BTreeMap<String, Negotiated>,
    reqids: HashMap<u32, String>,
    /// Which tunnel has that SA.
    ids: HashMap<Id, String>,
    /// What is answered once it is in force.
    unsettled: Vec<(Said, Answer)>,
    /// Who has told of an SA of ours so far.
    origins: HashSet<Origin>,
    news: Vec<News>,
    /// When an SA last came.
    youngest: Option<Instant>,
    look: Instant,
    /// Set when packets of an SA have come from elsewhere; and when it is looked at, where any come in UDP.
    moved: Arc<AtomicBool>,
    look_for_mappings: Option<Instant>,
    new_mappings: Vec<Mapping>,
}

/// What an operator may want to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Who has begun to tell of SAs of ours.
    From(Origin),
    /// SAs may stay unknown, for this reason.
    Untold(String),
}

/// Connections to the others.
struct Open {
    vici: Vici,
    heard: Heard,
    /// Why the kernel tells of no SAs; `None` where it does.
    deaf: Option<String>,
    /// Who cannot tell of all SAs.
    cut: Option<Origin>,
    plugin: plugin::Told,
    _listener: Listener,
}

/// A tunnel whose keys are negotiated.
#[derive(Debug)]
struct Negotiated {
    reqid: u32,
    /// Our end, where it is known, and the far one.
    local: Option<IpAddr>,
    remote: IpAddr,
    /// The replay window, in packets: the engine's own, whatever a kernel has room for.
    window: u32,
    /// Has another router its near end as well?
    shared: bool,
    /// Why nothing can be done with an SA that there is.
    unusable: Option<String>,
    counters: TunnelCounterSet,
    associations: Associations,
    mappings: Mappings,
}

impl Negotiated {
    fn new(
        tunnel: &Tunnel,
        ike: &Ike,
        reqid: u32,
        counters: &TunnelCounterSet,
        router: Router,
    ) -> Negotiated {
        Negotiated {
            reqid,
            local: tunnel.local.address(),
            remote: tunnel.remote,
            window: ike.replay_window,
            shared: tunnel.local.group().is_some(),
            unusable: None,
            counters: counters.clone(),
            associations: Associations::new(router),
            mappings: Mappings::default(),
        }
    }

    /// What the tunnel has carried so far.
    fn traffic(&self) -> Traffic {
        let sum = |of: fn(&TunnelCounters) -> u64| self.counters.workers().map(of).sum();
        Traffic {
            received: sum(|counters| counters.in_bytes.get()),
            sent: sum(|counters| counters.out_bytes.get()),
        }
    }
}

impl Keys {
    /// Without any tunnel; nobody is spoken to. `wake` is called when there is something to [`Keys::follow`].
    pub fn new(places: Places, wake: impl Fn() + Send + Sync + 'static) -> Keys {
        Keys {
            places,
            wake: Arc::new(wake),
            open: None,
            pilot: Pilot::new(dice),
            tunnels: BTreeMap::new(),
            reqids: HashMap::new(),
            ids: HashMap::new(),
            unsettled: Vec::new(),
            origins: HashSet::new(),
            news: Vec::new(),
            youngest: None,
            look: Instant::now(),
            moved: Arc::default(),
            look_for_mappings: None,
            new_mappings: Vec::new(),
        }
    }

    /// These are the tunnels from now on, each with its counters, as `router` of a pair. SAs of tunnels that stay stay.
    ///
    /// # Errors
    /// The system gives no socket or thread, in words.
    pub fn steer<'t>(
        &mut self,
        tunnels: impl Iterator<Item = (&'t Tunnel, &'t TunnelCounterSet)>,
        router: Router,
        now: Instant,
    ) -> Result<(), String> {
        let all: Vec<(&Tunnel, &Ike, &TunnelCounterSet)> = tunnels
            .filter_map(|(tunnel, counters)| match &tunnel.protect {
                Protect::Ike(ike) => Some((tunnel, &**ike, counters)),
                Protect::None | Protect::Manual(_) => None,
            })
            .collect();
        let open = match &mut self.open {
            Some(open) => open,
            None if all.is_empty() => return Ok(()),
            None => {
                let open = self.open.insert(Open::new(&self.places, &self.wake)?);
                // Where charon has a plugin of ours, there need not be such a kernel.
                let deaf = open.deaf.iter().filter(|_| cfg!(target_os = "freebsd"));
                self.news.extend(deaf.map(|why| News::Untold(why.clone())));
                open
            }
        };
        let reqids = connection::distinct(all.iter().map(|(tunnel, ..)| tunnel.name.as_str()));
        let mut before = std::mem::take(&mut self.tunnels);
        for ((tunnel, ike, counters), reqid) in all.iter().zip(&reqids) {
            let mut negotiated = Negotiated::new(tunnel, ike, *reqid, counters, router);
            if let Some(kept) = before.remove(&tunnel.name).filter(|kept| kept.reqid == *reqid) {
                (negotiated.associations, negotiated.mappings) = (kept.associations, kept.mappings);
            } else {
                negotiated.associations = negotiated.associations.telling(&self.moved);
            }
            negotiated.associations.spread(ike.sas);
            self.tunnels.insert(tunnel.name.clone(), negotiated);
        }
        self.reqids = self.tunnels.iter().map(|(name, tunnel)| (tunnel.reqid, name.clone())).collect();
        let tunnels = &self.tunnels;
        self.ids.retain(|_, name| tunnels.contains_key(name));
        let wanted = all.into_iter().zip(reqids).map(|((tunnel, ike, _), reqid)| (tunnel, ike, reqid));
        let vici = &mut open.vici;
        self.pilot.steer(wanted, now, &mut |(command, message)| vici.ask(command, message));
        Ok(())
    }

    /// Takes in what has happened. Returns whether other SAs are to be installed.
    pub fn follow(&mut self, now: Instant) -> bool {
        let Some(open) = &mut self.open else { return false };
        let vici = &mut open.vici;
        while let Some(told) = vici.told() {
            self.pilot.hear(told, now, &mut |(command, message)| vici.ask(command, message));
        }
        self.pilot.tick(now, &mut |(command, message)| vici.ask(command, message));
        let said: Vec<Said> = open.heard.try_iter().collect();
        let mut changed = false;
        for said in said {
            changed |= self.hear(said, now);
        }
        if now >= self.look {
            let young = self.youngest.is_some_and(|youngest| now < youngest + YOUNG);
            self.look = now + if young { LOOKS.1 } else { LOOKS.0 };
            changed |= self.look_after(now);
            let in_udp = self.tunnels.values().any(|tunnel| tunnel.associations.are_in_udp());
            self.look_for_mappings = in_udp.then_some(now);
        }
        if self.look_for_mappings.is_some_and(|due| now >= due) {
            self.look_for_mappings = Some(now + mapping::LOOK);
            changed |= self.follow_mappings(now);
        }
        changed
    }

    fn look_after(&mut self, now: Instant) -> bool {
        let Some(open) = &mut self.open else { return false };
        let vici = &mut open.vici;
        let mut changed = false;
        for (name, tunnel) in &mut self.tunnels {
            changed |= tunnel.associations.tick(now);
            let traffic = tunnel.traffic();
            changed |= tunnel.associations.limit(traffic, now);
            if let Some(Want::Rekey) = tunnel.associations.want(traffic, now) {
                let mut ask = |(command, message): Order| vici.ask(command, message);
                if !self.pilot.rekey(name, now, &mut ask) {
                    tunnel.associations.unasked();
                }
            }
        }
        changed
    }

    /// Takes in what a source says. Returns whether other SAs are to be installed.
    fn hear(&mut self, said: Said, now: Instant) -> bool {
        let change = match &said.saying {
            Saying::Change(change) => change.clone(),
            Saying::Query(id) => {
                let tunnel = self.ids.get(id).and_then(|name| self.tunnels.get(name));
                let used = tunnel.and_then(|tunnel| tunnel.associations.used(*id, tunnel.traffic(), now));
                said.answer(Answer::Used(used));
                return false;
            }
        };
        let (outcome, changed) = match self.change(change, now) {
            Ok(changed) => (Ok(()), changed),
            Err(why) => (Err(why), false),
        };
        self.unsettled.push((said, Answer::Changed(outcome)));
        changed
    }

    fn change(&mut self, change: Change, now: Instant) -> Result<bool, String> {
        let all = self.tunnels.values_mut().map(|tunnel| &mut tunnel.associations);
        match change {
            Change::Added(sa) => return self.add(sa, true, now),
            Change::Found(sa) => return self.add(sa, false, now),
            Change::Begins(origin) => {
                all.for_each(|associations| associations.begin(origin));
                if let Some(open) = self.open.as_mut().filter(|_| origin != Origin::Plugin) {
                    open.deaf = None;
                }
            }
            Change::Synchronised(origin) => {
                all.for_each(|associations| associations.synchronised(origin));
                if let Some(open) = &mut self.open {
                    open.cut = open.cut.filter(|cut| *cut != origin);
                }
                return Ok(true);
            }
            Change::Cut(origin) => {
                all.for_each(Associations::cut);
                if let Some(open) = &mut self.open {
                    open.cut = Some(origin);
                }
                self.news.push(News::Untold(pfkey::CUT.to_owned()));
            }
            Change::Unusable { reqid, why } => {
                if let Some(tunnel) = self.reqids.get(&reqid).and_then(|name| self.tunnels.get_mut(name)) {
                    tunnel.unusable = Some(why);
                }
            }
            Change::Flushed(origin) => {
                return Ok(all.fold(false, |any, associations| any | associations.flush(origin, now)));
            }
            Change::Removed(id) => {
                let Some(tunnel) = self.ids.get(&id).and_then(|name| self.tunnels.get_mut(name)) else {
                    return Ok(false);
                };
                let known_as = tunnel.associations.known_as(id);
                let changed = tunnel.associations.remove(id, now);
                if !tunnel.associations.has(id) {
                    self.ids.remove(&id);
                    self.ids.remove(&known_as);
                }
                return Ok(changed);
            }
            Change::Moved(id, ends) => {
                let Some(name) = self.ids.remove(&id) else { return Ok(false) };
                let moved = Id { at: ends.destination, ..id };
                let tunnel = self.tunnels.get_mut(&name);
                self.ids.insert(moved, name);
                return Ok(tunnel.is_some_and(|tunnel| tunnel.associations.moved(id, ends)));
            }
        }
        Ok(false)
    }

    fn add(&mut self, sa: Sa, fresh: bool, now: Instant) -> Result<bool, String> {
        let unknown = || format!("no tunnel here has reqid {}", sa.reqid);
        let name = self.reqids.get(&sa.reqid).ok_or_else(unknown)?;
        let tunnel = self.tunnels.get_mut(name).ok_or_else(unknown)?;
        let (id, origin) = (sa.id, sa.origin);
        let direction = sa.direction.or_else(|| direction(tunnel.local, tunnel.remote, sa.ends));
        let traffic = tunnel.traffic();
        tunnel.associations.add(Sa { direction, window: tunnel.window, ..sa }, fresh, traffic, now)?;
        tunnel.unusable = None;
        if self.origins.insert(origin) {
            self.news.push(News::From(origin));
        }
        self.ids.insert(id, name.clone());
        (self.youngest, self.look) = (Some(now), now);
        Ok(true)
    }

    /// Says that all which was to be installed is.
    pub fn settle(&mut self) {
        for (said, answer) in self.unsettled.drain(..) {
            said.answer(answer);
        }
    }

    /// The SAs of a tunnel; `None` where its keys are not negotiated.
    #[must_use]
    pub fn installed(&self, tunnel: &str) -> Option<Installed> {
        self.tunnels.get(tunnel).map(|tunnel| tunnel.associations.installed())
    }

    /// Where the SAs of a tunnel stand, and for how long they have been there; `None` where its keys are not negotiated.
    pub fn report(&self, tunnel: &str, now: Instant) -> Option<impl Iterator<Item = (SaReport, Duration)>> {
        self.tunnels.get(tunnel).map(|tunnel| tunnel.associations.report(now))
    }

    /// Has new SAs negotiated for the tunnel; what the far end has begun will do.
    ///
    /// # Errors
    /// It has none to be replaced, or they are not ours to replace, in words.
    pub fn rekey(&mut self, tunnel: &str, now: Instant) -> Result<(), String> {
        if let Some(trouble) = self.pilot.trouble(tunnel) {
            return Err(trouble);
        }
        let negotiated = self.tunnels.get(tunnel).ok_or("its keys are not negotiated")?;
        if !negotiated.associations.is_half_done(now)
            && let Some(Open { vici, .. }) = &mut self.open
            && !self.pilot.rekey(tunnel, now, &mut |(command, message)| vici.ask(command, message))
        {
            return Err(
                "nothing is begun in it now: it is switched off, or another router is its master, or may be"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// What strongSwan was told of the tunnel, beside what it has of it. Where its answer is not there yet, `waiting` is true, and
    /// it has been asked.
    ///
    /// # Errors
    /// The tunnel's keys are not negotiated, in words.
    pub fn show_ike(&mut self, tunnel: &str, now: Instant) -> Result<IkeReport, String> {
        let open = self.open.as_mut().filter(|_| self.tunnels.contains_key(tunnel));
        let vici = &mut open.ok_or("its keys are not negotiated")?.vici;
        self.pilot.show(tunnel, now, &mut |(command, message)| vici.ask(command, message))
    }

    /// Why a tunnel has no SA to send with.
    #[must_use]
    pub fn trouble(&self, tunnel: &str) -> Option<String> {
        let negotiated = self.tunnels.get(tunnel)?;
        if negotiated.associations.can_send() {
            return None;
        }
        let trouble = self.pilot.trouble(tunnel);
        if negotiated.associations.is_used_up() {
            let why = trouble.map_or(String::new(), |why| format!(": {why}"));
            return Some(format!("its SAs have reached their end, and new ones have been asked for{why}"));
        }
        let cut = || {
            let cut = self.open.as_ref().is_some_and(|open| open.cut.is_some());
            let words = "strongSwan has SAs that we are not told of, and new ones have been asked for";
            cut.then(|| format!("{words}: {}", pfkey::CUT))
        };
        let untold = || {
            let deaf = self.open.as_ref().and_then(|open| open.deaf.as_deref());
            let deaf = deaf
                .map_or(String::new(), |why| format!(" (of the kernel's own SAs we hear nothing: {why})"));
            format!("strongSwan has SAs and does not hand them over: is its plugin for Culvert loaded?{deaf}")
        };
        let unusable = || negotiated.unusable.clone();
        Some(trouble.or_else(unusable).or_else(cut).unwrap_or_else(untold))
    }

    /// What is new since this was last asked.
    pub fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// How the negotiations stand; `None` where no tunnel has negotiated keys.
    #[must_use]
    pub fn pilot(&self) -> Option<&Pilot> {
        self.open.is_some().then_some(&self.pilot)
    }

    /// In tunnels whose near end another router has as well, nothing is begun until then.
    pub fn hold(&mut self, until: Option<Instant>) {
        self.pilot.hold(until);
    }

    /// When [`Keys::follow`] has something to do by the clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.open.as_ref()?;
        let deadlines = [self.pilot.deadline(), self.look_for_mappings];
        Some(deadlines.into_iter().flatten().fold(self.look, Instant::min))
    }

    /// Is there nothing to be followed now?
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.heard.is_empty() && open.vici.is_silent())
    }
}

impl Open {
    fn new(places: &Places, wake: &Arc<dyn Fn() + Send + Sync>) -> Result<Open, String> {
        let woken = Arc::clone(wake);
        let (ear, heard) = Ear::new(move || woken());
        let (listener, plugin) = plugin::listen(&places.plugin, ear.clone())?;
        let deaf = follow_kernel(ear).err();
        let woken = Arc::clone(wake);
        let vici = Vici::start(&places.vici, move || woken()).map_err(|error| format!("VICI: {error}"))?;
        Ok(Open { vici, heard, deaf, cut: None, plugin, _listener: listener })
    }
}

/// Which way packets with these ends go, in a tunnel between `local`, if it is always the same, and `remote`.
fn direction(local: Option<IpAddr>, remote: IpAddr, ends: Ends) -> Option<Direction> {
    if local == Some(ends.destination) || remote == ends.source {
        Some(Direction::In)
    } else if local == Some(ends.source) || remote == ends.destination {
        Some(Direction::Out)
    } else {
        None
    }
}

/// Listens to what this system's kernel tells of its SAs.
///
/// # Errors
/// It does not, in words; FreeBSD's may later.
fn follow_kernel(ear: Ear) -> Result<(), String> {
    #[cfg(target_os = "linux")]
    return xfrm::follow(ear).map_err(|error| error.to_string());
    #[cfg(target_os = "freebsd")]
    return pfkey::follow(ear).map_err(|error| pfkey::words(&error));
}

/// A number from 0 to 1.
fn dice() -> f64 {
    let mut byte = [0];
    // Without chance, all are as patient.
    let _ = SystemRandom::new().fill(&mut byte);
    f64::from(byte.first().copied().unwrap_or(0)) / f64::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use culvert_engine::counters::TunnelCounterBank;

    use super::*;

    /// What kernels do not say, the ends do: also where a NAT or a moving peer has changed one of them.
    #[test]
    fn the_ends_of_a_tunnel_tell_which_way_an_sa_goes() {
        let [here, there, elsewhere]: [IpAddr; 3] =
            ["192.0.2.1", "192.0.2.2", "198.51.100.7"].map(|text| text.parse().expect("an address"));
        let way =
            |local, source, destination| direction(local, there, Ends { source, destination, udp: None });
        for local in [Some(here), None] {
            assert_eq!(way(local, there, here), Some(Direction::In));
            assert_eq!(way(local, here, there), Some(Direction::Out));
            assert_eq!(way(local, elsewhere, there), Some(Direction::Out), "we have moved");
            assert_eq!(way(local, elsewhere, elsewhere), None);
        }
        assert_eq!(way(Some(here), elsewhere, here), Some(Direction::In), "they have moved");
        assert_eq!(way(Some(here), here, elsewhere), Some(Direction::Out), "they have moved");
    }
    /// What the kernel cannot tell of, the operator hears of with what is to be done, and the tunnel wants anew.
    #[test]
    fn a_kernel_that_does_not_tell_of_all_is_no_secret() {
        let place = std::env::temp_dir().join(format!("culvert-keys-{}", std::process::id()));
        let mut keys = Keys::new(Places { vici: place.with_extension("vici"), plugin: place }, || ());
        let mut open = Open::new(&keys.places, &keys.wake).expect("a socket");
        open.deaf = Some("there is no socket".to_owned());
        keys.open = Some(open);
        let config = pilot::tests::config("192.0.2.1", true);
        let Protect::Ike(ike) = &config.tunnels[0].protect else { panic!("it has keys") };
        let counters = TunnelCounterBank::new(1).take();
        let negotiated = Negotiated::new(&config.tunnels[0], ike, 7, &counters, Router::default());
        keys.tunnels.insert("oslo".to_owned(), negotiated);

        let now = Instant::now();
        let trouble = |keys: &Keys| keys.trouble("oslo").expect("it has no SA");
        let want = |keys: &mut Keys| {
            let tunnel = keys.tunnels.get_mut("oslo").expect("it is there");
            tunnel.associations.want(Traffic::default(), now)
        };
        assert!(trouble(&keys).contains("there is no socket"));
        let change = |keys: &mut Keys, change| keys.change(change, now).map(drop).expect("no SA is added");
        change(&mut keys, Change::Begins(Origin::PfKey));
        assert!(!trouble(&keys).contains("there is no socket"), "there is now");
        assert_eq!(want(&mut keys), None);
        change(&mut keys, Change::Cut(Origin::PfKey));
        assert!(trouble(&keys).contains("kern.ipc.maxsockbuf"), "{}", trouble(&keys));
        assert_eq!(keys.news(), [News::Untold(pfkey::CUT.to_owned())]);
        assert_eq!(want(&mut keys), Some(Want::Rekey));
        change(&mut keys, Change::Synchronised(Origin::PfKey));
        assert!(!trouble(&keys).contains("kern.ipc.maxsockbuf"));
    }
}
