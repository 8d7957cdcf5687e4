//! Which tunnels are up, and why the others are not.

use culvert_engine::drops::Reason;
use culvert_engine::exception::keepalive::Liveness;
use culvert_engine::ring::Health;

use super::devices::OpenPort;
use super::{Daemon, log};
use crate::config::{Protect, Tunnel};

impl Daemon {
    /// Is a tunnel up? If not, why.
    pub(super) fn state(&self, number: usize) -> Result<(), String> {
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
            Err(Reason::NoNeighbour) => return down("no neighbour"),
            Err(Reason::Nested) => {
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
    pub(super) fn tell_tunnels(&mut self) {
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
}
