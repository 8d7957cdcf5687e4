//! A host that is driven by hand: what a [`Script`] says is there, the [`ScriptedSource`] beside it reports, with the same
//! guarantees as a real one. For tests and laboratories.

use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::ledger::Ledger;
use super::state::{Address, Change, HostState, Link, LinkIndex, Neighbour, Route, RouteKey};
use super::{Changes, HostSource, ResolveError, SourceError};

/// A scripted host, empty at first: the hand that drives it, and the source that follows it.
///
/// # Errors
/// The system has no descriptors left.
pub fn scripted() -> Result<(Script, ScriptedSource), SourceError> {
    let (ring, bell) = UnixStream::pair().map_err(SourceError::Open)?;
    ring.set_nonblocking(true).map_err(SourceError::Open)?;
    bell.set_nonblocking(true).map_err(SourceError::Open)?;
    let world = Arc::new(Mutex::new(World::default()));
    let script = Script { world: Arc::clone(&world), ring: Arc::new(ring) };
    Ok((script, ScriptedSource { world, bell, ledger: Ledger::default() }))
}

#[derive(Debug, Default)]
struct World {
    state: HostState,
    overrun: bool,
    failing: bool,
    refusing: bool,
    asked: Vec<(LinkIndex, IpAddr)>,
}

/// The hand that drives a scripted host. Clones drive the same one.
#[derive(Debug, Clone)]
pub struct Script {
    world: Arc<Mutex<World>>,
    ring: Arc<UnixStream>,
}

impl Script {
    /// A link comes, or changes.
    pub fn set_link(&self, index: LinkIndex, link: Link) {
        self.change(|world| {
            world.state.links.insert(index, link);
        });
    }

    /// A link goes, and with it its addresses, its stations, and the hops that it carried.
    pub fn remove_link(&self, index: LinkIndex) {
        self.change(|world| {
            let state = &mut world.state;
            state.links.remove(&index);
            state.addresses.retain(|address| address.link != index);
            state.neighbours.retain(|(link, _), _| *link != index);
            for routes in state.routes.values_mut() {
                for route in &mut *routes {
                    route.hops.retain(|hop| hop.link != index);
                }
                routes.retain(|route| !route.hops.is_empty());
            }
            state.routes.retain(|_, routes| !routes.is_empty());
        });
    }

    /// An address comes.
    pub fn add_address(&self, address: Address) {
        self.change(|world| {
            world.state.addresses.insert(address);
        });
    }

    /// An address goes.
    pub fn remove_address(&self, address: Address) {
        self.change(|world| {
            world.state.addresses.remove(&address);
        });
    }

    /// The routes of a key are now these; none: they go.
    pub fn set_routes(&self, key: RouteKey, routes: Vec<Route>) {
        self.change(|world| {
            world.state.apply(Change::Routes(key, routes));
        });
    }

    /// A station comes, changes, or goes.
    pub fn set_neighbour(&self, link: LinkIndex, address: IpAddr, neighbour: Option<Neighbour>) {
        self.change(|world| {
            world.state.apply(Change::Neighbour((link, address), neighbour));
        });
    }

    /// Everything goes.
    pub fn clear(&self) {
        self.change(|world| world.state = HostState::default());
    }

    /// The next report is one after lost messages.
    pub fn overrun(&self) {
        self.change(|world| world.overrun = true);
    }

    /// From now on the source fails, or does not.
    pub fn set_failing(&self, failing: bool) {
        self.change(|world| world.failing = failing);
    }

    /// From now on the host takes no requests for stations, or does.
    pub fn set_refusing(&self, refusing: bool) {
        self.change(|world| world.refusing = refusing);
    }

    /// The stations that were asked for since the last call.
    #[must_use]
    pub fn asked(&self) -> Vec<(LinkIndex, IpAddr)> {
        std::mem::take(&mut lock(&self.world).asked)
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut lock(&self.world));
        // A full pipe has woken the reader already, and one that nobody reads wakes nobody.
        drop((&*self.ring).write(&[0]));
    }
}

/// A lock whose holder panicked still guards a state that can be told.
fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The source that follows a [`Script`].
#[derive(Debug)]
pub struct ScriptedSource {
    world: Arc<Mutex<World>>,
    bell: UnixStream,
    ledger: Ledger,
}

impl ScriptedSource {
    /// Takes over the state; says whether messages were lost.
    fn look(&mut self) -> Result<bool, SourceError> {
        let mut rings = [0; 64];
        while let Ok(1..) = (&self.bell).read(&mut rings) {}
        let mut world = lock(&self.world);
        if world.failing {
            return Err(SourceError::Read(ErrorKind::Other.into()));
        }
        let state = world.state.clone();
        self.ledger.links.replace(state.links);
        self.ledger.addresses.replace(state.addresses.into_iter().map(|address| (address, ())).collect());
        self.ledger.routes.replace(state.routes);
        self.ledger.neighbours.replace(state.neighbours);
        Ok(std::mem::take(&mut world.overrun))
    }
}

impl HostSource for ScriptedSource {
    fn snapshot(&mut self) -> Result<HostState, SourceError> {
        self.look()?;
        Ok(self.ledger.snapshot())
    }

    fn changes(&mut self) -> Result<Changes, SourceError> {
        let resynchronised = self.look()?;
        Ok(Changes { list: self.ledger.report(), resynchronised })
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn resolve(&mut self, link: LinkIndex, address: IpAddr) -> Result<(), ResolveError> {
        let mut world = lock(&self.world);
        if world.refusing {
            return Err(ResolveError::Unsupported);
        }
        world.asked.push((link, address));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::routes::state::{NextHop, RouteKind, prefix_around};
    use crate::routes::suite::{self, Hand, HopText, Watcher, ip, prefix};

    /// A host that behaves as kernels do: subnets have routes, and routes fall with their link.
    struct Played {
        script: Script,
        source: RefCell<ScriptedSource>,
        last_index: Cell<LinkIndex>,
    }

    /// Another source of the same host.
    fn another(of: &ScriptedSource) -> ScriptedSource {
        let bell = of.bell.try_clone().expect("a descriptor");
        ScriptedSource { world: Arc::clone(&of.world), bell, ledger: Ledger::default() }
    }

    impl Played {
        fn link(&self, name: &str) -> (LinkIndex, Link) {
            let world = lock(&self.script.world);
            let (index, link) = world.state.link_named(name).expect(name);
            (index, link.clone())
        }

        fn key(to: &str, metric: u32) -> RouteKey {
            RouteKey { table: 0, prefix: prefix(to), metric }
        }

        fn subnet(address: &str) -> (IpAddr, u8, String) {
            let (address, length) = address.split_once('/').expect("a prefix");
            let (address, length) = (ip(address), length.parse().expect("a length"));
            (address, length, prefix_around(address, length).expect("a prefix").to_string())
        }
    }

    impl Hand for Played {
        type Source = ScriptedSource;

        fn source(&self) -> ScriptedSource {
            another(&self.source.borrow())
        }

        fn add_link(&self, name: &str) {
            let index = self.last_index.get() + 1;
            self.last_index.set(index);
            let name = name.into();
            self.script
                .set_link(index, Link { name, mac: None, mtu: 1500, up: true, carrier: true, kind: None });
        }

        fn remove_link(&self, name: &str) {
            self.script.remove_link(self.link(name).0);
        }

        fn set_up(&self, name: &str, up: bool) {
            let (index, link) = self.link(name);
            self.script.set_link(index, Link { up, ..link });
        }

        fn add_address(&self, link: &str, text: &str) {
            let (address, prefix_len, subnet) = Played::subnet(text);
            self.script.add_address(Address { link: self.link(link).0, address, prefix_len, peer: None });
            self.add_route(&subnet, 0, &[(link, None, 1)]);
        }

        fn remove_address(&self, link: &str, text: &str) {
            let (address, prefix_len, subnet) = Played::subnet(text);
            self.script.remove_address(Address { link: self.link(link).0, address, prefix_len, peer: None });
            self.remove_route(&subnet, 0, &[]);
        }

        fn add_route(&self, to: &str, metric: u32, hops: &[HopText<'_>]) {
            let hop = |(link, via, weight): &HopText<'_>| {
                let hop = NextHop::new(self.link(link).0, via.map(ip));
                NextHop { weight: *weight, ..hop }
            };
            let hops = hops.iter().map(hop).collect();
            let route = Route { kind: RouteKind::Unicast, hops, source: None, selective: false };
            self.script.set_routes(Played::key(to, metric), vec![route]);
        }

        fn remove_route(&self, to: &str, metric: u32, _: &[HopText<'_>]) {
            self.script.set_routes(Played::key(to, metric), vec![]);
        }

        fn set_neighbour(&self, link: &str, address: &str, mac: Option<&str>) {
            let mac = mac.map(|mac| mac.parse().expect(mac));
            let neighbour = mac.map(|mac| Neighbour { mac: Some(mac), permanent: true });
            self.script.set_neighbour(self.link(link).0, ip(address), neighbour);
        }
    }

    fn new_host(_: &str, _: &str, body: impl FnOnce(&Played)) {
        let (script, source) = scripted().expect("a host");
        body(&Played { script, source: RefCell::new(source), last_index: Cell::new(0) });
    }

    suite::suite!(new_host);

    #[test]
    fn it_fails_and_recovers_as_told() {
        new_host("", "", |hand| {
            let mut watcher = Watcher::new(hand.source());
            hand.script.set_failing(true);
            hand.add_link("wan");
            assert!(watcher.source.changes().is_err());
            hand.script.set_failing(false);
            hand.script.overrun();
            watcher.until("the link", |state| state.link_named("wan").is_some());
            assert_eq!(watcher.resynchronised, 1);
            hand.script.clear();
            watcher.until("nothing", |state| *state == HostState::default());
        });
    }

    #[test]
    fn it_notes_who_was_asked_for() {
        new_host("", "", |hand| {
            let mut source = hand.source();
            source.resolve(3, ip("192.0.2.2")).expect("to be asked");
            assert_eq!(hand.script.asked(), [(3, ip("192.0.2.2"))]);
            hand.script.set_refusing(true);
            assert!(matches!(source.resolve(3, ip("192.0.2.2")), Err(ResolveError::Unsupported)));
            assert_eq!(hand.script.asked(), []);
        });
    }
}
