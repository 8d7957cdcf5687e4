//! How the daemon comes to run, from the host's state to threads: steps 3 and 4 of the [module page](super).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, unbounded};
use culvert_engine::exception::thread::{Event, Exceptions};
use culvert_engine::trace::Taps;
use culvert_engine::worker::Worker;
use ring::rand::{SecureRandom, SystemRandom};

use super::assemble::{self, Built};
use super::bell::Bell;
use super::exceptions::{Bells, ExceptionThread};
use super::follow::{self, Host};
use super::hold::Holds;
use super::interfaces::TunnelInterfaces;
use super::privileges::Privileges;
use super::recording::Recording;
#[cfg(target_os = "linux")]
use super::steering;
use super::tables::{MadeOf, View, known};
use super::threads::{self, Others, WorkerThread};
use super::transact::Transactions;
use super::watch::Watches;
use super::{Daemon, LOOK, Learned, Told, carp, devices, log, pair, ready, sync};
use crate::Failure;
use crate::carp::Followed;
use crate::carp::hooks::Hooks;
use crate::keys::Keys;
use crate::plan::{self, Kept};

/// How long a start waits for the tunnels' interfaces: with a few hundred, all are there at `ready`. Linux takes a minute for ten
/// thousand; tunnels forward meanwhile.
const FIRST_INTERFACES: Duration = Duration::from_millis(500);

impl Daemon {
    /// Steps 3 and 4.
    pub(super) fn start(
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
        kept.masters = carp::masters(&carp);
        carp::assign(&kept.masters, &config.tunnels, &mut kept.tunnels);
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
        workers: Vec<Worker>,
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
}
