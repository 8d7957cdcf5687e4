//! Keys: what strongSwan negotiates for the tunnels.
//!
//! - [`connection`]: what charon, strongSwan's daemon, is told of a tunnel.
//! - [`vici`]: how it is told. [`pilot`]: when, and how far each tunnel is.
//! - [`sa`], [`source`]: the SAs that come of it, and who tells of them; [`plugin`] is one source, for kernels without ESP.
//! - [`associations`]: the SAs of one tunnel, and which of them sends.
//!
//! [`Keys`] holds it all together for the control thread, which never waits for any of it: it looks in when it is woken or
//! [`Keys::deadline`] has come ([`Keys::follow`]), installs what there is ([`Keys::installed`]), and says so
//! ([`Keys::settle`]), so that charon goes on only when an SA is in force.

pub mod associations;
pub mod connection;
pub mod pilot;
pub mod plugin;
pub mod sa;
pub mod source;
pub mod vici;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_engine::counters::{TunnelCounterSet, TunnelCounters};
use ring::rand::{SecureRandom, SystemRandom};

use self::associations::{Associations, Installed, Traffic, Want};
use self::pilot::{Order, Pilot};
use self::sa::{Change, Id, Sa};
use self::source::{Answer, Ear, Heard, Said, Saying};
use self::vici::Vici;
use crate::config::{Ike, Protect, Tunnel};
use crate::report::SaReport;
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
    /// When an SA last came.
    youngest: Option<Instant>,
    look: Instant,
}

/// Connections to the others.
struct Open {
    vici: Vici,
    heard: Heard,
    _listener: Listener,
}

/// A tunnel whose keys are negotiated.
#[derive(Debug)]
struct Negotiated {
    reqid: u32,
    counters: TunnelCounterSet,
    associations: Associations,
}

impl Negotiated {
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
            youngest: None,
            look: Instant::now(),
        }
    }

    /// These are the tunnels from now on, each with its counters. SAs of tunnels that stay stay.
    ///
    /// # Errors
    /// The system gives no socket or thread, in words.
    pub fn steer<'t>(
        &mut self,
        tunnels: impl Iterator<Item = (&'t Tunnel, &'t TunnelCounterSet)>,
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
            None => self.open.insert(Open::new(&self.places, &self.wake)?),
        };
        let reqids = connection::distinct(all.iter().map(|(tunnel, ..)| tunnel.name.as_str()));
        let mut before = std::mem::take(&mut self.tunnels);
        for ((tunnel, _, counters), reqid) in all.iter().zip(&reqids) {
            let kept = before.remove(&tunnel.name).filter(|kept| kept.reqid == *reqid);
            let associations = kept.map_or_else(Associations::default, |kept| kept.associations);
            let negotiated = Negotiated { reqid: *reqid, counters: (*counters).clone(), associations };
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
            if let Some(Want::Rekey) = tunnel.associations.want(traffic, now) {
                let mut ask = |(command, message): Order| vici.ask(command, message);
                self.pilot.rekey(name, &mut ask);
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
            Change::Begins(origin) => all.for_each(|associations| associations.begin(origin)),
            Change::Synchronised(origin) => {
                all.for_each(|associations| associations.synchronised(origin));
                return Ok(true);
            }
            Change::Flushed(origin) => {
                return Ok(all.fold(false, |any, associations| any | associations.flush(origin, now)));
            }
            Change::Removed(id) => {
                let Some(tunnel) = self.ids.remove(&id).and_then(|name| self.tunnels.get_mut(&name)) else {
                    return Ok(false);
                };
                return Ok(tunnel.associations.remove(id, now));
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
        let id = sa.id;
        let traffic = tunnel.traffic();
        tunnel.associations.add(sa, fresh, traffic, now)?;
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

    /// Has new SAs negotiated for the tunnel.
    ///
    /// # Errors
    /// It has none to be replaced, in words.
    pub fn rekey(&mut self, tunnel: &str) -> Result<(), String> {
        if let Some(trouble) = self.pilot.trouble(tunnel) {
            return Err(trouble);
        }
        let open = self.open.as_mut().filter(|_| self.tunnels.contains_key(tunnel));
        let vici = &mut open.ok_or("its keys are not negotiated")?.vici;
        self.pilot.rekey(tunnel, &mut |(command, message)| vici.ask(command, message));
        Ok(())
    }

    /// Why a tunnel has no SA to send with.
    #[must_use]
    pub fn trouble(&self, tunnel: &str) -> Option<String> {
        let negotiated = self.tunnels.get(tunnel)?;
        if negotiated.associations.can_send() {
            return None;
        }
        Some(self.pilot.trouble(tunnel).unwrap_or_else(|| {
            "strongSwan has SAs and does not hand them over: is its plugin for Culvert loaded?".to_owned()
        }))
    }

    /// How the negotiations stand; `None` where no tunnel has negotiated keys.
    #[must_use]
    pub fn pilot(&self) -> Option<&Pilot> {
        self.open.is_some().then_some(&self.pilot)
    }

    /// When [`Keys::follow`] has something to do by the clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.open.as_ref()?;
        Some(self.pilot.deadline().map_or(self.look, |due| due.min(self.look)))
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
        let listener = plugin::listen(&places.plugin, ear)?;
        let woken = Arc::clone(wake);
        let vici = Vici::start(&places.vici, move || woken()).map_err(|error| format!("VICI: {error}"))?;
        Ok(Open { vici, heard, _listener: listener })
    }
}

/// A number from 0 to 1.
fn dice() -> f64 {
    let mut byte = [0];
    // Without chance, all are as patient.
    let _ = SystemRandom::new().fill(&mut byte);
    f64::from(byte.first().copied().unwrap_or(0)) / f64::from(u8::MAX)
}
