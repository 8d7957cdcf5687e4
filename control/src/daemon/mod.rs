//! `culvert run`: the daemon. One control thread, which this is; a thread for each worker; one for exceptions; and small ones
//! for signals and clients.
//!
//! It starts ([`run`]):
//! 1. The configuration is loaded; everything that is wrong with it, or that cannot be run, is told, and nothing was changed.
//! 2. It becomes the user that it is to be. The socket is taken, so that no second daemon touches the same devices; offloads
//!    that a killed daemon has left off are put back, and those that are on written down. Then privileges that are not needed any
//!    more are given up.
//! 3. The host's state is read, the devices are opened, the first tables built and published (`Daemon::start`).
//! 4. The tunnels' host interfaces are made, as many as there is time for (`FIRST_INTERFACES`), workers and the exception thread
//!    started, and steering is set.
//! 5. `ready` is printed.
//!
//! It runs (`Daemon::run`): what the host, the exception thread or time change ends in new tables, at most every
//! `DEBOUNCE`; clients are answered; devices and interfaces that went away and came back are taken again.
//!
//! It stops (`Daemon::stop`) when it has handed over what it shares with another router (`Daemon::is_to_end`): devices are given
//! back to the host first, while the workers still take out of the rings what had been directed to them; then the tunnels'
//! interfaces go, then threads and rings; the socket's file last.

mod assemble;
mod bell;
mod carp;
mod commands;
mod devices;
mod exceptions;
mod follow;
mod hold;
mod interfaces;
mod live;
mod log;
mod lookout;
mod metrics;
mod negotiation;
mod offloads;
mod pair;
mod placed;
mod ports;
mod privileges;
mod ready;
mod recording;
mod server;
mod service;
mod show;
mod start;
mod states;
pub(crate) mod status;
#[cfg(any(target_os = "linux", test))]
mod steering;
mod stream;
mod sync;
mod tables;
mod taps;
#[cfg(test)]
mod tests;
mod threads;
mod top;
mod transact;
mod view;
mod watch;
mod yielding;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use culvert_engine::counters::WorkerCounters;
use culvert_engine::exception::keepalive::Liveness;
use culvert_engine::exception::neighbour;
use culvert_engine::exception::thread::{Event, Order};
use culvert_engine::ring::Health;
use culvert_engine::tables::Published;
use culvert_engine::trace::Taps;
use culvert_engine::wire::ethernet::MacAddr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::devices::OpenPort;
use self::exceptions::ExceptionThread;
use self::follow::Host;
use self::hold::Holds;
use self::interfaces::TunnelInterfaces;
use self::offloads::OffloadFile;
use self::privileges::{Needs, Privileges};
use self::recording::Recording;
use self::server::{Endpoint, Query};
use self::service::Signals;
use self::tables::{MadeOf, View};
use self::threads::WorkerThread;
use self::transact::{Proposal, Transactions};
use self::watch::Watches;
use self::yielding::Yielded;
use crate::carp::Followed;
use crate::carp::checks::Checks;
use crate::carp::hooks::Hooks;
use crate::config::{Config, Local, Problem};
use crate::keys::Keys;
use crate::plan::Kept;
use crate::{Failure, cli};

pub(crate) use bell::Bell;
pub(crate) use devices::netmap_options;
pub(crate) use live::{Live, live};
pub use server::SOCKET;
pub use show::run as show;
pub use status::What;
#[cfg(test)]
pub(crate) use status::schema;
pub use top::run as top;

/// How often devices and interfaces are looked after.
const LOOK: Duration = Duration::from_secs(1);
/// Questions of clients that wait to be answered, at most.
const QUERIES: usize = 64;

/// Runs the daemon until it is told to end.
///
/// # Errors
/// Code 2 where the configuration is wrong or cannot be run; nothing was changed then. Code 1 where something cannot be had
/// from the system; everything is given back then.
pub fn run(arguments: &cli::Run) -> Result<(), Failure> {
    if !arguments.unlimited {
        privileges::keep_secrets();
    }
    let (config, warnings, sources) = Config::load_with_sources(&arguments.config)?;
    if let Some(level) = arguments.log {
        log::give_level(level);
    }
    log::configure(&config.log);
    warnings.iter().for_each(log::warn);
    let refused: Vec<Problem> = refuse(&config).into_iter().chain(devices::refuse(&config)).collect();
    if !refused.is_empty() {
        return Err(Failure::configuration(&refused));
    }
    let failed = |error: io::Error| Failure::failed(format!("run: {error}"));
    let signals = Signals::hold().map_err(failed)?;
    let bell = Arc::new(Bell::new().map_err(failed)?);
    let stop = Arc::new(AtomicBool::new(false));
    let reload = Arc::new(AtomicBool::new(false));
    let folder = transact::folder(arguments.state.as_deref(), &arguments.socket);
    let socket = privileges::become_user(arguments.user.as_deref(), &arguments.socket, folder.path())?;
    let endpoint = Endpoint::bind(&socket).map_err(Failure::failed)?;
    let written = vec![folder.path().to_owned(), privileges::folder_of(&socket)];
    let read = sources.paths().map(Path::to_owned).collect();
    let proposal = Proposal { sources, config, warnings, watch: None };
    let recording = Recording::open(folder.clone());
    let transactions = Transactions::open(folder, &arguments.config, proposal);
    log::configure(&transactions.config().log);
    let metrics = transactions.config().metrics.listen.and_then(metrics::Endpoint::bind);
    let offloads = OffloadFile::beside(&socket);
    offloads.restore();
    offloads.note(transactions.config()).map_err(Failure::failed)?;
    let carp = &transactions.config().carp;
    let hooks = Hooks::start(&carp.hooks, carp.router.name()).map_err(failed)?;
    let checks = Checks::start(&carp.checks, carp.router.name()).map_err(failed)?;
    let readiness = ready::Readiness::new(&socket, checks);
    let privileges =
        if arguments.unlimited { Ok(Privileges::all()) } else { privileges::limit(&Needs { read, written }) };
    let woken = Arc::clone(&bell);
    let keys = Keys::new(negotiation::places(&socket, &arguments.vici), move || woken.wake());
    let started = privileges.and_then(|privileges| {
        Daemon::start((transactions, recording), privileges, keys, (hooks, readiness), &bell, &stop)
    });
    if started.is_err() {
        // All has been given back.
        offloads.remove();
    }
    let mut daemon = started?;

    let (queries, asked) = bounded(QUERIES);
    let ready = signals
        .deliver(stop, Arc::clone(&reload), Arc::clone(&bell))
        .and_then(|()| metrics.map_or(Ok(()), |metrics| metrics.serve(queries.clone(), Arc::clone(&bell))))
        .and_then(|()| endpoint.serve(queries, bell))
        .map_err(failed)
        .and_then(|()| say_ready());
    if ready.is_ok() {
        daemon.run(&asked, &reload);
    }
    daemon.stop();
    offloads.remove();
    ready
}

fn say_ready() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "ready").and_then(|()| out.flush()).map_err(Failure::stdout)?;
    service::notify_ready();
    Ok(())
}

/// What no daemon can run.
fn refuse(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for tunnel in &config.tunnels {
        if let Local::Carp { group, address: None } = &tunnel.local {
            problems.push(Problem {
                what: format!("tunnel {:?}, local", tunnel.name),
                why: format!("nothing says which address {} is", tunnel.local),
                remedy: format!(
                    "add a [[carp.group]] with vhid = {}, interface = \"{}\" and its address",
                    group.vhid, group.interface
                ),
                at: Some(tunnel.at.clone()),
            });
        }
    }
    problems
}

/// The daemon, running.
struct Daemon {
    config: Config,
    kept: Kept,
    host: Host,
    ports: Vec<OpenPort>,
    interfaces: TunnelInterfaces,
    tables: Published,
    workers: Vec<WorkerThread>,
    exceptions: Option<ExceptionThread>,
    exceptions_bell: Arc<Bell>,
    /// The workers' counters, then the exception thread's.
    counters: Vec<Arc<WorkerCounters>>,
    orders: Sender<Order>,
    events: Receiver<Event>,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
    started: Instant,
    learned: Learned,
    /// What the tables were built of.
    made_of: MadeOf,
    /// What has been built last, but for the tables.
    view: View,
    /// Ways that tunnels have had and keep.
    holds: Holds,
    /// Since when something is otherwise than the tables have it.
    changed: Option<Instant>,
    /// When devices are looked after.
    look: Instant,
    told: Told,
    watches: Watches,
    /// Where traces and captures are opened.
    taps: Arc<Taps>,
    transactions: Transactions,
    /// How far the numbers of SAs with fixed keys are used.
    recording: Recording,
    privileges: Privileges,
    keys: Keys,
    carp: Followed,
    /// The other router of the pair.
    partner: sync::Partner,
    /// What it has said.
    pair: pair::Pair,
    /// This router has yielded.
    yielded: Option<Yielded>,
    /// The daemon was told to end, then, and hands over first.
    leaves: Option<Instant>,
    hooks: Hooks,
    readiness: ready::Readiness,
    /// Counts changes of negotiated SAs, and of roles.
    generation: u64,
    #[cfg(target_os = "linux")]
    steering: steering::Steering,
}

/// What the exception thread has found out.
#[derive(Debug, Clone, Default, PartialEq)]
struct Learned {
    stations: BTreeMap<(usize, IpAddr), MacAddr>,
    path_mtus: Vec<Option<u16>>,
    liveness: Vec<Option<Liveness>>,
}

/// What was told last, so that nothing is told twice.
#[derive(Default)]
struct Told {
    build: Option<String>,
    tunnels: Vec<Option<Result<(), String>>>,
    health: Vec<Option<Health>>,
    reattach: Vec<Option<String>>,
}

impl Daemon {
    /// Runs until it is told to end.
    fn run(&mut self, queries: &Receiver<Query>, reload: &AtomicBool) {
        self.follow_readiness(Instant::now());
        while !self.is_to_end(Instant::now()) {
            self.wait(queries);
            while let Ok(event) = self.events.try_recv() {
                self.hear(event);
            }
            let moved = self.host.follow();
            if moved {
                self.note_change();
                self.follow_links();
            }
            let asked = self.carp.deadline().is_some_and(|until| Instant::now() >= until);
            if moved || asked || self.carp.is_told() {
                self.follow_carp(Instant::now());
            }
            self.hear_partner();
            self.hear_hooks();
            while let Ok(query) = queries.try_recv() {
                if query.take() {
                    // A client that has left wants no answer.
                    let _ = query.answer.send(self.execute(query.command, query.proposal));
                }
            }
            if reload.swap(false, Ordering::Relaxed) {
                self.reload();
            }
            self.expire();
            if self.interfaces.are_behind() {
                self.interfaces.go_on(&self.config, &self.mtus());
                if !self.interfaces.are_behind() {
                    log::info("all tunnels' interfaces are made");
                }
            }
            let now = Instant::now();
            self.follow_checks(now);
            self.follow_yield(now);
            self.follow_keys(now);
            self.feed_watches(now);
            if self.recording.due().is_some_and(|due| now >= due) {
                self.recording.keep_ahead(&self.kept, now);
            }
            self.host.remind(now);
            if now >= self.look {
                self.look = now + LOOK;
                self.look_after();
            }
            if self.holds.deadline().is_some_and(|deadline| now >= deadline) {
                self.note_change();
            }
            if self.rebuild_due().is_some_and(|due| now >= due) {
                self.rebuild();
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, queries: &Receiver<Query>) {
        let now = Instant::now();
        let deadlines = [
            self.rebuild_due(),
            self.holds.deadline(),
            self.watches.due(),
            self.transactions.due(),
            self.recording.due(),
            self.interfaces.are_behind().then_some(now),
            self.keys.deadline(),
            self.pair.deadline(),
            self.leave_by(now),
            self.yielded.as_ref().and_then(Yielded::deadline),
            self.carp.deadline(),
            self.readiness.deadline(),
        ];
        let due = deadlines.into_iter().flatten().fold(self.look.min(self.host.deadline()), Instant::min);
        // Rounded up, so as not to look in vain.
        let wait = due.saturating_duration_since(now) + Duration::from_micros(999);
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::from(1_000_u16));
        let mut waited = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        // A source that is in trouble may be readable for ever.
        if !self.host.is_in_trouble() {
            waited.push(PollFd::new(self.host.wait_fd(), PollFlags::POLLIN));
        }
        waited.extend(self.carp.wait_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        waited.extend(self.readiness.wait_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        waited.extend(self.hooks.wait_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        self.bell.lie_down();
        let silent =
            self.events.is_empty() && queries.is_empty() && self.keys.is_silent() && self.partner.is_silent();
        if silent && !self.stop.load(Ordering::Relaxed) {
            // Whatever it says: what there is to do is looked for.
            let _ = poll(&mut waited, wait);
        }
        self.bell.get_up();
    }

    /// Takes in what the exception thread tells.
    fn hear(&mut self, event: Event) {
        match event {
            Event::Neighbour(neighbour::Change::Added(port, address, mac))
            | Event::Neighbour(neighbour::Change::Changed(port, address, mac)) => {
                self.learned.stations.insert((usize::from(port), address), mac);
            }
            Event::Neighbour(neighbour::Change::Removed(port, address)) => {
                self.learned.stations.remove(&(usize::from(port), address));
            }
            Event::Resolve { port, address } => return self.host.ask(usize::from(port), address),
            Event::PathMtu { tunnel, mtu } => {
                if let Some(learned) = self.learned.path_mtus.get_mut(tunnel as usize) {
                    *learned = Some(u16::try_from(mtu).unwrap_or(u16::MAX));
                    let name = self.name_of(tunnel as usize);
                    log::tunnel(name).info(format_args!("its path takes {mtu} bytes"));
                }
            }
            Event::Liveness { tunnel, liveness } => {
                if let Some(learned) = self.learned.liveness.get_mut(tunnel as usize) {
                    *learned = Some(liveness);
                }
                return self.tell_tunnels();
            }
        }
        self.note_change();
    }

    /// Devices and interfaces that went away and came back are taken again.
    fn look_after(&mut self) {
        self.look_after_ports();
        self.follow_carp(Instant::now());
        self.look_after_partner();
        self.announce_splits();
        self.hold_keys(Instant::now());
        self.follow_readiness(Instant::now());
        log::look_after();
        privileges::tell_refused();
        let mtus = self.mtus();
        if self.interfaces.restore(&self.config, &mtus) {
            self.note_change();
        }
        self.tell_tunnels();
    }

    /// Gives everything back. See the module page.
    fn stop(mut self) {
        std::mem::take(&mut self.watches).end("the daemon ends");
        self.readiness.end(!self.config.carp.groups.is_empty());
        drop(std::mem::take(&mut self.ports));
        privileges::tell_refused();
        self.interfaces.remove();
        let workers: Vec<_> = self.workers.into_iter().map(WorkerThread::stop).collect();
        let exceptions = self.exceptions.map(ExceptionThread::stop);
        if workers.iter().any(Option::is_none) || matches!(exceptions, Some(None)) {
            log::error("a thread had ended before it was told to");
        }
        self.recording.settle(&self.kept);
    }
}
