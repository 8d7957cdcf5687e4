//! What leads a tunnel into a tunnel, in words: the same in `check`, in the log and in `show`.

use std::collections::HashMap;

use crate::config::{Config, MAX_DEPTH, Position, Prefix, Problem, Tunnel};
use crate::nesting::{Nesting, Path};
use crate::plan;

/// Where a route comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `[[route]]`, or the `routes` or `peer` of a tunnel, there in the configuration.
    Configured(Position),
    /// The network of an `inner` address, there in the configuration.
    Inner(Position),
    /// The host's routing table, or an address of the tunnel's interface.
    Host,
}

/// A route that leads a tunnel's far end into a tunnel, so that its packets would be in more than they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detour {
    /// The tunnel.
    pub tunnel: usize,
    /// The one that its outer packets would enter first.
    pub carrier: usize,
    /// The route's destinations.
    pub prefix: Prefix,
    /// Where the route comes from.
    pub origin: Origin,
    /// All tunnels that they would enter.
    pub path: Path,
    /// How many they may.
    pub limit: usize,
}

/// The configuration's routes into tunnels, by tunnel and destinations.
pub struct Detours<'c> {
    config: &'c Config,
    routes: HashMap<(usize, Prefix), Origin>,
}

impl<'c> Detours<'c> {
    /// Those of `config`.
    pub fn new(config: &'c Config) -> Detours<'c> {
        let key = |route: &plan::TunnelRoute<'_>| (route.tunnel, route.prefix.network());
        let networks = plan::inner_networks(config);
        let mut routes: HashMap<_, _> =
            networks.map(|route| (key(&route), Origin::Inner(route.at.clone()))).collect();
        // A route is taken before a network of the same destinations.
        let given = plan::tunnel_routes(config);
        routes.extend(given.map(|route| (key(&route), Origin::Configured(route.at.clone()))));
        Detours { config, routes }
    }

    /// What leads tunnel `tunnel` into the one that carries it in `nesting`: the route to `prefix`, where that is known, else
    /// the longest of the configuration. `None` where no tunnel carries it.
    pub fn of(&self, nesting: &Nesting, tunnel: usize, prefix: Option<Prefix>) -> Option<Detour> {
        let carrier = nesting.carrier(tunnel)?;
        let remote = self.config.tunnels.get(tunnel)?.remote;
        let host = plan::host_prefix(remote);
        let longest = || {
            let around = (0..=host.len).rev().map(|len| Prefix { addr: remote, len }.network());
            around.into_iter().find(|prefix| self.routes.contains_key(&(carrier, *prefix)))
        };
        let prefix = prefix.or_else(longest).unwrap_or(host).network();
        Some(Detour {
            tunnel,
            carrier,
            prefix,
            origin: self.routes.get(&(carrier, prefix)).cloned().unwrap_or(Origin::Host),
            path: nesting.path(tunnel),
            limit: nesting.limit(tunnel),
        })
    }
}

impl Detour {
    /// The route, the path and what is wrong with it, in one line.
    pub fn why(&self, config: &Config) -> String {
        let remote =
            config.tunnels.get(self.tunnel).map_or("?".to_owned(), |tunnel| tunnel.remote.to_string());
        let route = match &self.origin {
            Origin::Configured(_) => format!("the route {}", self.prefix),
            Origin::Inner(_) => format!("the inner network {}", self.prefix),
            Origin::Host => format!("the host's route {}", self.prefix),
        };
        let measure = if self.path.endless {
            "which never ends".to_owned()
        } else {
            format!("{} tunnels where max_depth allows {}", self.path.tunnels.len(), self.limit)
        };
        let carrier = name(config, self.carrier);
        let path = self.path(config);
        format!("{route} leads its far end {remote} into tunnel {carrier:?}: {path}, {measure}")
    }

    /// The path alone.
    pub fn path(&self, config: &Config) -> String {
        self.path.describe(|number| name(config, number))
    }

    /// What to do about it.
    fn remedy(&self, config: &Config) -> String {
        let Some(tunnel) = config.tunnels.get(self.tunnel) else {
            return "route it out of a port".to_owned();
        };
        let (host, carrier) = (plan::host_prefix(tunnel.remote), name(config, self.carrier));
        let by_port = match (&self.origin, self.prefix == host) {
            (Origin::Host, true) => format!("take the host's route {host} out"),
            (Origin::Host, false) => {
                format!("give the host a route to {host} out of a port, or take {} out", self.prefix)
            }
            (_, true) => format!("route {host} out of a port, not into tunnel {carrier:?}"),
            (_, false) => format!(
                "add [[route]] with prefix = \"{host}\", port and via, or do not route all of {} into tunnel \
                 {carrier:?}",
                self.prefix
            ),
        };
        let depth = self.path.tunnels.len();
        if self.path.endless || depth > usize::from(MAX_DEPTH) {
            return by_port;
        }
        let Tunnel { name, .. } = tunnel;
        format!("{by_port}; if it is meant to lie in there, say max_depth = {depth} in tunnel {name:?}")
    }

    /// As a problem of the configuration.
    pub fn problem(&self, config: &Config) -> Problem {
        let at = match &self.origin {
            Origin::Configured(at) | Origin::Inner(at) => Some(at.clone()),
            Origin::Host => config.tunnels.get(self.tunnel).map(|tunnel| tunnel.at.clone()),
        };
        Problem {
            what: format!("tunnel {:?}", name(config, self.tunnel)),
            why: self.why(config),
            remedy: self.remedy(config),
            at,
        }
    }
}

fn name(config: &Config, tunnel: usize) -> &str {
    config.tunnels.get(tunnel).map_or("?", |tunnel| &tunnel.name)
}
