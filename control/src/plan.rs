//! From a configuration to the engine's tables: names become numbers, settings become specifications, and what the engine
//! finds contradictory comes back as problems of the configuration, with the names of the entries.
//!
//! A tunnel that is not enabled keeps its number and its state, and stands in the specification as one that no packet can
//! belong to: between addresses of "this network", with protection and without SAs.
//!
//! 1. What this kind of run cannot do is refused ([`replay`]: keys from IKE, addresses from CARP).
//! 2. Ports, tunnels with their SAs, routes and neighbours are put into a specification, in the configuration's order.
//! 3. The engine builds its tables.
//! 4. The tables are asked for the way to each tunnel's far end: none may lead deeper into tunnels than it may ([`nesting`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use culvert_engine::counters::{TunnelCounterBank, TunnelCounterSet};
use culvert_engine::esp::{self, InboundSa, OutboundSa};
use culvert_engine::fib;
use culvert_engine::gre::{self, Options, Sequences};
use culvert_engine::tables::{
    BuildError, Gateway, NeighbourSpec, PortSpec, RouteSpec, Stack, Tables, TablesSpec, To, TunnelSpec,
};
use culvert_engine::tunnel::{self, Protection};
use culvert_engine::wire::ethernet::MacAddr;

use crate::Failure;
use crate::config::{
    Config, Encapsulation, Group, Local, Mac, Manual, ManualSa, Mode, Mtu, Payload, Port, Position, Prefix,
    Problem, Protect, RouteTarget, Router, Suite, Tunnel, UdpEncap,
};
use crate::nesting::{Detours, Nesting};
use crate::transaction::ledger::{Ledger, Refused};

/// What a run starts with. Ports and tunnels have the numbers of their places in the configuration.
pub struct Plan {
    /// The tables that packets are looked up in.
    pub tables: Tables,
    /// The SAs that receive, for each tunnel, in the configuration's order.
    pub inbound: Vec<Vec<Arc<InboundSa>>>,
    /// The counters of each tunnel, one for each worker.
    pub counters: Vec<TunnelCounterSet>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The configuration cannot be put to work; never empty.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Configuration(Vec<Problem>),
    /// IVs cannot be chosen safely.
    #[error("the system gives no random numbers, without which no packet can be sealed safely")]
    Random,
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        match error {
            PlanError::Configuration(problems) => Failure::configuration(&problems),
            PlanError::Random => Failure::failed(format!("keys: {error}")),
        }
    }
}

/// The plan of a run over capture files by one worker. Such a run keeps no record, so the IVs of its SAs are from the part
/// that is set aside for runs like it, from a random place on (see `culvert_engine::esp::iv`).
///
/// # Errors
/// [`PlanError::Configuration`] where a tunnel's keys come from IKE or its address from CARP, where the engine finds a
/// contradiction, and where a tunnel is routed into tunnels deeper than it may; [`PlanError::Random`] when the system gives no random numbers.
pub fn replay(config: &Config) -> Result<Plan, PlanError> {
    let refused: Vec<Problem> = config.tunnels.iter().flat_map(needs_the_daemon).collect();
    if !refused.is_empty() {
        return Err(PlanError::Configuration(refused));
    }
    let kept = Kept::new(config, 1)?;
    let tables = build(specification(config, &kept), config).map_err(PlanError::Configuration)?;
    let nested = nested(config, &tables);
    if !nested.is_empty() {
        return Err(PlanError::Configuration(nested));
    }
    let inbound = kept.tunnels.iter().map(|tunnel| tunnel.inbound.clone()).collect();
    let counters = kept.tunnels.iter().map(|tunnel| tunnel.counters.clone()).collect();
    Ok(Plan { tables, inbound, counters })
}

/// What a run keeps when its tables are replaced: what packets change, so that no number is used twice and no count lost.
pub struct Kept {
    /// Workers that it is made for.
    pub workers: usize,
    /// For each tunnel, in the configuration's order.
    pub tunnels: Vec<KeptTunnel>,
    /// Groups of routers for which this one sends and receives.
    pub masters: Vec<Group>,
    /// Every SA that was made from a fixed key, those of tunnels that are gone as well.
    ledger: Ledger,
}

/// What a tunnel keeps. Clones are the same state.
#[derive(Clone)]
pub struct KeptTunnel {
    /// The SAs that send.
    pub outbound: Vec<Arc<OutboundSa>>,
    /// The SAs that receive, in the configuration's order.
    pub inbound: Vec<Arc<InboundSa>>,
    /// The UDP ports of its packets, where that was negotiated.
    pub udp: Option<tunnel::UdpEncap>,
    /// Its near and its far end, where negotiated SAs say so: they follow a NAT that changes its mind, and ends that move.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// Its counters, one for each worker.
    pub counters: TunnelCounterSet,
    /// GRE sequence numbers.
    pub sequences: Arc<Sequences>,
    /// When its SAs were made.
    pub installed: Instant,
    /// Another router holds its near end now: it sends nothing, and takes nothing in.
    pub backup: bool,
}

impl Kept {
    /// The state of a new run with `workers` workers: manual SAs with all their numbers before them, all counters 0. Nobody
    /// records what IVs are used, so they are from the part that is set aside for such runs, from a random place on (see
    /// `culvert_engine::esp::iv`).
    ///
    /// # Errors
    /// [`PlanError::Configuration`] for an SA that the engine does not take, [`PlanError::Random`] when the system gives no
    /// random numbers.
    pub fn new(config: &Config, workers: usize) -> Result<Kept, PlanError> {
        Kept::with(config, workers, Ledger::new(config.carp.router))
    }

    /// As [`Kept::new`], with the SAs of this ledger.
    ///
    /// # Errors
    /// As [`Kept::new`].
    pub fn with(config: &Config, workers: usize, ledger: Ledger) -> Result<Kept, PlanError> {
        let mut kept = Kept { ledger, ..Kept::without_sas(config, workers) };
        for (kept_tunnel, tunnel) in kept.tunnels.iter_mut().zip(&config.tunnels) {
            if let Protect::Manual(manual) = &tunnel.protect {
                install(kept_tunnel, manual, tunnel, &mut kept.ledger)?;
            }
        }
        Ok(kept)
    }

    /// The state of a run that sends nothing.
    pub fn without_sas(config: &Config, workers: usize) -> Kept {
        let mut bank = TunnelCounterBank::new(workers);
        let tunnels = config.tunnels.iter().map(|_| KeptTunnel::new(&mut bank)).collect();
        Kept { workers, tunnels, masters: Vec::new(), ledger: Ledger::new(config.carp.router) }
    }

    /// The state of the same run under another configuration, `tunnels` of it having the numbers of their places. A tunnel keeps
    /// what is its own as long as its name stays at its number: its counters always; its SAs while their keys, ends and
    /// parameters stay; its GRE sequence numbers while its ends and key do, and it has some. An SA that was there before, in
    /// whatever tunnel, is the same SA, and goes on beyond what it has used (see [`Ledger`]).
    ///
    /// # Errors
    /// As [`Kept::new`]. Nothing that is in use has changed then.
    pub fn succeed(&mut self, before: &[Tunnel], tunnels: &[Tunnel]) -> Result<Vec<KeptTunnel>, PlanError> {
        let mut bank = TunnelCounterBank::new(self.workers);
        let mut all = Vec::with_capacity(tunnels.len());
        for (number, tunnel) in tunnels.iter().enumerate() {
            let kept = self.tunnels.get(number).cloned();
            let before = before.get(number).filter(|before| before.name == tunnel.name);
            let mut kept = match (kept, before) {
                (Some(kept), Some(before)) if same_state(before, tunnel) => {
                    all.push(kept);
                    continue;
                }
                (Some(kept), Some(before)) => {
                    let same = before.sequence && tunnel.sequence && same_ends(before, tunnel);
                    let sequences = if same { kept.sequences } else { Arc::default() };
                    KeptTunnel {
                        outbound: Vec::new(),
                        inbound: Vec::new(),
                        udp: None,
                        ends: None,
                        sequences,
                        ..kept
                    }
                }
                (None, _) | (_, None) => KeptTunnel::new(&mut bank),
            };
            if let Protect::Manual(manual) = &tunnel.protect {
                install(&mut kept, manual, tunnel, &mut self.ledger)?;
            }
            all.push(kept);
        }
        Ok(all)
    }

    /// Takes what [`Kept::succeed`] gave.
    pub fn take_over(&mut self, tunnels: Vec<KeptTunnel>) {
        self.tunnels = tunnels;
        self.forget_some();
    }

    /// Every SA that was made from a fixed key.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Of what nobody has any more, only the latest is remembered.
    pub fn forget_some(&mut self) {
        self.ledger.forget_some();
    }
}

impl KeptTunnel {
    fn new(bank: &mut TunnelCounterBank) -> KeptTunnel {
        KeptTunnel {
            outbound: Vec::new(),
            inbound: Vec::new(),
            udp: None,
            ends: None,
            counters: bank.take(),
            sequences: Arc::default(),
            installed: Instant::now(),
            backup: false,
        }
    }
}

/// Is it the same tunnel to the far end, as GRE tells tunnels apart?
pub fn same_ends(one: &Tunnel, other: &Tunnel) -> bool {
    (&one.local, one.remote, one.key) == (&other.local, other.remote, other.key)
}

/// Do SAs and GRE sequence numbers stay as they are?
fn same_state(before: &Tunnel, after: &Tunnel) -> bool {
    let blank = |protect: &Protect| {
        let mut protect = protect.clone();
        protect.forget_places();
        protect
    };
    same_ends(before, after)
        && before.sequence == after.sequence
        && blank(&before.protect) == blank(&after.protect)
}

/// The tables as far as the configuration alone shows them: without any SA, and with a stand-in where CARP gives a tunnel
/// its address. No packet may be sent with them. Tunnels routed into tunnels are left to [`nested`].
///
/// # Errors
/// What the engine finds contradictory.
pub fn preview(config: &Config) -> Result<Tables, Vec<Problem>> {
    build(specification(config, &Kept::without_sas(config, 1)), config)
}

/// The graph of tunnels in tunnels that the tables' routes make.
pub fn nesting(config: &Config, tables: &Tables) -> Nesting {
    let carrier = |tunnel: &Tunnel| match tables.route(tunnel.remote).filter(|_| tunnel.enabled)?.to {
        To::Tunnel(index) => usize::try_from(index).ok(),
        To::Host
        | To::HostForwards
        | To::Station { .. }
        | To::Unresolved { .. }
        | To::Group(_)
        | To::Nowhere => None,
    };
    Nesting::new(config.tunnels.iter().map(carrier).collect(), limits(config))
}

/// How many tunnels the packets of each tunnel may be in.
pub fn limits(config: &Config) -> Vec<usize> {
    config.tunnels.iter().map(|tunnel| usize::from(tunnel.max_depth)).collect()
}

/// The tunnels whose packets would be in more tunnels than they may, a problem for each.
pub fn nested(config: &Config, tables: &Tables) -> Vec<Problem> {
    let nesting = nesting(config, tables);
    let detours = Detours::new(config);
    let nested = nesting.nested().filter_map(|tunnel| detours.of(&nesting, tunnel, None));
    nested.map(|detour| detour.problem(config)).collect()
}

/// The prefix of that address alone.
pub fn host_prefix(addr: IpAddr) -> Prefix {
    Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
}

/// A route that leads into a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct TunnelRoute<'c> {
    /// The destinations.
    pub prefix: Prefix,
    /// The tunnel's number.
    pub tunnel: usize,
    /// Where it stands in the configuration.
    pub at: &'c Position,
}

/// Does the tunnel carry IP packets now?
pub fn has_ip(tunnel: &Tunnel) -> bool {
    tunnel.enabled && tunnel.payload == Payload::Ip
}

/// Every route of the configuration that leads into a tunnel: `[[route]]`s, and the tunnels' own `routes` and `peer`. An
/// Ethernet tunnel carries frames of its port and takes no routes, and one that is not enabled takes none either.
pub fn tunnel_routes(config: &Config) -> impl Iterator<Item = TunnelRoute<'_>> {
    let numbers = numbers(config.tunnels.iter().map(|tunnel| &tunnel.name));
    let fixed = config.routes.iter().filter_map(move |route| match &route.target {
        RouteTarget::Tunnel(name) => {
            let tunnel = numbers.get(name.as_str()).copied()?;
            Some(TunnelRoute { prefix: route.prefix, tunnel, at: &route.at })
        }
        RouteTarget::Port { .. } => None,
    });
    let own = config.tunnels.iter().enumerate().flat_map(|(number, tunnel)| {
        let peer = tunnel.peer.map(host_prefix);
        let prefixes = tunnel.routes.iter().copied().chain(peer);
        prefixes.map(move |prefix| TunnelRoute { prefix, tunnel: number, at: &tunnel.at })
    });
    let carries_ip = |route: &TunnelRoute<'_>| config.tunnels.get(route.tunnel).is_some_and(has_ip);
    fixed.chain(own).filter(carries_ip)
}

/// The networks of the tunnels' `inner` addresses, which lead into the tunnel where nothing else claims them.
pub fn inner_networks(config: &Config) -> impl Iterator<Item = TunnelRoute<'_>> {
    config.tunnels.iter().enumerate().filter(|(_, tunnel)| has_ip(tunnel)).filter_map(|(number, tunnel)| {
        Some(TunnelRoute { prefix: tunnel.inner?.network(), tunnel: number, at: &tunnel.at })
    })
}

/// Is `address` one of the prefix's?
pub fn covers(prefix: Prefix, address: IpAddr) -> bool {
    prefix.addr.is_ipv4() == address.is_ipv4()
        && Prefix { addr: address, len: prefix.len }.network() == prefix.network()
}

/// The address that a port without a configured one sends from: 02:00:00:00 and the port's number in the file, counted
/// from 1.
pub fn stand_in_mac(port: usize) -> MacAddr {
    let [high, low] = u16::try_from(port).unwrap_or(u16::MAX).saturating_add(1).to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

/// Tunnels that only the daemon can run.
fn needs_the_daemon(tunnel: &Tunnel) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Local::Carp { .. } = &tunnel.local {
        problems.push(Problem {
            what: format!("tunnel {:?}, local", tunnel.name),
            why: format!("{} is an address that CARP gives, and capture files know no CARP", tunnel.local),
            remedy: "give the address itself: local = \"192.0.2.1\"".to_owned(),
            at: Some(tunnel.at.clone()),
        });
    }
    if let Protect::Ike(ike) = &tunnel.protect {
        problems.push(Problem {
            what: format!("tunnel {:?}, protect", tunnel.name),
            why: "its keys are negotiated by IKE, and capture files answer nobody".to_owned(),
            remedy: "give it fixed SAs, [[tunnel.protect.manual]], instead of `ike`".to_owned(),
            at: Some(ike.at.clone()),
        });
    }
    problems
}

/// Ports or tunnels by their names: their places in the configuration.
fn numbers<'c>(names: impl Iterator<Item = &'c String>) -> HashMap<&'c str, usize> {
    names.enumerate().map(|(number, name)| (name.as_str(), number)).collect()
}

/// What the configuration alone says, with the state that is kept.
pub fn specification(config: &Config, kept: &Kept) -> TablesSpec {
    let ports = numbers(config.ports.iter().map(|port| &port.name));
    let number = |name: &str| ports.get(name).copied();
    let to_ports = config.routes.iter().filter_map(|route| match &route.target {
        RouteTarget::Port { port, via } => Some(RouteSpec {
            prefix: prefix(route.prefix)?,
            gateway: Gateway::Port { port: number(port)?, via: *via },
        }),
        RouteTarget::Tunnel(_) => None,
    });
    let mut spec = TablesSpec {
        workers: kept.workers,
        ports: config.ports.iter().enumerate().map(|(number, port)| port_spec(number, port)).collect(),
        tunnels: Vec::with_capacity(config.tunnels.len()),
        routes: to_ports.collect(),
        neighbours: Vec::with_capacity(config.neighbours.len()),
    };
    for (place, (tunnel, kept)) in config.tunnels.iter().zip(&kept.tunnels).enumerate() {
        let bridge = tunnel.bridge.as_deref().and_then(number);
        spec.tunnels.push(tunnel_spec(place, tunnel, bridge, kept));
    }
    for route in tunnel_routes(config) {
        spec.routes.extend(
            prefix(route.prefix).map(|prefix| RouteSpec { prefix, gateway: Gateway::Tunnel(route.tunnel) }),
        );
    }
    for neighbour in &config.neighbours {
        spec.neighbours.extend(number(&neighbour.port).map(|port| NeighbourSpec {
            port,
            address: neighbour.address,
            mac: mac(neighbour.mac),
        }));
    }
    spec
}

fn port_spec(number: usize, port: &Port) -> PortSpec {
    PortSpec {
        mac: port.mac.map_or(stand_in_mac(number), mac),
        any_mac: port.mac.is_none(),
        shared: Vec::new(),
        mtu: port.mtu(),
        addresses: port.addresses.iter().map(|prefix| (prefix.addr, prefix.len)).collect(),
        stack: Stack::Shared,
        host_of: None,
    }
}

/// The configuration with the tunnels' ends where they are now: not where it says, if their SAs say something else. Two tunnels that
/// could no longer be told apart (RFC 2784: by their ends and key) stay where they were.
#[must_use]
pub fn as_it_is<'c>(config: &'c Config, kept: &Kept) -> Cow<'c, Config> {
    let now = |tunnel: &Tunnel, kept: &KeptTunnel| {
        let (local, remote) = kept.ends.filter(|_| tunnel.enabled)?;
        // An address that routers share stays where it is.
        let local = if tunnel.local.group().is_some() { tunnel.local.address()? } else { local };
        (tunnel.local.address() != Some(local) || tunnel.remote != remote).then_some((local, remote))
    };
    let moved: Vec<_> = (0..)
        .zip(config.tunnels.iter().zip(&kept.tunnels))
        .filter_map(|(number, (tunnel, kept))| Some((number, now(tunnel, kept)?)))
        .collect();
    if moved.is_empty() {
        return Cow::Borrowed(config);
    }
    let mut config = config.clone();
    let id = |tunnel: &Tunnel| (tunnel.local.address(), tunnel.remote, tunnel.key);
    let mut taken: HashMap<_, usize> = HashMap::new();
    config.tunnels.iter().for_each(|tunnel| *taken.entry(id(tunnel)).or_default() += 1);
    for (number, (local, remote)) in moved {
        let Some(tunnel) = config.tunnels.get_mut(number) else { continue };
        if taken.contains_key(&(Some(local), remote, tunnel.key)) {
            continue;
        }
        if let Some(left) = taken.get_mut(&id(tunnel)) {
            *left -= 1;
        }
        taken.retain(|_, tunnels| *tunnels > 0);
        tunnel.remote = remote;
        if tunnel.local.group().is_none() {
            tunnel.local = Local::Address(local);
        }
        taken.insert(id(tunnel), 1);
    }
    Cow::Owned(config)
}

fn tunnel_spec(place: usize, tunnel: &Tunnel, bridge: Option<usize>, kept: &KeptTunnel) -> TunnelSpec {
    if !tunnel.enabled {
        return stand_in_tunnel(place, kept);
    }
    let payload = match tunnel.payload {
        Payload::Ip => gre::Payload::Ip,
        Payload::Ethernet => gre::Payload::Ethernet,
    };
    TunnelSpec {
        local: local(place, tunnel),
        remote: tunnel.remote,
        inner: match tunnel.payload {
            Payload::Ip => tunnel.inner.iter().map(|prefix| (prefix.addr, prefix.len)).collect(),
            Payload::Ethernet => Vec::new(),
        },
        // Given as routes of the whole, so that what collides is told apart by name.
        routes: Vec::new(),
        gre: Options { key: tunnel.key, checksum: tunnel.checksum, sequence: tunnel.sequence, payload },
        ttl: tunnel.ttl,
        mtu: match tunnel.mtu {
            Mtu::Auto => None,
            Mtu::Bytes(bytes) => Some(bytes),
        },
        path_mtu: None,
        clamp_mss: tunnel.clamp_mss,
        backup: kept.backup,
        protection: protection(tunnel, kept),
        gre_in_udp: tunnel.encapsulation == Encapsulation::Udp,
        bridge,
        depth: usize::from(tunnel.max_depth),
        counters: kept.counters.clone(),
        sequences: Arc::clone(&kept.sequences),
    }
}

/// In place of a tunnel that is not enabled.
fn stand_in_tunnel(place: usize, kept: &KeptTunnel) -> TunnelSpec {
    let number = stand_in_number(place);
    TunnelSpec {
        local: Ipv4Addr::from_bits(number).into(),
        // Beyond all numbers of tunnels.
        remote: Ipv4Addr::from_bits(number | 0x0080_0000).into(),
        inner: Vec::new(),
        routes: Vec::new(),
        gre: Options { key: None, checksum: false, sequence: false, payload: gre::Payload::Ethernet },
        depth: 1,
        ttl: 64,
        mtu: None,
        path_mtu: None,
        clamp_mss: false,
        backup: false,
        protection: Some(Protection {
            mode: esp::Mode::Transport,
            pad: 4,
            udp: None,
            outbound: Vec::new(),
            inbound: Vec::new(),
            negotiated: false,
        }),
        gre_in_udp: false,
        bridge: None,
        counters: kept.counters.clone(),
        sequences: Arc::clone(&kept.sequences),
    }
}

/// A number for an address of "this network" (RFC 1122 section 3.2.1.3), which no packet carries: 0 and 1 are left out, as
/// 0.0.0.0 and :: and ::1 mean something.
fn stand_in_number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX).saturating_add(2) & 0x007f_ffff
}

/// Is it an address that stands for none?
pub fn is_stand_in(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.to_bits() >> 24 == 0,
        IpAddr::V6(address) => (2..=u128::from(stand_in_number(usize::MAX))).contains(&address.to_bits()),
    }
}

/// The tunnel's near end; in place of an address that CARP gives and nobody has named, one of "this network", which no packet carries.
fn local(place: usize, tunnel: &Tunnel) -> IpAddr {
    tunnel.local.address().unwrap_or_else(|| {
        let number = stand_in_number(place);
        match tunnel.remote {
            IpAddr::V4(_) => Ipv4Addr::from_bits(number).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(u128::from(number)).into(),
        }
    })
}

/// ESP in UDP, as IKE has it behind a translator (RFC 3948 section 2.1).
const NAT_TRAVERSAL: tunnel::UdpEncap = tunnel::UdpEncap { source: 4500, destination: 4500 };

/// ESP as the tunnel has it.
fn protection(tunnel: &Tunnel, kept: &KeptTunnel) -> Option<Protection> {
    let (mode, pad, udp) = match &tunnel.protect {
        Protect::None => return None,
        Protect::Manual(manual) => {
            let udp = manual.outbound().and_then(|sa| sa.udp_encap);
            (manual.mode, manual.pad, udp.map(self::udp))
        }
        // Whether a translator is on the way shows when IKE speaks (RFC 7296 section 2.23): until then there is room for UDP.
        Protect::Ike(ike) if kept.outbound.is_empty() => (ike.mode, ike.pad, Some(NAT_TRAVERSAL)),
        Protect::Ike(ike) => (ike.mode, ike.pad, kept.udp),
    };
    let mode = match mode {
        Mode::Transport => esp::Mode::Transport,
        Mode::Tunnel => esp::Mode::Tunnel,
    };
    let negotiated = matches!(tunnel.protect, Protect::Ike(_));
    let (outbound, inbound) = (kept.outbound.clone(), kept.inbound.clone());
    Some(Protection { mode, pad, udp, outbound, inbound, negotiated })
}

/// Gives the tunnel its manual SAs.
fn install(
    kept: &mut KeptTunnel,
    manual: &Manual,
    tunnel: &Tunnel,
    ledger: &mut Ledger,
) -> Result<(), PlanError> {
    let failed = |sa: &ManualSa, refused: Refused| match refused {
        Refused::Unusable(why) => PlanError::Configuration(vec![unusable(tunnel, sa, why)]),
        Refused::Random => PlanError::Random,
    };
    if let Some(sa) = manual.outbound() {
        kept.outbound.push(ledger.outbound(sa).map_err(|refused| failed(sa, refused))?);
    }
    for sa in manual.inbound() {
        kept.inbound.push(ledger.inbound(sa).map_err(|refused| failed(sa, refused))?);
    }
    Ok(())
}

fn unusable(tunnel: &Tunnel, sa: &ManualSa, why: String) -> Problem {
    let what = format!("tunnel {:?}, SA {:#x}", tunnel.name, sa.spi);
    Problem { what, why, remedy: "correct the entry".to_owned(), at: Some(sa.at.clone()) }
}

/// The engine's name for a suite.
pub fn suite(suite: Suite) -> esp::Suite {
    match suite {
        Suite::Aes128Gcm16 => esp::Suite::Aes128Gcm16,
        Suite::Aes256Gcm16 => esp::Suite::Aes256Gcm16,
        Suite::ChaCha20Poly1305 => esp::Suite::ChaCha20Poly1305,
    }
}

/// The engine's name for a router of a pair.
pub fn router(router: Router) -> esp::Router {
    match router {
        Router::First => esp::Router::First,
        Router::Second => esp::Router::Second,
    }
}

/// The engine's form of UDP ports.
pub fn udp(udp: UdpEncap) -> tunnel::UdpEncap {
    tunnel::UdpEncap { source: udp.source, destination: udp.destination }
}

fn mac(mac: Mac) -> MacAddr {
    MacAddr(mac.0)
}

fn prefix(prefix: Prefix) -> Option<fib::Prefix> {
    let network = prefix.network();
    fib::Prefix::new(network.addr, network.len).ok()
}

fn build(spec: TablesSpec, config: &Config) -> Result<Tables, Vec<Problem>> {
    Tables::build(spec).map_err(|error| vec![explain(&error, config)])
}

/// The engine's objection, in the configuration's names.
pub fn explain(error: &BuildError, config: &Config) -> Problem {
    let tunnel_name = |tunnel: &Tunnel| format!("tunnel {:?}", tunnel.name);
    let (what, remedy, at) = match error {
        BuildError::DuplicateRoute(twice) => {
            let (owners, at) = owners(*twice, config);
            (owners, "route it one way only", at)
        }
        BuildError::DuplicateSpi(spi) => {
            let of_tunnel = |tunnel: &&Tunnel| match &tunnel.protect {
                Protect::Manual(manual) => manual.inbound().any(|sa| sa.spi == *spi),
                Protect::None | Protect::Ike(_) => false,
            };
            let (names, at) = named(config.tunnels.iter().filter(of_tunnel));
            (names, "give each inbound SA an SPI of its own", at)
        }
        BuildError::DuplicateTunnel { local: near, remote } => {
            let same = config
                .tunnels
                .iter()
                .enumerate()
                .filter(|(place, tunnel)| tunnel.remote == *remote && local(*place, tunnel) == *near);
            let (names, at) = named(same.map(|(_, tunnel)| tunnel));
            (names, "give each of them a `key` of its own", at)
        }
        BuildError::DuplicateBridge(port) => {
            let name = config.ports.get(*port).map(|port| &port.name);
            let (names, at) = named(
                config.tunnels.iter().filter(|tunnel| name.is_some() && tunnel.bridge.as_ref() == name),
            );
            (names, "bridge each port with one tunnel", at)
        }
        BuildError::MixedFamilies { remote, .. } => {
            let tunnel = config.tunnels.iter().find(|tunnel| tunnel.remote == *remote);
            let at = tunnel.map(|tunnel| tunnel.at.clone());
            (tunnel.map_or("tunnels".to_owned(), tunnel_name), "give two IPv4 or two IPv6 addresses", at)
        }
        BuildError::Unknown { .. } | BuildError::TooMany(_) => {
            ("configuration".to_owned(), "split it up", None)
        }
    };
    Problem { what, why: error.to_string(), remedy: remedy.to_owned(), at }
}

/// The names of tunnels in one line, and where the last of them stands.
fn named<'c>(tunnels: impl Iterator<Item = &'c Tunnel>) -> (String, Option<Position>) {
    let tunnels: Vec<&Tunnel> = tunnels.collect();
    let names: Vec<String> = tunnels.iter().map(|tunnel| format!("{:?}", tunnel.name)).collect();
    let what =
        if names.is_empty() { "tunnels".to_owned() } else { format!("tunnels {}", names.join(" and ")) };
    (what, tunnels.last().map(|tunnel| tunnel.at.clone()))
}

/// Who routes a prefix, and where the last of them stands.
fn owners(twice: fib::Prefix, config: &Config) -> (String, Option<Position>) {
    let to_ports = config.routes.iter().filter_map(|route| match &route.target {
        RouteTarget::Port { port, .. } => Some((route.prefix, format!("port {port:?}"), &route.at)),
        RouteTarget::Tunnel(_) => None,
    });
    let to_tunnels = tunnel_routes(config).map(|route| {
        let name = config.tunnels.get(route.tunnel).map_or("?", |tunnel| &tunnel.name);
        (route.prefix, format!("tunnel {name:?}"), route.at)
    });
    let all: Vec<_> = to_ports.chain(to_tunnels).filter(|(of, ..)| prefix(*of) == Some(twice)).collect();
    let names: Vec<&str> = all.iter().map(|(_, name, _)| name.as_str()).collect();
    (format!("routes to {twice} ({})", names.join(", ")), all.last().map(|(.., at)| (*at).clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(addr: &str, len: u8) -> Prefix {
        Prefix { addr: addr.parse().unwrap(), len }
    }

    #[test]
    fn a_prefix_covers_its_own_family_alone() {
        for (network, address, covered) in [
            (prefix("10.2.0.0", 16), "10.2.255.255", true),
            (prefix("10.2.0.0", 16), "10.3.0.0", false),
            (prefix("0.0.0.0", 0), "203.0.113.1", true),
            (prefix("0.0.0.0", 0), "2001:db8::1", false),
            (prefix("::", 0), "203.0.113.1", false),
            (prefix("2001:db8::", 32), "2001:db8:ffff::1", true),
            (prefix("192.0.2.1", 32), "192.0.2.1", true),
        ] {
            assert_eq!(covers(network, address.parse().unwrap()), covered, "{network} {address}");
        }
    }

    #[test]
    fn ports_without_a_mac_send_from_their_number() {
        assert_eq!(stand_in_mac(0).to_string(), "02:00:00:00:00:01");
        assert_eq!(stand_in_mac(253).to_string(), "02:00:00:00:00:fe");
        assert_eq!(stand_in_mac(255).to_string(), "02:00:00:00:01:00");
    }
}
