//! What the control thread answers: its own state as the values of [`super::status`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use culvert_engine::counters::{Copying, WorkerCounters};
use culvert_engine::drops::Reason;
use culvert_engine::ring::Health;
use culvert_engine::tables::Gateway;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Daemon;
use super::devices::OpenPort;
use super::status::{
    self, Copied, NeighbourStatus, PortStatus, RouteStatus, SaStatus, Sas, TunnelStatus, What, WorkerStatus,
};
use crate::replay;
use crate::report::{self, Counts};

impl Daemon {
    /// What is to be shown, under its name.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub(super) fn show(&self, what: What) -> Result<Value, String> {
        let value = match what {
            What::Ports => value(&self.show_ports()),
            What::Workers => value(&self.show_workers()),
            What::Tunnels => value(&self.show_tunnels()),
            What::Sas => value(&self.show_sas()),
            What::Routes => value(&self.show_routes()),
            What::Neighbours => value(&self.show_neighbours()),
            What::Carp => value(&self.show_carp()),
            What::Drops => value(&self.show_drops()),
            What::Privileges => value(&self.privileges),
            What::Config => Ok(status::configuration(&self.config)),
        }?;
        Ok(Value::Object(Map::from_iter([(what.name().to_owned(), value)])))
    }

    pub(super) fn show_ports(&self) -> BTreeMap<&str, PortStatus> {
        let ports = self.config.ports.iter().zip(&self.ports).zip(&self.view.links).enumerate();
        let port = |(number, ((config, port), (mac, mtu))): (usize, ((_, &OpenPort), &(_, u16)))| {
            let config: &crate::config::Port = config;
            let mac: &culvert_engine::wire::ethernet::MacAddr = mac;
            let counters = || self.counters.iter().filter_map(|counters| counters.port(number));
            let copies = || self.counters.iter().filter_map(|counters| counters.copies(number));
            let (rx_lost, tx_lost) = port.lost();
            let lent = port.lent();
            let status = PortStatus {
                device: status::device(&config.device),
                mode: port.mode(),
                mac: mac.to_string(),
                mtu: *mtu,
                health: health(port.health()).to_owned(),
                queues: port.queues,
                rx: counters().map(|counters| counters.rx.get()).sum(),
                tx: counters().map(|counters| counters.tx.get()).sum(),
                rx_lost,
                tx_lost,
                copied_frames: copies().map(|copies| copies.frames.get()).sum(),
                copied_bytes: copies().map(|copies| copies.bytes.get()).sum(),
                rx_lent: lent.map(|(rx, _)| rx),
                tx_lent: lent.map(|(_, tx)| tx),
            };
            (config.name.as_str(), status)
        };
        ports.map(port).collect()
    }

    pub(super) fn show_workers(&self) -> Vec<WorkerStatus> {
        let running = self.started.elapsed().as_secs_f64();
        let mut counts = vec![Counts::default(); self.workers.len()];
        for tunnel in &self.kept.tunnels {
            counts.iter_mut().zip(tunnel.counters.workers()).for_each(|(counts, of)| counts.add(of));
        }
        let worker = |(number, (worker, counts)): (usize, (&super::WorkerThread, Counts))| {
            let cpu = worker.activity.cpu().as_secs_f64();
            WorkerStatus {
                worker: number,
                core: worker.core,
                frames: worker.activity.frames(),
                cpu_seconds: cpu,
                cpu_percent: if running > 0.0 { 100.0 * cpu / running } else { 0.0 },
                counts,
                copied: self.counters.get(number).map(|counters| copied(counters)).unwrap_or_default(),
            }
        };
        self.workers.iter().zip(counts).enumerate().map(worker).collect()
    }

    pub(super) fn show_tunnels(&self) -> BTreeMap<&str, TunnelStatus> {
        let tables = self.tables.load();
        let tunnels = self.config.tunnels.iter().zip(tables.tunnels()).zip(&self.kept.tunnels).enumerate();
        let tunnels = tunnels.filter(|(_, ((config, _), _))| !config.is_vacant());
        let status = tunnels.map(|(number, ((config, tunnel), kept))| {
            let state = self.state(number);
            let port = tunnel.way_out().ok().and_then(|port| self.config.ports.get(port));
            let status = TunnelStatus {
                local: kept.ends.map_or_else(|| config.local.to_string(), |(local, _)| local.to_string()),
                remote: kept.ends.map_or(config.remote, |(_, remote)| remote),
                state: match &state {
                    Ok(()) => "up",
                    Err(_) if kept.backup && config.enabled => "backup",
                    Err(_) => "down",
                }
                .to_owned(),
                why: state.err(),
                nesting: self.nesting_of(number),
                carrier: tunnel
                    .carrier()
                    .and_then(|carrier| self.config.tunnels.get(carrier))
                    .map(|carrier| carrier.name.clone()),
                port: port.map(|port| port.name.clone()),
                mtu: replay::inner_mtu(config, tunnel),
                counts: Counts::of(&kept.counters),
                sas: kept.inbound.len() + kept.outbound.len(),
            };
            (config.name.as_str(), status)
        });
        status.collect()
    }

    pub(super) fn show_sas(&self) -> BTreeMap<&str, Sas> {
        let tunnels = self.config.tunnels.iter().zip(&self.kept.tunnels);
        let now = Instant::now();
        let sas = tunnels.filter_map(|(config, kept)| {
            if let Some(reports) = self.keys.report(&config.name, now) {
                let status = |(report, age): (_, Duration)| SaStatus { report, age: age.as_secs_f64() };
                return Some((config.name.as_str(), reports.map(status).collect()));
            }
            let reports = report::sas(config, kept.outbound.iter().map(|sa| &**sa), &kept.inbound)?;
            let age = kept.installed.elapsed().as_secs_f64();
            let sas = reports.into_iter().map(|report| SaStatus { report, age }).collect();
            Some((config.name.as_str(), sas))
        });
        sas.collect()
    }

    fn show_routes(&self) -> Vec<RouteStatus> {
        let route = |(prefix, gateway): (&culvert_engine::fib::Prefix, &Gateway)| RouteStatus {
            prefix: prefix.to_string(),
            to: self.describe(gateway),
        };
        self.view.routes.iter().map(route).collect()
    }

    pub(super) fn describe(&self, gateway: &Gateway) -> String {
        let port = |number: usize| self.config.ports.get(number).map_or("?", |port| &port.name);
        match gateway {
            Gateway::Port { port: number, via: Some(via) } => format!("port {} via {via}", port(*number)),
            Gateway::Port { port: number, via: None } => format!("port {}", port(*number)),
            Gateway::Tunnel(number) => {
                format!("tunnel {}", self.config.tunnels.get(*number).map_or("?", |tunnel| &tunnel.name))
            }
            Gateway::Host => "host".to_owned(),
            Gateway::Discard => "discard".to_owned(),
            Gateway::Group(members) => {
                let member = |(gateway, weight): &(Gateway, u16)| {
                    format!("{} weight {weight}", self.describe(gateway))
                };
                members.iter().map(member).collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn show_neighbours(&self) -> Vec<NeighbourStatus> {
        let neighbour = |station: &culvert_engine::tables::NeighbourSpec| NeighbourStatus {
            port: self.config.ports.get(station.port).map_or("?".to_owned(), |port| port.name.clone()),
            address: station.address,
            mac: station.mac.to_string(),
        };
        self.view.neighbours.iter().map(neighbour).collect()
    }

    fn show_drops(&self) -> BTreeMap<&'static str, u64> {
        let dropped = |reason: &Reason| {
            let count = self.counters.iter().map(|counters| counters.dropped(*reason)).sum::<u64>();
            (reason.name(), count)
        };
        Reason::ALL.iter().map(dropped).filter(|(_, count)| *count > 0).collect()
    }
}

/// What a worker had to copy.
fn copied(counters: &WorkerCounters) -> BTreeMap<String, Copied> {
    let of = |kind: &Copying| {
        let (frames, bytes) = counters.copied(*kind);
        (kind.name().to_owned(), Copied { frames, bytes })
    };
    Copying::ALL.iter().map(of).collect()
}

fn value(of: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(of).map_err(|error| error.to_string())
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Attached => "attached",
        Health::Down => "down",
        Health::Departed => "departed",
    }
}
