//! What leads a tunnel into a tunnel, in words: the same in `check`, in the log and in `show`.

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

impl Detour {
    /// What leads tunnel `tunnel` into the one that carries it in `nesting`: the route to `prefix`, where that is known, else
    /// the longest of the configuration. `None` where no tunnel carries it.
    pub fn of(config: &Config, nesting: &Nesting, tunnel: usize, prefix: Option<Prefix>) -> Option<Detour> {
        let carrier = nesting.carrier(tunnel)?;
        let remote = config.tunnels.get(tunnel)?.remote;
        let fits = |of: &plan::TunnelRoute<'_>| match prefix {
            Some(prefix) => of.prefix.network() == prefix.network(),
            None => plan::covers(of.prefix, remote),
        };
        let configured = plan::tunnel_routes(config).map(|route| (route, false));
        let networks = plan::inner_networks(config).map(|route| (route, true));
        let route = configured
            .chain(networks)
            .filter(|(route, _)| route.tunnel == carrier && fits(route))
            .max_by_key(|(route, inner)| (route.prefix.len, !inner));
        let origin = match route {
            Some((route, false)) => Origin::Configured(route.at.clone()),
            Some((route, true)) => Origin::Inner(route.at.clone()),
            None => Origin::Host,
        };
        Some(Detour {
            tunnel,
            carrier,
            prefix: prefix
                .or(route.map(|(route, _)| route.prefix))
                .unwrap_or_else(|| plan::host_prefix(remote)),
            origin,
            path: nesting.path(tunnel),
            limit: nesting.limit(tunnel),
        })
    }

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
