//! The host followed: its state kept up to date from a [`HostSource`], the engine's share of it, and the stations that the host
//! is asked to find.
//!
//! A station on a link of the host's is found by the host. It is asked for those that tables lead by ([`Host::want`]) and for
//! those that packets wait for ([`Host::ask`]). Of these, and of all others that it knows there (it learns of a station that asks for
//! its own address, say), it is reminded every [`AGAIN`]: it sees none of our packets, would take a station for unused, and
//! never notice that one has got another address on the link.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use culvert_engine::wire::ethernet::MacAddr;

use super::assemble::{Link, has_interface};
use super::devices::{is_of_host, link_name};
use super::log;
use crate::config::{Config, Device, Port};
use crate::routes::{
    Address, HostSource, HostState, HostTables, Interfaces, LinkIndex, ResolveError, merge, prefix_around,
};

/// How often the host is reminded of the stations that are in use: well before Linux forgets one that nobody uses
/// (`gc_stale_time`, 60 s), and soon enough for one that was not there the first time.
const AGAIN: Duration = Duration::from_secs(5);
/// Stations that are kept fresh although no table leads by them, at most.
const MOST_KNOWN: usize = 4096;

/// The host as the daemon knows it.
pub(super) struct Host {
    source: Box<dyn HostSource>,
    state: HostState,
    interfaces: Interfaces,
    /// By port number, the name of the host's link that it is.
    links: Vec<String>,
    /// Ports that are stations of their own beside the host on their links.
    beside: BTreeSet<usize>,
    /// What was wrong the last time, so that it is told once.
    trouble: Option<String>,
    /// The host resolves nobody; that has been told.
    refuses: bool,
    /// Stations that tables lead by.
    wanted: BTreeSet<(usize, IpAddr)>,
    again: Instant,
}

impl Host {
    /// Starts to follow.
    ///
    /// # Errors
    /// The host does not answer.
    pub(super) fn new(mut source: Box<dyn HostSource>, config: &Config) -> Result<Host, String> {
        let state = source.snapshot().map_err(|error| error.to_string())?;
        let mut interfaces = Interfaces::default();
        let mut links = Vec::with_capacity(config.ports.len());
        let of_tap = |(_, port): &(usize, &Port)| matches!(port.device, Device::Tap(_));
        let beside = config.ports.iter().enumerate().filter(of_tap).map(|(number, _)| number).collect();
        for (number, port) in config.ports.iter().enumerate() {
            let name = link_name(port).to_owned();
            if is_of_host(config, port) {
                interfaces.ports.insert(name.clone(), number);
            }
            links.push(name);
        }
        interfaces.tunnels = numbers_of_interfaces(config);
        let again = Instant::now();
        Ok(Host {
            source,
            state,
            interfaces,
            links,
            beside,
            trouble: None,
            refuses: false,
            wanted: BTreeSet::new(),
            again,
        })
    }

    /// From now on, the tunnels' interfaces are those of this configuration.
    pub(super) fn follow_tunnels(&mut self, config: &Config) {
        self.interfaces.tunnels = numbers_of_interfaces(config);
    }

    /// The largest MTU of a port's link, in bytes; 0 where no link is there.
    pub(super) fn longest(&self) -> u32 {
        let links = self.links.iter().filter_map(|name| self.state.link_named(name));
        links.map(|(_, link)| link.mtu).max().unwrap_or(0)
    }

    /// Readable when the host has something to tell.
    pub(super) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.source.wait_fd()
    }

    /// When to look although the descriptor is silent.
    pub(super) fn deadline(&self) -> Instant {
        self.source.deadline().map_or(self.again, |deadline| deadline.min(self.again))
    }

    /// Does the source fail?
    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// Takes in what the host has told. True where anything is otherwise.
    pub(super) fn follow(&mut self) -> bool {
        match self.source.changes() {
            Ok(changes) => {
                if self.trouble.take().is_some() {
                    log::info("the host is followed again");
                }
                if changes.resynchronised {
                    log::warn("the host told more than could be taken in; its tables were read again");
                }
                let any = !changes.list.is_empty();
                changes.list.into_iter().for_each(|change| self.state.apply(change));
                any
            }
            Err(error) => {
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    log::error(&error);
                    self.trouble = Some(error);
                }
                false
            }
        }
    }

    /// What is known.
    pub(super) fn state(&self) -> &HostState {
        &self.state
    }

    /// The engine's share.
    pub(super) fn tables(&self) -> HostTables {
        merge(&self.state, &self.interfaces)
    }

    /// What the host knows of the ports' links, by number. A port that is only beside a link has an address of its own there,
    /// which follows from the link's.
    pub(super) fn links(&self) -> Vec<Link> {
        let link = |(number, name): (usize, &String)| {
            let Some((_, link)) = self.state.link_named(name) else { return Link::default() };
            let mac = if self.beside.contains(&number) { link.mac.and_then(beside) } else { link.mac };
            Link { mac, mtu: Some(link.mtu) }
        };
        self.links.iter().enumerate().map(link).collect()
    }

    /// The link of that name: is it switched on? `None` where there is none.
    pub(super) fn link_state(&self, name: &str) -> Option<bool> {
        self.state.link_named(name).map(|(_, link)| link.up)
    }

    /// The link address of the interface that has this address, on whatever link.
    pub(super) fn link_address_of(&self, address: IpAddr) -> Option<MacAddr> {
        let has = self.state.addresses.iter().find(|at| at.address == address)?;
        self.state.links.get(&has.link)?.mac
    }

    /// From now on, tables lead by these stations.
    pub(super) fn want(&mut self, stations: Vec<(u16, IpAddr)>) {
        let of_host = self.interfaces.ports.values().copied().collect::<BTreeSet<_>>();
        let stations = stations.into_iter().map(|(port, address)| (usize::from(port), address));
        let stations: BTreeSet<_> = stations.filter(|(port, _)| of_host.contains(port)).collect();
        let before = std::mem::replace(&mut self.wanted, stations);
        let new: Vec<_> = self.wanted.difference(&before).copied().collect();
        new.into_iter().for_each(|station| self.resolve(station));
    }

    /// Packets wait for a station.
    pub(super) fn ask(&mut self, port: usize, address: IpAddr) {
        self.resolve((port, address));
    }

    /// Stations that hosts on the ports' links have, for a router on the same links.
    pub(super) fn stations(&self) -> BTreeSet<IpAddr> {
        // Such an address is another station's on another link.
        let link_local = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let known = self.known().map(|(_, address)| address);
        known.filter(|address| !link_local(address)).take(MOST_KNOWN).collect()
    }

    /// Another router on the same links has found this station: it is looked for on the link that has it in a subnet of its own.
    pub(super) fn meet(&mut self, station: IpAddr) {
        let on_link = |at: &&Address| {
            at.address != station
                && prefix_around(at.address, at.prefix_len) == prefix_around(station, at.prefix_len)
        };
        let links = self.ports_by_link();
        let addresses = self.state.addresses.iter().filter(on_link);
        let port = addresses.filter_map(|at| links.get(&at.link)).next().copied();
        if let Some(port) = port {
            self.resolve((port, station));
        }
    }

    /// Reminds the host of all stations, where it is time to.
    pub(super) fn remind(&mut self, now: Instant) {
        if now < self.again {
            return;
        }
        self.again = now + AGAIN;
        // One that the host has given up is asked for again when there is a packet for it.
        let all: BTreeSet<_> = self.known().take(MOST_KNOWN).chain(self.wanted.iter().copied()).collect();
        all.into_iter().for_each(|station| self.resolve(station));
    }

    /// The numbers of the ports that are the host's, by link.
    fn ports_by_link(&self) -> BTreeMap<LinkIndex, usize> {
        let ports = self.interfaces.ports.iter();
        ports.filter_map(|(name, port)| Some((self.state.link_named(name)?.0, *port))).collect()
    }

    /// Stations that the host has found on its ports' links, and that packets may go to.
    fn known(&self) -> impl Iterator<Item = (usize, IpAddr)> {
        let links = self.ports_by_link();
        let found = self.state.neighbours.iter();
        let found = found.filter(|(_, station)| station.mac.is_some() && !station.permanent);
        found.filter_map(move |((link, address), _)| Some((*links.get(link)?, *address)))
    }

    fn resolve(&mut self, (port, address): (usize, IpAddr)) {
        // FreeBSD's kernel would ask for a group's address as a backup, in the name of that address and from the group's MAC: bridges
        // would send here what is for the master.
        if address.is_ipv6() && self.state.addresses.iter().any(|at| at.address == address) {
            return;
        }
        let Some((link, _)) = self.links.get(port).and_then(|name| self.state.link_named(name)) else {
            return;
        };
        match self.source.resolve(link, address) {
            // A link that is down or gone; it is asked again.
            Ok(()) | Err(ResolveError::Refused { .. }) => {}
            Err(error @ ResolveError::Unsupported) => {
                if !std::mem::replace(&mut self.refuses, true) {
                    log::warn(error);
                }
            }
        }
    }
}

/// Tunnels by the names of their interfaces.
fn numbers_of_interfaces(config: &Config) -> BTreeMap<String, usize> {
    let with_interface = (0..config.tunnels.len()).filter(|tunnel| has_interface(config, *tunnel));
    with_interface.filter_map(|tunnel| Some((config.tunnels.get(tunnel)?.name.clone(), tunnel))).collect()
}

/// An address for a station beside the one with that address, on the same link: locally administered as that of a TAP is,
/// and as different from all others as that is.
fn beside(MacAddr([first, rest @ ..]): MacAddr) -> Option<MacAddr> {
    let [b, c, d, e, f] = rest;
    Some(MacAddr([(first | 0x02) ^ 0x04, b, c, d, e, f]))
}

/// What the running system's host is followed by.
///
/// # Errors
/// The system refuses.
#[cfg(target_os = "linux")]
pub(super) fn source() -> Result<Box<dyn HostSource>, String> {
    let source = crate::routes::netlink::NetlinkSource::open().map_err(|error| error.to_string())?;
    Ok(Box::new(source))
}

/// What the running system's host is followed by.
///
/// # Errors
/// The system refuses.
#[cfg(target_os = "freebsd")]
pub(super) fn source() -> Result<Box<dyn HostSource>, String> {
    let source = crate::routes::pfroute::PfRouteSource::open().map_err(|error| error.to_string())?;
    Ok(Box::new(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Neighbour;
    use crate::routes::scripted::{Script, scripted};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn host() -> (Script, Host) {
        let config = super::super::tests::config(
            "[[port]]\nname = \"wan\"\ndevice = \"xdp:eth0\"\n[[port]]\nname = \"lan\"\ndevice = \"tap:tap0\"\n",
        );
        let (script, source) = scripted().expect("a host");
        for (index, name) in [(7, "eth0"), (8, "tap0")] {
            script.set_link(index, super::super::tests::link(name, index));
        }
        (script, Host::new(Box::new(source), &config).expect("a state"))
    }

    #[test]
    fn the_host_finds_stations_on_its_own_links_alone() {
        let (script, mut host) = host();
        host.want(vec![(0, ip("192.0.2.254")), (1, ip("10.0.0.9"))]);
        assert_eq!(script.asked(), [(7, ip("192.0.2.254"))]);
        // The same once more is no news.
        host.want(vec![(0, ip("192.0.2.254"))]);
        assert_eq!(script.asked(), []);
    }

    #[test]
    fn stations_in_use_are_kept_fresh_and_others_forgotten() {
        let (script, mut host) = host();
        let (router, station, nobody) = (ip("192.0.2.254"), ip("192.0.2.7"), ip("192.0.2.8"));
        host.want(vec![(0, router)]);
        host.ask(0, station);
        host.ask(0, nobody);
        assert_eq!(script.asked(), [(7, router), (7, station), (7, nobody)]);
        let mac = Some("02:00:00:00:00:07".parse().expect("a MAC"));
        script.set_neighbour(7, station, Some(Neighbour { mac, permanent: false }));
        script.set_neighbour(7, nobody, Some(Neighbour { mac: None, permanent: false }));
        // One that the host has found by itself, one that it was told of, and one beside.
        let (other, fixed) = (ip("192.0.2.9"), ip("192.0.2.10"));
        script.set_neighbour(7, other, Some(Neighbour { mac, permanent: false }));
        script.set_neighbour(7, fixed, Some(Neighbour { mac, permanent: true }));
        script.set_neighbour(8, other, Some(Neighbour { mac, permanent: false }));
        assert!(host.follow());
        let later = host.deadline() + AGAIN;
        host.remind(later);
        assert_eq!(script.asked(), [(7, station), (7, other), (7, router)]);
        host.remind(later);
        assert_eq!(script.asked(), []);
    }

    /// What one router of a pair has found, the other one looks for where it has that subnet itself, and nowhere else.
    #[test]
    fn what_another_router_has_found_is_looked_for() {
        let (script, mut host) = host();
        let [v4, v6, nearby] = ["192.0.2.7", "2001:db8::7", "fe80::7"].map(ip);
        let mac = Some("02:00:00:00:00:07".parse().expect("a MAC"));
        for station in [v4, v6, nearby] {
            script.set_neighbour(7, station, Some(Neighbour { mac, permanent: false }));
        }
        host.follow();
        assert_eq!(host.stations(), [v4, v6].into(), "but for those that mean another on another link");
        for (link, address, prefix_len) in
            [(7, "192.0.2.11", 24), (7, "198.51.100.1", 32), (7, "2001:db8::11", 64), (9, "10.1.0.1", 24)]
        {
            script.add_address(Address { link, address: ip(address), prefix_len, peer: None });
        }
        host.follow();
        assert_eq!(host.link_address_of(ip("198.51.100.1")), mac, "its link's");
        assert_eq!(host.link_address_of(v4), None, "not its own");
        for station in ["192.0.2.9", "2001:db8::9", "192.0.2.11", "198.51.100.1", "198.51.100.2", "10.1.0.9"]
        {
            host.meet(ip(station));
        }
        assert_eq!(script.asked(), [(7, ip("192.0.2.9")), (7, ip("2001:db8::9"))]);
    }

    /// A backup has its group's address as well, and does not find the master by it.
    #[test]
    fn an_address_of_the_hosts_own_is_not_looked_for() {
        let (script, mut host) = host();
        script.add_address(Address { link: 7, address: ip("2001:db8::1"), prefix_len: 128, peer: None });
        host.follow();
        let _ = script.asked();
        for station in ["2001:db8::1", "2001:db8::9"] {
            host.ask(0, ip(station));
        }
        assert_eq!(script.asked(), [(7, ip("2001:db8::9"))]);
    }

    #[test]
    fn a_tap_has_another_address_than_the_host_behind_it() {
        let (_, host) = host();
        let links = host.links();
        assert_eq!(links[0].mac, Some("02:00:00:00:00:07".parse().expect("a MAC")));
        assert_eq!(links[1].mac, Some("06:00:00:00:00:08".parse().expect("a MAC")));
    }

    #[test]
    fn a_source_that_fails_is_asked_again() {
        let (script, mut host) = host();
        script.set_failing(true);
        assert!(!host.follow());
        script.set_failing(false);
        script.set_link(9, super::super::tests::link("new", 9));
        assert!(host.follow());
        assert_eq!(host.link_state("new"), Some(true));
    }
}
