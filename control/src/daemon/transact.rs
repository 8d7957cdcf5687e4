//! Changing the running configuration: `apply`, `confirm`, `rollback`, `diff`, `tunnel up` and `down`, and SIGHUP.
//!
//! [`Daemon::apply`]:
//! 1. What is wrong with the new configuration, or takes a restart, is told, and nothing has changed.
//! 2. Tunnels that stay keep their numbers and all their state; tables are built of the new configuration. One that would lead
//!    a tunnel deeper into tunnels than it may is refused.
//! 3. What is to run, what ran before, and whether it has to be confirmed is brought to the disk.
//! 4. The tables are published as a whole. Interfaces follow.
//!
//! Until it is confirmed, everything is one step from where it was: in time, when an address that is watched falls silent, by
//! `rollback`, or by the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::assemble::{self, Built};
use super::lookout::{Lookout, Watching};
use super::server::Answer;
use super::{Daemon, Learned, MadeOf, devices, known, log, refuse};
use crate::Failure;
use crate::config::{Config, Problem, Protect, Sources, Tunnel, Warning};
use crate::plan;
use crate::transaction::diff::{self, Changes};
use crate::transaction::numbers::Numbers;
use crate::transaction::store::{Folder, State, Store};

/// Where state is kept for the daemon at the usual socket.
const STATE: &str = "/var/db/culvert";
/// How long addresses are watched where nobody is to confirm.
const WATCHED: Duration = Duration::from_secs(10);
/// How long a change may wait to be confirmed, in seconds.
const WINDOW: std::ops::RangeInclusive<u64> = 1..=86_400;
/// How soon a rollback is tried again that was not possible.
const AGAIN: Duration = Duration::from_secs(1);

/// A configuration that came with a request.
pub(super) struct Proposal {
    pub(super) sources: Sources,
    pub(super) config: Config,
    pub(super) warnings: Vec<Warning>,
    /// Addresses to watch.
    pub(super) watch: Option<Lookout>,
}

impl Proposal {
    /// Reads the files of a request.
    ///
    /// # Errors
    /// They are none, or what is wrong with the configuration; code 2.
    pub(super) fn read(body: &[u8]) -> Result<Proposal, Failure> {
        let sources = Sources::from_bytes(body).map_err(|why| Failure::usage(format!("request: {why}")))?;
        let (config, warnings) = Config::from_sources(&sources)?;
        Ok(Proposal { sources, config, warnings, watch: None })
    }
}

/// What is known of the configurations that have run and may run again.
pub(super) struct Transactions {
    store: Store<Folder>,
    /// What `culvert run` was given.
    file: PathBuf,
    /// What was applied last, as its files have it.
    applied: Config,
    sources: Sources,
    previous: Option<Sources>,
    pending: Option<Pending>,
    /// How the last change ended, where it was taken back.
    ended: Option<String>,
    numbers: Numbers,
    /// Tunnels that were taken up or down by hand.
    hands: BTreeMap<String, bool>,
}

/// What runs may be taken back.
struct Pending {
    /// Until when, by [`uptime`].
    until: Duration,
    /// What runs then: this, as nothing has happened to what is watched; or what ran before.
    stays: bool,
    /// What is watched meanwhile.
    watch: Option<Watching>,
    /// Who waits for the outcome, and what is told if it stays.
    asks: Option<(Sender<Result<Value, Failure>>, Value)>,
    /// What there was before the one that ran before.
    older: Option<Sources>,
}

/// Time since the machine was started, sleep included: no step of the wall clock makes a deadline come early or late.
fn uptime() -> Duration {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    clock_gettime(CLOCK).map_or(Duration::ZERO, Duration::from)
}

/// The folder that state is kept in, unless one is named: at the usual socket the usual one, else beside the socket.
pub(super) fn folder(named: Option<&Path>, socket: &Path) -> Folder {
    let beside = || {
        let mut path = socket.as_os_str().to_owned();
        path.push(".state");
        path.into()
    };
    let usual = || if socket == Path::new(super::SOCKET) { STATE.into() } else { beside() };
    Folder::new(named.map_or_else(usual, Path::to_owned))
}

impl Transactions {
    /// What the daemon starts with, and what there is to know about it: the last confirmed configuration, unless `file` has
    /// been changed since, which then says what is wanted.
    pub(super) fn open(folder: Folder, file: &Path, proposal: Proposal) -> Transactions {
        let mut store = Store::new(folder);
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let of_file = |store, proposal: Proposal, previous| Transactions {
            store,
            file: file.clone(),
            applied: proposal.config,
            sources: proposal.sources,
            previous,
            pending: None,
            ended: None,
            numbers: Numbers::default(),
            hands: BTreeMap::new(),
        };
        let state = match store.load() {
            Ok(Some(state)) => state,
            Ok(None) => return of_file(store, proposal, None),
            Err(why) => {
                let place = store.files().path().display();
                log::error(format_args!(
                    "state, {place}: {why}; it was set aside as state.damaged, and nothing of it is used"
                ));
                return of_file(store, proposal, None);
            }
        };
        let State { running, previous, pending, .. } = state;
        let unchanged = state.file == file && state.file_digest == proposal.sources.digest().to_string();
        let (wanted, older) = match (pending, previous) {
            (true, Some(previous)) => (previous, None),
            (_, previous) => (running.clone(), previous),
        };
        let chosen = if unchanged && wanted != proposal.sources { Some(wanted.clone()) } else { None };
        let loaded = chosen.map(|sources| (Config::from_sources(&sources), sources));
        let mut transactions = match loaded {
            Some((Ok((config, warnings)), sources)) => {
                let why = match pending {
                    true => "the last change was not confirmed: starts with the configuration before it",
                    false => "starts with the configuration that was applied last",
                };
                let file = file.display();
                log::warn(format_args!(
                    "{why}, as {file} has not been changed since; `culvert apply {file}` takes that"
                ));
                of_file(store, Proposal { sources, config, warnings, watch: None }, older)
            }
            Some((Err(errors), _)) => {
                log::error(format_args!("what was applied last cannot be read any more: {errors}"));
                of_file(store, proposal, None)
            }
            None if unchanged => of_file(store, proposal, older),
            None => {
                let last = Some(if pending { wanted } else { running });
                of_file(store, proposal, last)
            }
        };
        if let Err(why) = transactions.keep() {
            log::error(why);
        }
        transactions
    }

    /// What is to run now.
    pub(super) fn config(&self) -> &Config {
        &self.applied
    }

    /// Brings it all to the disk.
    ///
    /// # Errors
    /// It cannot be; what was kept before still is.
    fn keep(&mut self) -> Result<(), String> {
        let state = self.state(self.sources.clone(), self.previous.clone(), self.pending.is_some());
        self.commit(&state)
    }

    fn state(&self, running: Sources, previous: Option<Sources>, pending: bool) -> State {
        // As it is now: who changes it from here on wants something else.
        let now = Config::load_with_sources(&self.file).map(|(_, _, sources)| sources.digest().to_string());
        State { file: self.file.clone(), file_digest: now.unwrap_or_default(), running, previous, pending }
    }

    fn commit(&mut self, state: &State) -> Result<(), String> {
        let committed = self.store.commit(state);
        committed.map_err(|why| format!("state, {}: {why}", self.store.files().path().display()))
    }

    /// When what runs is to be taken back, if nobody confirms it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| Instant::now() + pending.until.saturating_sub(uptime()))
    }
}

/// What becomes of a tunnel that would be led deeper into tunnels than it may.
#[derive(Clone, Copy)]
enum Nested {
    /// The configuration is refused.
    Refused,
    /// The tunnel keeps its way, or is down, as if a route had changed.
    Held,
}

/// All that changes with a configuration, ready to be put in its place.
struct Prepared {
    config: Config,
    tunnels: Vec<plan::KeptTunnel>,
    made_of: MadeOf,
    learned: Learned,
    built: Built,
    touched: BTreeSet<usize>,
}

impl Daemon {
    /// What an apply would do.
    ///
    /// # Errors
    /// It would refuse the configuration; code 2.
    pub(super) fn diff(&mut self, proposal: &Proposal) -> Result<Value, Failure> {
        unfit(&proposal.config)?;
        let changes = diff::changes(&self.transactions.applied, &proposal.config);
        // What takes a restart is tried by that.
        if changes.changed && changes.restart.is_empty() {
            self.prepare(proposal.config.clone(), Nested::Refused)?;
            self.host.follow_tunnels(&self.config);
            self.kept.forget_some();
        }
        Ok((&changes).into())
    }

    /// Puts a configuration to work. `confirm`: for so long, unless it is confirmed. Where addresses are watched and nobody is to
    /// confirm, the answer comes when they have been.
    ///
    /// # Errors
    /// Code 2, it is wrong, or takes a restart; code 1, something else is in the way. Nothing has changed then.
    pub(super) fn apply(&mut self, proposal: Proposal, confirm: Option<Duration>) -> Result<Answer, Failure> {
        if confirm.is_some_and(|window| !WINDOW.contains(&window.as_secs())) {
            return Err(Failure::usage(format!(
                "confirm: give {} to {} seconds",
                WINDOW.start(),
                WINDOW.end()
            )));
        }
        if let Some(pending) = &self.transactions.pending {
            let left = pending.until.saturating_sub(uptime()).as_secs();
            return Err(Failure::failed(format!(
                "a change waits to be confirmed for {left} s more: `culvert confirm` or `culvert rollback` first"
            )));
        }
        let Proposal { sources, config, warnings, watch } = proposal;
        unfit(&config)?;
        let changes = diff::changes(&self.transactions.applied, &config);
        if !changes.restart.is_empty() {
            let restart = changes.restart.iter();
            let why = restart.map(|why| format!("{why}; restart culvert for it; nothing was changed"));
            return Err(Failure::reported(2, why.collect()));
        }
        let watch = watch.filter(|_| changes.changed);
        if watch.as_ref().is_some_and(|watch| watch.answered.is_empty()) {
            return Err(Failure::failed(
                "watch: none of the addresses answers; nothing was changed".to_owned(),
            ));
        }
        let confirm = confirm.filter(|_| changes.changed);
        let window = confirm.or(watch.as_ref().map(|_| WATCHED));
        let mut result = Value::from(&changes);
        let mut say =
            |key: &str, value| drop(result.as_object_mut().map(|it| it.insert(key.to_owned(), value)));
        if let Some(confirm) = confirm {
            say("confirm_within", json!(confirm.as_secs()));
        }
        if let Some(watch) = &watch {
            say("watched", json!(watch.answered));
            say("silent", json!(watch.silent));
        }
        let mut answer = None;
        if sources != self.transactions.sources || changes.changed {
            let prepared = self.prepare(config.clone(), Nested::Refused)?;
            let before = self.transactions.sources.clone();
            // The same settings in other words are no step to go back to.
            let previous = if changes.changed { Some(before) } else { self.transactions.previous.clone() };
            let state = self.transactions.state(sources.clone(), previous.clone(), window.is_some());
            self.transactions.commit(&state).map_err(Failure::failed)?;
            let older = std::mem::replace(&mut self.transactions.previous, previous);
            self.transactions.sources = sources;
            self.transactions.applied = config;
            self.transactions.ended = None;
            self.put(prepared);
            self.transactions.pending = window.map(|window| {
                let watch = watch.and_then(|watch| {
                    // What it asks may be behind one of them.
                    self.finish_interfaces();
                    let watching = watch.keep(Arc::clone(&self.bell));
                    watching.inspect_err(|error| log::error(format_args!("watch: {error}"))).ok()
                });
                let mut pending =
                    Pending { until: uptime() + window, stays: false, watch, asks: None, older };
                if confirm.is_none() {
                    let (ask, told) = bounded(1);
                    // What cannot be watched does not stay.
                    pending.stays = pending.watch.is_some();
                    pending.asks = Some((ask, result.clone()));
                    answer = Some(Answer::Later(told));
                }
                pending
            });
        }
        warnings.iter().for_each(log::warn);
        log::info(format_args!("applied: {}", summary(&changes)));
        Ok(answer.unwrap_or(Answer::Once(result)))
    }

    /// What runs is to stay.
    ///
    /// # Errors
    /// There is nothing to confirm, or it cannot be kept.
    pub(super) fn confirm(&mut self) -> Result<Value, Failure> {
        let Some(pending) = self.transactions.pending.take() else {
            let why = self
                .transactions
                .ended
                .as_ref()
                .map(|why| format!(": the last change was rolled back, {why}"));
            return Err(Failure::failed(format!("nothing waits to be confirmed{}", why.unwrap_or_default())));
        };
        if let Err(why) = self.transactions.keep() {
            self.transactions.pending = Some(pending);
            return Err(Failure::failed(why));
        }
        if let Some((ask, result)) = pending.asks {
            // Whoever has left wants no answer.
            let _ = ask.send(Ok(result));
        }
        log::info(if pending.stays { "the change stays" } else { "the change was confirmed" });
        Ok(json!({"confirmed": true}))
    }

    /// Goes back to what ran before. After a change that was confirmed, going back twice is going nowhere.
    ///
    /// # Errors
    /// Nothing ran before, or it cannot be put to work.
    pub(super) fn rollback(&mut self, why: &str) -> Result<Value, Failure> {
        let Some(sources) = self.transactions.previous.clone() else {
            return Err(Failure::failed("there is nothing to go back to".to_owned()));
        };
        let (config, _) = Config::from_sources(&sources)?;
        let changes = diff::changes(&self.transactions.applied, &config);
        if !changes.restart.is_empty() {
            return Err(Failure::reported(1, changes.restart));
        }
        // What ran before is not refused for what the host's routes have become: a tunnel that they lead into one is held.
        let prepared = self.prepare(config.clone(), Nested::Held)?;
        let pending = self.transactions.pending.take();
        let left = std::mem::replace(&mut self.transactions.sources, sources);
        let (older, asks) = pending.map_or((Some(left), None), |pending| (pending.older, pending.asks));
        self.transactions.previous = older;
        self.transactions.applied = config;
        self.put(prepared);
        // What runs counts: where it cannot be kept, the next start decides by what was kept before.
        if let Err(why) = self.transactions.keep() {
            log::error(why);
        }
        log::warn(format_args!("rolled back, {why}: {}", summary(&changes)));
        if let Some((ask, _)) = asks {
            let _ = ask.send(Err(Failure::failed(format!("rolled back, {why}"))));
        }
        self.transactions.ended = Some(why.to_owned());
        Ok((&changes).into())
    }

    /// Rolls back what nobody has confirmed in time, or what has cut off an address that is watched.
    pub(super) fn expire(&mut self) {
        let Some(pending) = &mut self.transactions.pending else { return };
        let why = if let Some(address) = pending.watch.as_ref().and_then(Watching::lost) {
            // Whatever becomes of the rollback, it does not stay.
            (pending.until, pending.stays) = (uptime(), false);
            format!("as {address} has stopped answering")
        } else if uptime() < pending.until {
            return;
        } else if pending.stays {
            match self.confirm() {
                Ok(_) => return,
                Err(failure) => format!("as it cannot be kept: {}", failure.lines().join("; ")),
            }
        } else {
            "as nobody confirmed it in time".to_owned()
        };
        if let Err(failure) = self.rollback(&why) {
            log::error(format_args!("cannot roll back, and tries again: {}", failure.lines().join("; ")));
            if let Some(pending) = &mut self.transactions.pending {
                pending.until = uptime() + AGAIN;
            }
        }
    }

    /// Applies the file that the daemon was started with, as it is now.
    pub(super) fn reload(&mut self) {
        let file = self.transactions.file.clone();
        let applied = Config::load_with_sources(&file).map_err(Failure::from).and_then(
            |(config, warnings, sources)| {
                self.apply(Proposal { sources, config, warnings, watch: None }, None)
            },
        );
        if let Err(failure) = applied {
            log::error(format_args!("{} is not applied: {}", file.display(), failure.lines().join("; ")));
        }
    }

    /// Takes a tunnel up or down, until it is told otherwise, or the daemon ends.
    ///
    /// # Errors
    /// There is no such tunnel, or it cannot be.
    pub(super) fn switch(&mut self, name: &str, up: bool) -> Result<Value, Failure> {
        self.named(name)?;
        let before = self.transactions.hands.insert(name.to_owned(), up);
        match self.prepare(self.transactions.applied.clone(), Nested::Refused) {
            Ok(prepared) => {
                self.put(prepared);
                log::info(format_args!("tunnel {name:?}: taken {} by hand", if up { "up" } else { "down" }));
                Ok(json!({"tunnel": name, "enabled": up}))
            }
            Err(failure) => {
                self.transactions.hands.remove(name);
                self.transactions.hands.extend(before.map(|before| (name.to_owned(), before)));
                Err(failure)
            }
        }
    }

    /// What strongSwan was told of a tunnel, beside what it has.
    ///
    /// # Errors
    /// There is no such tunnel, or nobody negotiates its keys.
    pub(super) fn show_ike(&mut self, name: &str) -> Result<Value, Failure> {
        self.named(name)?;
        let shown = self.keys.show_ike(name, Instant::now());
        shown.map(|report| json!(report)).map_err(|why| Failure::failed(format!("tunnel {name:?}: {why}")))
    }

    /// New keys for a tunnel.
    ///
    /// # Errors
    /// There is no such tunnel, nobody negotiates its keys, or it has none yet.
    pub(super) fn rekey(&mut self, name: &str) -> Result<Value, Failure> {
        let rekeyed = match self.named(name)?.protect {
            Protect::None => Err("it is not protected, and has no keys".to_owned()),
            Protect::Manual(_) => {
                Err("its keys are fixed, and nobody negotiates others: change them and their SPIs on both \
                 ends, and `culvert apply` them"
                    .to_owned())
            }
            Protect::Ike(_) => self.keys.rekey(name, Instant::now()),
        };
        rekeyed
            .map(|()| json!({"rekeying": name}))
            .map_err(|why| Failure::failed(format!("tunnel {name:?}: {why}")))
    }

    fn named(&self, name: &str) -> Result<&Tunnel, Failure> {
        let named = self.transactions.applied.tunnels.iter().find(|tunnel| tunnel.name == name);
        named.ok_or_else(|| Failure::usage(format!("tunnel {name:?}: there is none of this name")))
    }

    /// Step 2. Changes nothing that packets see.
    fn prepare(&mut self, mut wanted: Config, nesting: Nested) -> Result<Prepared, Failure> {
        let now = Instant::now();
        for tunnel in &mut wanted.tunnels {
            tunnel.enabled = self.transactions.hands.get(&tunnel.name).copied().unwrap_or(tunnel.enabled);
        }
        let config = self.transactions.numbers.arrange(&self.config, wanted, now);
        self.interfaces.free(&config);
        let mut tunnels = self.kept.succeed(&self.config.tunnels, &config.tunnels)?;
        super::carp::assign(&self.active(), &config.tunnels, &mut tunnels);
        let (mut learned, mut touched) = (self.learned.clone(), BTreeSet::new());
        learned.path_mtus.resize(config.tunnels.len(), None);
        learned.liveness.resize(config.tunnels.len(), None);
        let none = Tunnel::vacant();
        let count = config.tunnels.len().max(self.config.tunnels.len());
        for number in 0..count {
            let of = |config: &Config| config.tunnels.get(number).cloned().unwrap_or_else(|| none.clone());
            let (old, new) = (of(&self.config), of(&config));
            if diff::same_tunnel(&old, &new) {
                continue;
            }
            touched.insert(number);
            let same =
                plan::same_ends(&old, &new) && old.checksum == new.checksum && old.enabled && new.enabled;
            if let Some(path) = learned.path_mtus.get_mut(number).filter(|_| !same) {
                *path = None;
            }
            if let Some(liveness) = learned.liveness.get_mut(number)
                && !(same && old.keepalive == new.keepalive)
            {
                *liveness = None;
            }
        }
        // Those that a [[route]] leads into, or led into, have it on their interfaces.
        for route in self.config.routes.iter().chain(&config.routes) {
            if let crate::config::RouteTarget::Tunnel(name) = &route.target {
                touched.extend(config.tunnels.iter().position(|tunnel| tunnel.name == *name));
            }
        }
        let before = std::mem::replace(&mut self.kept.tunnels, tunnels);
        self.host.follow_tunnels(&config);
        let made_of = MadeOf {
            host: self.host.tables(),
            links: self.host.links(),
            stations: learned.stations.clone(),
            path_mtus: learned.path_mtus.clone(),
            generation: self.generation,
        };
        let moved = |number: &usize| {
            let remote =
                |config: &Config| config.tunnels.get(*number).map(|tunnel| (tunnel.remote, tunnel.enabled));
            remote(&self.config) != remote(&config)
        };
        let holds = self.holds.without(touched.iter().copied().filter(moved));
        let built =
            assemble::build(&known(&plan::as_it_is(&config, &self.kept), &self.kept, &made_of, &holds, now));
        let tunnels = std::mem::replace(&mut self.kept.tunnels, before);
        let built = built.map_err(|error| Failure::configuration(&[plan::explain(&error, &config)]));
        let nested = match (nesting, &built) {
            (Nested::Refused, Ok(built)) => self.newly_nested(built, &config),
            _ => Vec::new(),
        };
        match built {
            Ok(built) if nested.is_empty() => {
                Ok(Prepared { config, tunnels, made_of, learned, built, touched })
            }
            refused => {
                self.host.follow_tunnels(&self.config);
                Err(refused.err().unwrap_or_else(|| Failure::configuration(&nested)))
            }
        }
    }

    /// Tunnels that the new configuration would lead into tunnels, against what they may.
    fn newly_nested(&self, built: &Built, config: &Config) -> Vec<Problem> {
        let before = &self.view.placed;
        let held = built.placed.held.iter().map(|(tunnel, held)| (tunnel, &held.detour));
        let new = held
            .chain(&built.placed.nested)
            .filter(|(tunnel, _)| !before.held.contains_key(tunnel) && !before.nested.contains_key(tunnel));
        new.map(|(_, detour)| detour.problem(config)).collect()
    }

    /// Step 4.
    fn put(&mut self, prepared: Prepared) {
        let Prepared { config, tunnels, made_of, learned, built, touched } = prepared;
        let now = Instant::now();
        let Built { tables, routes, setup, neighbours, placed } = built;
        let moved: Vec<usize> = touched
            .iter()
            .copied()
            .filter(|number| {
                let of = |config: &Config| {
                    config.tunnels.get(*number).map(|tunnel| (tunnel.remote, tunnel.enabled))
                };
                of(&self.config) != of(&config)
            })
            .collect();
        self.recording.keep_ahead(&self.kept, now);
        self.tables.store(Arc::new(tables));
        self.kept.take_over(tunnels);
        self.holds = self.holds.without(moved.into_iter());
        self.holds.remember(&placed, now);
        self.transactions.numbers.took_over(&self.config.tunnels, &config.tunnels, now);
        log::configure(&config.log);
        let before = std::mem::replace(&mut self.config, config);
        (self.made_of, self.learned) = (made_of, learned);
        self.told.tunnels.resize(self.config.tunnels.len(), None);
        for number in &touched {
            if let Some(told) = self.told.tunnels.get_mut(*number) {
                *told = None;
            }
        }
        self.carp.steer(&self.config.carp, now);
        self.take_view(routes, neighbours, placed, &setup);
        self.interfaces.change(&before, &self.config, &touched);
        self.put_to_use(setup);
        self.steer_keys();
        self.steer_partner();
        // Groups that are new.
        self.follow_carp(now);
        self.tell_all(now);
        self.note_change();
    }
}

/// What no daemon can run.
fn unfit(config: &Config) -> Result<(), Failure> {
    let refused: Vec<Problem> = refuse(config).into_iter().chain(devices::refuse(config)).collect();
    if refused.is_empty() { Ok(()) } else { Err(Failure::configuration(&refused)) }
}

fn summary(changes: &Changes) -> String {
    changes.describe().lines().rfind(|line| !line.starts_with("takes")).unwrap_or_default().to_owned()
}
