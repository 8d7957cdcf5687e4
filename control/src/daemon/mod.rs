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
//! It stops (`Daemon::stop`) when it has handed over what it shares with another router (`Daemon::is_to_end`): devices are given back to the host first, while the workers still take out of the rings what
//! had been directed to them; then the tunnels' interfaces go, then threads and rings; the socket's file last.

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
mod privileges;
mod ready;
mod recording;
mod server;
mod service;
mod show;
pub(crate) mod status;
#[cfg(any(target_os = "linux", test))]
mod steering;
mod stream;
mod sync;
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

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use culvert_engine::counters::WorkerCounters;
use culvert_engine::exception::keepalive::Liveness;
use culvert_engine::exception::neighbour;
use culvert_engine::exception::thread::{Event, Exceptions, Order, Setup};
use culvert_engine::fib::Prefix;
use culvert_engine::ring::Health;
use culvert_engine::tables::{Gateway, NeighbourSpec, Published};
use culvert_engine::trace::Taps;
use culvert_engine::wire::ethernet::MacAddr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ring::rand::{SecureRandom, SystemRandom};

use self::assemble::{Built, Known, Link};
use self::devices::OpenPort;
use self::exceptions::{Bells, ExceptionThread};
use self::follow::Host;
use self::hold::{Holds, Placed};
use self::interfaces::TunnelInterfaces;
use self::offloads::OffloadFile;
use self::privileges::{Needs, Privileges};
use self::recording::Recording;
use self::server::{Endpoint, Query};
use self::service::Signals;
use self::threads::{Others, WorkerThread};
use self::transact::{Proposal, Transactions};
use self::watch::Watches;
use self::yielding::Yielded;
use crate::carp::Followed;
use crate::carp::checks::Checks;
use crate::carp::hooks::Hooks;
use crate::config::{Config, Local, Problem, Protect, Tunnel};
use crate::keys::Keys;
use crate::plan::{self, Kept};
use crate::routes::HostTables;
use crate::{Failure, cli, replay};

pub(crate) use bell::Bell;
pub(crate) use devices::netmap_options;
pub(crate) use live::{Live, live};
pub use server::SOCKET;
pub use show::run as show;
pub use status::What;
#[cfg(test)]
pub(crate) use status::schema;
pub use top::run as top;

/// How long changes are collected before tables are built of them: a link that comes up brings a dozen within this time.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The same while interfaces are made, each of which is a change: tables of thousands of tunnels take longer than a few of those.
const DEBOUNCE_BEHIND: Duration = Duration::from_millis(500);
/// How long a start waits for the tunnels' interfaces: with a few hundred, all are there at `ready`. Linux takes a minute for ten
/// thousand; tunnels forward meanwhile.
const FIRST_INTERFACES: Duration = Duration::from_millis(500);
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

/// What tables are built of, as far as it changes: equal, and there is nothing to build.
#[derive(Debug, Clone, Default, PartialEq)]
struct MadeOf {
    host: HostTables,
    links: Vec<Link>,
    stations: BTreeMap<(usize, IpAddr), MacAddr>,
    path_mtus: Vec<Option<u16>>,
    /// Of negotiated SAs, and of roles.
    generation: u64,
}

/// What is shown of the tables.
#[derive(Default)]
struct View {
    routes: BTreeMap<Prefix, Gateway>,
    neighbours: Vec<NeighbourSpec>,
    /// By port, address and MTU in bytes.
    links: Vec<(MacAddr, u16)>,
    placed: Placed,
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
    /// Steps 3 and 4.
    fn start(
        (transactions, mut recording): (Transactions, Recording),
        privileges: Privileges,
        keys: Keys,
        (hooks, readiness): (Hooks, ready::Readiness),
        bell: &Arc<Bell>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Daemon, Failure> {
        let started = Instant::now();
        let config = transactions.config().clone();
        let mut host =
            Host::new(follow::source().map_err(Failure::failed)?, &config).map_err(Failure::failed)?;
        let cores = threads::cores();
        let devices = devices::open(&config, cores.len(), host.longest())?;
        // TAP interfaces have come with that.
        host.follow();
        let ledger = recording.ledger(config.carp.router);
        let mut kept = Kept::with(&config, devices.shares.len(), ledger)?;
        recording.keep_ahead(&kept, started);
        let mut carp = Followed::new(crate::carp::source());
        carp.steer(&config.carp, started);
        let turns = carp.look(host.state(), |_| None, started);
        turns.iter().for_each(carp::tell);
        carp::assign(&carp::masters(&carp), &config.tunnels, &mut kept.tunnels);
        let count = config.tunnels.len();
        let learned =
            Learned { path_mtus: vec![None; count], liveness: vec![None; count], ..Learned::default() };
        let made_of = MadeOf {
            host: host.tables(),
            links: host.links(),
            stations: BTreeMap::new(),
            path_mtus: learned.path_mtus.clone(),
            generation: 0,
        };
        let (mut holds, now) = (Holds::default(), Instant::now());
        let built = assemble::build(&known(&config, &kept, &made_of, &holds, now))
            .map_err(|error| Failure::configuration(&[plan::explain(&error, &config)]))?;
        let Built { tables, routes, setup, neighbours, placed } = built;
        holds.remember(&placed, now);
        let tables = tables.publish();

        let (orders, ordered) = unbounded();
        let (told, events) = unbounded();
        let mut secret = [0; 8];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| Failure::failed("run: the system gives no random numbers".to_owned()))?;
        let taps = Taps::new(devices.shares.len());
        let workers = (0..).zip(devices.shares).map(|(number, share)| {
            let (worker, wire) = share.into_worker(number, &tables);
            let settled = Arc::clone(worker.settled());
            (worker.with_taps(&taps), (wire, settled))
        });
        let (workers, wires): (Vec<_>, Vec<_>) = workers.unzip();
        let exceptions = Exceptions::new(&tables, wires, ordered, told.clone(), u64::from_ne_bytes(secret));
        let mut counters: Vec<_> = workers.iter().map(|worker| Arc::clone(worker.counters())).collect();
        counters.push(Arc::clone(exceptions.counters()));

        let ports = devices.ports.len();
        let mut daemon = Daemon {
            interfaces: TunnelInterfaces::new(devices.tunnels, &config).map_err(Failure::failed)?,
            kept,
            host,
            ports: devices.ports,
            tables,
            workers: Vec::with_capacity(workers.len()),
            exceptions: None,
            exceptions_bell: Arc::new(Bell::new().map_err(|error| Failure::failed(format!("run: {error}")))?),
            counters,
            orders,
            events,
            bell: Arc::clone(bell),
            stop: Arc::clone(stop),
            started,
            learned,
            made_of,
            view: View::default(),
            holds,
            changed: None,
            look: started + LOOK,
            told: Told {
                tunnels: vec![None; count],
                health: vec![None; ports],
                reattach: vec![None; ports],
                ..Told::default()
            },
            watches: Watches::default(),
            taps,
            transactions,
            recording,
            privileges,
            keys,
            carp,
            partner: sync::Partner::default(),
            pair: pair::Pair::default(),
            yielded: None,
            leaves: None,
            hooks,
            readiness,
            generation: 0,
            #[cfg(target_os = "linux")]
            steering: steering::Steering::default(),
            config,
        };
        daemon.take_view(routes, neighbours, placed, &setup);
        daemon.put_to_use(setup);
        for port in &mut daemon.ports {
            let up = daemon.host.link_state(port.link());
            port.follow(up);
        }
        // The partner is looked for meanwhile.
        daemon.steer_partner();
        daemon.begin_interfaces();
        if let Some((tunnel, why)) = daemon.interfaces.trouble() {
            let name = daemon.config.tunnels.get(tunnel).map_or("?", |tunnel| &tunnel.name);
            let failure = Failure::failed(format!("tunnel {name:?}: {why}"));
            daemon.stop();
            return Err(failure);
        }
        daemon.steer_keys();
        daemon.run_hooks(&turns);
        // What the tunnels' interfaces brought about on the host.
        daemon.host.follow();
        daemon.rebuild();
        match daemon.start_threads(workers, exceptions, told, &cores) {
            Ok(()) => Ok(daemon),
            Err(error) => {
                daemon.stop();
                Err(Failure::failed(format!("threads: {error}")))
            }
        }
    }

    fn start_threads(
        &mut self,
        workers: Vec<culvert_engine::worker::Worker>,
        exceptions: Exceptions,
        events: Sender<Event>,
        cores: &[usize],
    ) -> io::Result<()> {
        let bells: Vec<Arc<Bell>> =
            workers.iter().map(|_| Bell::new().map(Arc::new)).collect::<io::Result<_>>()?;
        for (number, worker) in workers.into_iter().enumerate() {
            let Some(bell) = bells.get(number).cloned() else { continue };
            let others = bells.iter().enumerate().filter(|(other, _)| *other != number);
            let others = Others {
                peers: others.map(|(_, bell)| Arc::clone(bell)).collect(),
                exceptions: Some(Arc::clone(&self.exceptions_bell)),
            };
            let core = number.checked_rem(cores.len()).and_then(|nth| cores.get(nth)).copied();
            let idle = self.config.engine.idle;
            self.workers.push(WorkerThread::start(number, worker, (bell, others), core, idle)?);
        }
        let bells =
            Bells { own: Arc::clone(&self.exceptions_bell), workers: bells, control: Arc::clone(&self.bell) };
        self.exceptions = Some(ExceptionThread::start(exceptions, events, bells, self.started)?);
        Ok(())
    }

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

    fn rebuild_due(&self) -> Option<Instant> {
        let collect = if self.interfaces.are_behind() { DEBOUNCE_BEHIND } else { DEBOUNCE };
        self.changed.map(|since| since + collect)
    }

    fn note_change(&mut self) {
        self.changed.get_or_insert_with(Instant::now);
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

    /// Builds and publishes new tables, where they would differ. On an error, the last good ones stay.
    fn rebuild(&mut self) {
        self.changed = None;
        let made_of = MadeOf {
            host: self.host.tables(),
            links: self.host.links(),
            stations: self.learned.stations.clone(),
            path_mtus: self.learned.path_mtus.clone(),
            generation: self.generation,
        };
        let now = Instant::now();
        if made_of == self.made_of && self.holds.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let config = plan::as_it_is(&self.config, &self.kept);
        let known = known(&config, &self.kept, &made_of, &self.holds, now);
        let built = match assemble::build(&known) {
            Ok(built) => built,
            Err(error) => {
                let error = plan::explain(&error, &config).to_string();
                self.holds.postpone(now);
                if self.told.build.as_ref() != Some(&error) {
                    log::error(format_args!("the tables stay as they are: {error}"));
                    self.told.build = Some(error);
                }
                return;
            }
        };
        self.told.build = None;
        self.made_of = made_of;
        let Built { tables, routes, setup, neighbours, placed } = built;
        self.holds.remember(&placed, now);
        self.tables.store(Arc::new(tables));
        log::debug(format_args!("new tables: {} routes, {} neighbours", routes.len(), neighbours.len()));
        self.take_view(routes, neighbours, placed, &setup);
        self.put_to_use(setup);
    }

    fn take_view(
        &mut self,
        routes: BTreeMap<Prefix, Gateway>,
        neighbours: Vec<NeighbourSpec>,
        placed: Placed,
        setup: &Setup,
    ) {
        self.tell_placed(&placed);
        self.view = View {
            routes,
            neighbours,
            links: setup
                .ports
                .iter()
                .zip(assemble::mtus(&self.config, &self.made_of.links))
                .map(|(port, mtu)| (port.mac, mtu))
                .collect(),
            placed,
        };
    }

    /// Makes everybody else follow tables that have just been published.
    fn put_to_use(&mut self, setup: Setup) {
        // The thread ends with this one.
        let _ = self.orders.send(Order::Setup(setup));
        self.exceptions_bell.wake();
        let tables = self.tables.load_full();
        self.host.want(tables.wanted_neighbours());
        self.interfaces.apply(&self.config, &self.mtus());
        #[cfg(target_os = "linux")]
        self.steering.set(
            &plan::as_it_is(&self.config, &self.kept),
            &self.kept,
            &self.view.routes,
            &mut self.ports,
        );
        self.tell_tunnels();
    }

    /// Makes the first interfaces.
    fn begin_interfaces(&mut self) {
        let end = Instant::now() + FIRST_INTERFACES;
        while self.interfaces.are_behind() && Instant::now() < end {
            self.interfaces.go_on(&self.config, &self.mtus());
        }
        if self.interfaces.are_behind() {
            log::info("interfaces of tunnels are still being made; all tunnels forward");
        }
    }

    /// Makes all interfaces that there should be, however long it takes.
    fn finish_interfaces(&mut self) {
        while self.interfaces.are_behind() {
            self.interfaces.go_on(&self.config, &self.mtus());
        }
    }

    /// The tunnels' MTUs as their hosts know them, in bytes.
    fn mtus(&self) -> Vec<usize> {
        let tables = self.tables.load();
        let tunnels = self.config.tunnels.iter().zip(tables.tunnels());
        tunnels.map(|(config, tunnel)| replay::inner_mtu(config, tunnel)).collect()
    }

    /// Ports whose links were switched off are kept away from them, and go on with them.
    fn follow_links(&mut self) {
        #[cfg_attr(
            not(target_os = "freebsd"),
            allow(unused_variables, reason = "threads sleep on FreeBSD alone")
        )]
        for (number, port) in self.ports.iter_mut().enumerate() {
            let up = self.host.link_state(port.link());
            let asleep = port.follow(up);
            // Elsewhere, nobody sleeps.
            #[cfg(target_os = "freebsd")]
            if asleep && let Err(error) = port.wake_sleepers() {
                let link = port.link();
                let name = self.config.ports.get(number).map_or("?", |port| &port.name);
                log::port(name).error(format_args!(
                    "{link} is down and packets may wait in all ports until it is up: {error}"
                ));
            }
        }
    }

    /// Devices and interfaces that went away and came back are taken again.
    fn look_after(&mut self) {
        for (number, port) in self.ports.iter_mut().enumerate() {
            let name = self.config.ports.get(number).map_or("?", |port| &port.name);
            let link = port.link().to_owned();
            if port.is_back(self.host.link_state(&link)) {
                let trouble = match port.reattach() {
                    Ok(true) => {
                        log::port(name).info(format_args!("{link} is back and held again"));
                        None
                    }
                    Ok(false) => None,
                    Err(error) => Some(error),
                };
                if let Some(last) = self.told.reattach.get_mut(number)
                    && *last != trouble
                {
                    trouble
                        .iter()
                        .for_each(|why| log::port(name).error(format_args!("{link} is back, but: {why}")));
                    *last = trouble;
                }
            }
            let health = port.health();
            if let Some(last) = self.told.health.get_mut(number)
                && last.replace(health) != Some(health)
            {
                match health {
                    Health::Attached => log::port(name).info(format_args!("{link} is up")),
                    Health::Down => log::port(name).warn(format_args!("{link} is down")),
                    Health::Departed => log::port(name).warn(format_args!("{link} is gone")),
                }
            }
        }
        self.follow_carp(Instant::now());
        self.look_after_partner();
        self.announce_splits();
        self.follow_readiness(Instant::now());
        log::look_after();
        privileges::tell_refused();
        let mtus = self.mtus();
        if self.interfaces.restore(&self.config, &mtus) {
            self.note_change();
        }
        self.tell_tunnels();
    }

    /// Is a tunnel up? If not, why.
    fn state(&self, number: usize) -> Result<(), String> {
        let tables = self.tables.load();
        let down = |why: &str| Err(why.to_owned());
        let (Some(config), Some(tunnel)) = (self.config.tunnels.get(number), tables.tunnels().get(number))
        else {
            return down("unknown");
        };
        if !config.enabled {
            return down("switched off");
        }
        if let Some(why) = self.backup(number) {
            return Err(why);
        }
        if let Some(detour) = self.view.placed.nested.get(&number) {
            return Err(format!("nested: {}", detour.path(&self.config)));
        }
        if !matches!(config.protect, Protect::None) && tunnel.outbound().next().is_none() {
            return Err(self.keys.trouble(&config.name).unwrap_or_else(|| "no SA".to_owned()));
        }
        let port = match tunnel.way_out() {
            Err(culvert_engine::drops::Reason::NoNeighbour) => return down("no neighbour"),
            Err(culvert_engine::drops::Reason::Nested) => {
                return down("the tunnel that its packets go into has no way out");
            }
            Err(_) => return down("no way out"),
            Ok(port) => port,
        };
        if let Some(carrier) = tunnel.carrier()
            && let Err(why) = self.state(carrier)
        {
            return Err(format!("tunnel {:?}, which carries it, is down: {why}", self.name_of(carrier)));
        }
        let name = self.config.ports.get(port).map_or("?", |port| &port.name);
        match self.ports.get(port).map(OpenPort::health) {
            Some(Health::Attached) | None => {}
            Some(Health::Down) => return Err(format!("port {name} is down")),
            Some(Health::Departed) => return Err(format!("port {name} is gone")),
        }
        match self.learned.liveness.get(number).copied().flatten() {
            Some(Liveness::Down { .. }) => down("keepalives unanswered"),
            Some(Liveness::Up { .. } | Liveness::Unknown) | None => Ok(()),
        }
    }

    /// Logs tunnels that went up or down.
    fn tell_tunnels(&mut self) {
        for number in 0..self.config.tunnels.len() {
            if self.config.tunnels.get(number).is_some_and(Tunnel::is_vacant) {
                continue;
            }
            let state = self.state(number);
            let Some(last) = self.told.tunnels.get_mut(number) else { continue };
            if last.as_ref() == Some(&state) {
                continue;
            }
            *last = Some(state.clone());
            let name = self.name_of(number);
            match state {
                Ok(()) => log::tunnel(name).info("up"),
                Err(why) => log::tunnel(name).warn(format_args!("down: {why}")),
            }
        }
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

fn known<'a>(
    config: &'a Config,
    kept: &'a Kept,
    made_of: &'a MadeOf,
    holds: &'a Holds,
    now: Instant,
) -> Known<'a> {
    Known {
        config,
        kept,
        links: &made_of.links,
        host: &made_of.host,
        found: &made_of.stations,
        path_mtus: &made_of.path_mtus,
        holds,
        now,
    }
}
