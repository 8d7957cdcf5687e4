//! What the daemon measures, as Prometheus reads it, and the endpoint that gives it.
//!
//! A series for each port, worker, tunnel, SA and reason of drops, none for any two of them: a router with 10,000 tunnels has
//! some 80,000. Names that come and go (neighbours, routes) are only counted.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Sender, bounded};
use culvert_engine::drops::Reason;
use serde_json::Value;

use super::Daemon;
use super::bell::Bell;
use super::log;
use super::server::{Answer, Query};
use super::status::{Copied, PortStatus};
use crate::api::Command;
use crate::carp::Role;
use crate::metrics::exposition::{Exposition, Kind};
use crate::metrics::http;
use crate::report::{Counts, Numbers};

/// How long the control thread may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The endpoint's socket, not served yet.
pub(super) struct Endpoint(TcpListener);

impl Endpoint {
    /// Listens. Where the address is taken, or not ours, the daemon says so and goes on without: packets matter more.
    pub(super) fn bind(address: SocketAddr) -> Option<Endpoint> {
        let told = |error: &io::Error| {
            log::error(format_args!(
                "metrics, listen: {address}: {error}; culvert metrics has them, restart culvert to listen"
            ));
        };
        TcpListener::bind(address).map(Endpoint).inspect_err(told).ok()
    }

    /// Answers scrapers from now on: `queries` go to the thread that `bell` wakes.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn serve(self, queries: Sender<Query>, bell: Arc<Bell>) -> io::Result<()> {
        http::serve(self.0, move || {
            let busy = || "the daemon is busy; try again".to_owned();
            let (answer, answered) = bounded(1);
            queries.try_send(Query::look(Command::Metrics {}, answer)).map_err(|_| busy())?;
            bell.wake();
            match answered.recv_timeout(PATIENCE) {
                Ok(Ok(Answer::Once(Value::String(page)))) => Ok(page),
                Ok(Err(failure)) => Err(failure.lines().join("; ")),
                Ok(Ok(_)) | Err(_) => Err(busy()),
            }
        })
    }
}

/// What is measured of copies.
type OfCopied = fn(&Copied) -> u64;
/// What is counted of a port.
type OfPort = fn(&PortStatus) -> u64;

/// A state as a number.
fn flag(is: bool) -> u8 {
    u8::from(is)
}

impl Daemon {
    /// Everything that is measured, in Prometheus' text format.
    pub(super) fn metrics(&self) -> String {
        let mut text = Exposition::default();
        let version = env!("CARGO_PKG_VERSION");
        text.family(Kind::Gauge, "culvert_build_info", "Always 1; the label tells the version.")
            .sample(&[("version", version)], 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = now.saturating_sub(self.started.elapsed()).as_secs_f64();
        text.family(Kind::Gauge, "culvert_start_time_seconds", "When the daemon was started, since 1970.")
            .sample(&[], format_args!("{start:.3}"));
        self.measure_ports(&mut text);
        self.measure_workers(&mut text);
        self.measure_tunnels(&mut text);
        self.measure_sas(&mut text);
        self.measure_negotiations(&mut text);
        self.measure_carp(&mut text);
        let mut drops = text.family(Kind::Counter, "culvert_drops_total", "Packets dropped, by reason.");
        for reason in Reason::ALL {
            let count: u64 = self.counters.iter().map(|counters| counters.dropped(*reason)).sum();
            drops.sample(&[("reason", reason.name())], count);
        }
        text.family(Kind::Gauge, "culvert_routes", "Routes of the engine.")
            .sample(&[], self.view.routes.len());
        text.family(
            Kind::Gauge,
            "culvert_neighbours",
            "Stations on the links of ports whose addresses are known.",
        )
        .sample(&[], self.view.neighbours.len());
        text.into_text()
    }

    fn measure_carp(&self, text: &mut Exposition) {
        let carp = self.show_carp();
        let help = "Whether this router holds the shared address.";
        let mut master = text.family(Kind::Gauge, "culvert_carp_master", help);
        for (group, of) in &carp.groups {
            let address = of.address.to_string();
            let labels = [("group", group.as_str()), ("address", address.as_str())];
            master.sample(&labels, flag(of.role == Role::Master));
        }
        let help = "Changes of this router's role.";
        let mut changes = text.family(Kind::Counter, "culvert_carp_changes_total", help);
        carp.groups.iter().for_each(|(group, of)| changes.sample(&[("group", group)], of.changes));
        let help = "Whether both routers are master.";
        let mut split = text.family(Kind::Gauge, "culvert_carp_split", help);
        carp.groups.iter().for_each(|(group, of)| split.sample(&[("group", group)], flag(of.split)));
        if self.config.carp.at.is_some() {
            text.family(Kind::Gauge, "culvert_carp_ready", "Whether this router is ready to be master.")
                .sample(&[], flag(carp.missing.is_empty()));
        }
        let help = "Hooks that have ended, by result.";
        let mut hooks = text.family(Kind::Counter, "culvert_carp_hooks_total", help);
        hooks.sample(&[("result", "done")], carp.hooks_done);
        hooks.sample(&[("result", "failed")], carp.hooks_failed);
        let Some(link) = carp.sync else { return };
        let version = link.partner.as_ref().map_or(String::new(), |partner| partner.version.to_string());
        let program = link.partner.as_ref().map_or("", |partner| &partner.program);
        text.family(Kind::Gauge, "culvert_carp_sync_up", "Whether the other router of the pair is linked.")
            .sample(&[("program", program), ("version", &version)], flag(link.up));
        if let Some(ready) = link.partner.as_ref().and_then(|partner| partner.ready) {
            let help = "Whether the other router says that it is ready to be master.";
            text.family(Kind::Gauge, "culvert_carp_partner_ready", help).sample(&[], flag(ready));
        }
        text.family(Kind::Counter, "culvert_carp_sync_sessions_total", "Links with it so far.")
            .sample(&[], link.sessions);
        let help = "Connections refused: not the other router, or not able to prove it.";
        text.family(Kind::Counter, "culvert_carp_sync_refused_total", help).sample(&[], link.refused);
        for (kind, name, help, [sent, received]) in [
            (
                Kind::Counter,
                "culvert_carp_sync_frames_total",
                "What the two say to each other.",
                [link.out_frames, link.in_frames],
            ),
            (
                Kind::Counter,
                "culvert_carp_sync_bytes_total",
                "The same in bytes.",
                [link.out_bytes, link.in_bytes],
            ),
            (
                Kind::Gauge,
                "culvert_carp_sync_waiting_bytes",
                "What waits to be sent, or to be heard.",
                [link.waiting_out as u64, link.waiting_in as u64],
            ),
        ] {
            let mut family = text.family(kind, name, help);
            family.sample(&[("direction", "out")], sent);
            family.sample(&[("direction", "in")], received);
        }
    }

    fn measure_ports(&self, text: &mut Exposition) {
        let ports = self.show_ports();
        let mut up = text.family(Kind::Gauge, "culvert_port_up", "Whether the port has its device and link.");
        for (name, port) in &ports {
            up.sample(&[("port", name), ("device", &port.device)], flag(port.health == "attached"));
        }
        let mut mtu = text.family(Kind::Gauge, "culvert_port_mtu_bytes", "The longest IP packet.");
        ports.iter().for_each(|(name, port)| mtu.sample(&[("port", name)], port.mtu));
        let families: [(_, _, OfPort); 6] = [
            ("culvert_port_receive_frames_total", "Frames received.", |port| port.rx),
            ("culvert_port_transmit_frames_total", "Frames sent.", |port| port.tx),
            (
                "culvert_port_receive_lost_frames_total",
                "Frames that the device could not give to the engine.",
                |port| port.rx_lost,
            ),
            ("culvert_port_transmit_lost_frames_total", "Frames that the device did not take.", |port| {
                port.tx_lost
            }),
            (
                "culvert_port_transmit_copied_frames_total",
                "Frames sent whose bytes had to be copied: 0 on ports that share buffers.",
                |port| port.copied_frames,
            ),
            ("culvert_port_transmit_copied_bytes_total", "Bytes copied to send them.", |port| {
                port.copied_bytes
            }),
        ];
        for (metric, help, of) in families {
            let mut family = text.family(Kind::Counter, metric, help);
            ports.iter().for_each(|(name, port)| family.sample(&[("port", name)], of(port)));
        }
    }

    fn measure_workers(&self, text: &mut Exposition) {
        let workers = self.show_workers();
        let numbered = || workers.iter().map(|worker| (worker.worker.to_string(), worker));
        let mut frames = text.family(Kind::Counter, "culvert_worker_frames_total", "Frames handled.");
        numbered().for_each(|(number, worker)| frames.sample(&[("worker", &number)], worker.frames));
        let mut cpu = text.family(Kind::Counter, "culvert_worker_cpu_seconds_total", "Processor time used.");
        numbered().for_each(|(number, worker)| cpu.sample(&[("worker", &number)], worker.cpu_seconds));
        let names = [
            ("culvert_worker_receive_packets_total", "Packets that the worker took out of tunnels."),
            ("culvert_worker_receive_bytes_total", "Bytes of packets that the worker took out of tunnels."),
            ("culvert_worker_transmit_packets_total", "Packets that the worker put into tunnels."),
            ("culvert_worker_transmit_bytes_total", "Bytes of packets that the worker put into tunnels."),
        ];
        let counts: Vec<_> = numbered().map(|(number, worker)| (number, worker.counts)).collect();
        measure_counts(
            text,
            "worker",
            names,
            counts.iter().map(|(number, counts)| (number.as_str(), *counts)),
        );
        let families: [(_, _, OfCopied); 2] = [
            (
                "culvert_worker_copied_frames_total",
                "Frames whose bytes had to be copied, by the reason: 0 between ports that share buffers and give headroom.",
                |copied| copied.frames,
            ),
            ("culvert_worker_copied_bytes_total", "Bytes of frames that had to be copied.", |copied| {
                copied.bytes
            }),
        ];
        for (metric, help, of) in families {
            let mut family = text.family(Kind::Counter, metric, help);
            for (number, worker) in numbered() {
                for (kind, copied) in &worker.copied {
                    family.sample(&[("worker", number.as_str()), ("kind", kind)], of(copied));
                }
            }
        }
    }

    fn measure_tunnels(&self, text: &mut Exposition) {
        let tunnels = self.show_tunnels();
        let mut up =
            text.family(Kind::Gauge, "culvert_tunnel_up", "Whether packets can be sent into the tunnel.");
        tunnels.iter().for_each(|(name, tunnel)| up.sample(&[("tunnel", name)], flag(tunnel.state == "up")));
        let mut held = text.family(
            Kind::Gauge,
            "culvert_tunnel_held",
            "Whether the tunnel is kept off a route that leads it into more tunnels than it may be in.",
        );
        tunnels
            .iter()
            .for_each(|(name, tunnel)| held.sample(&[("tunnel", name)], flag(tunnel.nesting.is_some())));
        let mut mtu =
            text.family(Kind::Gauge, "culvert_tunnel_mtu_bytes", "The longest packet inside the tunnel.");
        tunnels.iter().for_each(|(name, tunnel)| mtu.sample(&[("tunnel", name)], tunnel.mtu));
        let names = [
            ("culvert_tunnel_receive_packets_total", "Packets that came out of the tunnel."),
            ("culvert_tunnel_receive_bytes_total", "Bytes of packets that came out of the tunnel."),
            ("culvert_tunnel_transmit_packets_total", "Packets that went into the tunnel."),
            ("culvert_tunnel_transmit_bytes_total", "Bytes of packets that went into the tunnel."),
        ];
        measure_counts(text, "tunnel", names, tunnels.iter().map(|(name, tunnel)| (*name, tunnel.counts)));
    }

    /// Where there are any: those of 10,000 tunnels are counted, and are no series each.
    fn measure_negotiations(&self, text: &mut Exposition) {
        let Some(pilot) = self.keys.pilot() else { return };
        text.family(Kind::Gauge, "culvert_charon_up", "Whether strongSwan's daemon takes requests (VICI).")
            .sample(&[], flag(pilot.is_connected()));
        let mut states = text.family(
            Kind::Gauge,
            "culvert_negotiations",
            "Tunnels whose keys strongSwan negotiates, by how far they are.",
        );
        for (state, count) in pilot.states() {
            states.sample(&[("state", state)], count);
        }
        let mut mappings = text.family(
            Kind::Counter,
            "culvert_nat_mapping_changes_total",
            "How often a NAT has given the tunnel's far end another address or port.",
        );
        for (tunnel, count) in self.keys.mapping_counts() {
            mappings.sample(&[("tunnel", tunnel)], count);
        }
    }

    fn measure_sas(&self, text: &mut Exposition) {
        let sas = self.show_sas();
        let all: Vec<_> = sas
            .iter()
            .flat_map(|(tunnel, sas)| {
                sas.iter().map(move |sa| (*tunnel, format!("{:#010x}", sa.report.spi), sa))
            })
            .collect();
        let labelled = || {
            all.iter().map(|(tunnel, spi, sa)| {
                let direction = sa.report.direction.as_str();
                ([("tunnel", *tunnel), ("direction", direction), ("spi", spi.as_str())], sa)
            })
        };
        let mut age = text.family(Kind::Gauge, "culvert_sa_age_seconds", "Time since the SA was installed.");
        labelled().for_each(|(labels, sa)| age.sample(&labels, format_args!("{:.3}", sa.age)));
        let mut live = text.family(Kind::Gauge, "culvert_sa_live", "0: its numbers are used up.");
        labelled().for_each(|(labels, sa)| live.sample(&labels, flag(sa.report.state == "live")));
        let mut number = text.family(
            Kind::Gauge,
            "culvert_sa_sequence_number",
            "Numbers used by an SA that sends, the highest received by one that receives.",
        );
        for (labels, sa) in labelled() {
            let (Numbers::Out { used: last, .. } | Numbers::In { highest: last }) = sa.report.numbers;
            number.sample(&labels, last);
        }
        let mut remaining = text.family(
            Kind::Gauge,
            "culvert_sa_remaining_packets",
            "Packets that an SA that sends can still send.",
        );
        for (labels, sa) in labelled() {
            if let Numbers::Out { remaining: left, .. } = sa.report.numbers {
                remaining.sample(&labels, left);
            }
        }
    }
}

/// Four families: packets and bytes, out of tunnels and into them, by `label`.
fn measure_counts<'a>(
    text: &mut Exposition,
    label: &str,
    names: [(&'static str, &'static str); 4],
    of: impl Iterator<Item = (&'a str, Counts)> + Clone,
) {
    let counts: [fn(&Counts) -> u64; 4] = [
        |counts| counts.in_packets,
        |counts| counts.in_bytes,
        |counts| counts.out_packets,
        |counts| counts.out_bytes,
    ];
    for ((name, help), count) in names.into_iter().zip(counts) {
        let mut family = text.family(Kind::Counter, name, help);
        of.clone().for_each(|(value, counts)| family.sample(&[(label, value)], count(&counts)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_address_the_daemon_goes_on() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("its address");
        assert!(Endpoint::bind(address).is_none());
        drop(taken);
        assert!(Endpoint::bind(address).is_some());
    }
}
