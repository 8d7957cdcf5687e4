//! What `culvert show` gives: an object with one key, the name of what was asked for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::carp::Role;
use crate::config::{Config, Device, Mtu, Payload, Port, Protect, RouteTarget, Sync, SyncProof, Tunnel};
use crate::report::{Counts, SaReport};

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Ports: their devices, and the frames through them
    Ports,
    /// Worker threads
    Workers,
    /// Tunnels: up or down and why, MTU, packets
    Tunnels,
    /// Security associations and their sequence numbers
    Sas,
    /// Routes as the engine has them
    Routes,
    /// Stations on the ports' links
    Neighbours,
    /// Addresses that this router shares with another, and who holds them
    Carp,
    /// Packets dropped, by reason
    Drops,
    /// What the daemon may still do, and what it has given up
    Privileges,
    /// The configuration as it is understood, without keys
    Config,
}

impl What {
    /// Its name on the command line and in requests.
    pub fn name(self) -> &'static str {
        match self {
            What::Ports => "ports",
            What::Workers => "workers",
            What::Tunnels => "tunnels",
            What::Sas => "sas",
            What::Routes => "routes",
            What::Neighbours => "neighbours",
            What::Carp => "carp",
            What::Drops => "drops",
            What::Privileges => "privileges",
            What::Config => "config",
        }
    }
}

/// A port, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct PortStatus {
    /// As the configuration names it: `xdp:eth0`.
    pub(super) device: String,
    /// How it works: `xdp, native, zero-copy`.
    pub(super) mode: String,
    pub(super) mac: String,
    /// In bytes of IP.
    pub(super) mtu: u16,
    /// `attached`, `down` (it resumes by itself) or `departed`.
    pub(super) health: String,
    /// Receive queues.
    pub(super) queues: usize,
    /// Frames received and sent.
    pub(super) rx: u64,
    pub(super) tx: u64,
    /// Frames that the device could not give to us, and that it did not take.
    pub(super) rx_lost: u64,
    pub(super) tx_lost: u64,
    /// Frames sent whose bytes had to be copied, since their buffers could not change places with the port's, and these bytes: 0 on
    /// ports that share buffers and give headroom.
    pub(super) copied_frames: u64,
    pub(super) copied_bytes: u64,
    /// Buffers that the kernel has to receive into and to send from; null where it takes none of ours. At rest it has all but one of
    /// each receive ring's slots, and none.
    pub(super) rx_lent: Option<u64>,
    pub(super) tx_lent: Option<u64>,
}

/// A worker, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct WorkerStatus {
    pub(super) worker: usize,
    /// The core that it stays on.
    pub(super) core: Option<usize>,
    /// Frames handled.
    pub(super) frames: u64,
    /// Processor time used, in seconds.
    pub(super) cpu_seconds: f64,
    /// The same in percent of the time that it runs.
    pub(super) cpu_percent: f64,
    /// What it took out of tunnels and put into them.
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// What it had to copy, by the reason: `transmit` (a port's buffers are not those that the frame came in), `headroom` (the port
    /// that the frame came by leaves no room in front for headers), `fan-out`, `interfaces`, `hand-over` (what is shared among
    /// workers, goes to the host by a tunnel's interface, or to another worker, has other buffers) and `exceptions` (what went through
    /// the thread for what is not a matter of nanoseconds: fragments, errors, packets that wait for a neighbour). 0 for traffic between
    /// ports that share buffers and give headroom.
    #[serde(default)]
    pub(super) copied: BTreeMap<String, Copied>,
}

/// Frames whose bytes were copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct Copied {
    pub(super) frames: u64,
    /// These bytes.
    pub(super) bytes: u64,
}

/// A tunnel, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct TunnelStatus {
    pub(super) local: String,
    pub(super) remote: IpAddr,
    /// `up`, `down`, or `backup`: another router has its near end.
    pub(super) state: String,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) why: Option<String>,
    /// A route leads its packets into more tunnels than they may be in, or has until lately.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) nesting: Option<NestingStatus>,
    /// The port that its packets leave by.
    pub(super) port: Option<String>,
    /// The tunnel that they go into before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) carrier: Option<String>,
    /// In bytes of an inner packet.
    pub(super) mtu: usize,
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// How many SAs it has.
    pub(super) sas: usize,
}

/// A route that leads a tunnel's packets into more tunnels than they may be in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct NestingStatus {
    /// All of it in a sentence.
    pub(super) why: String,
    /// The route.
    pub(super) route: String,
    /// The tunnels that packets would be in, their own first; one that it comes back to ends it.
    pub(super) path: Vec<String>,
    /// The way that the tunnel keeps instead; null: it has none and is down.
    pub(super) way: Option<String>,
    /// The routes are right again, and the tunnel follows them soon.
    pub(super) returning: bool,
}

/// The SAs of a tunnel, by its name.
pub(super) type Sas = Vec<SaStatus>;

/// An SA, in the configuration's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct SaStatus {
    #[serde(flatten)]
    pub(super) report: SaReport,
    /// Seconds since it was installed.
    pub(super) age: f64,
}

/// Addresses that this router shares with another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct CarpStatus {
    /// Always true: the state of CARP addresses is followed.
    pub(super) followed: bool,
    /// Which of the pair this router is: `first` or `second`.
    pub(super) router: String,
    /// It was told to let the other one be master.
    #[serde(default)]
    pub(super) yielded: bool,
    /// What keeps this router from being ready to be master; nothing: it is ready.
    #[serde(default)]
    pub(super) missing: Vec<String>,
    /// Hooks that have ended well, and otherwise.
    #[serde(default)]
    pub(super) hooks_done: u64,
    #[serde(default)]
    pub(super) hooks_failed: u64,
    /// By `VHID@IF`.
    pub(super) groups: BTreeMap<String, GroupStatus>,
    /// The link to the other router; null: `[carp.sync]` is not there.
    #[serde(default)]
    pub(super) sync: Option<LinkStatus>,
}

/// The link to the other router of the pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct LinkStatus {
    pub(super) up: bool,
    /// Who is there; null: nobody.
    pub(super) partner: Option<PartnerStatus>,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) why: Option<String>,
    /// For how long it has been so.
    pub(super) seconds: f64,
    /// Where this router listens, and where the other one should.
    pub(super) listen: SocketAddr,
    pub(super) to: SocketAddr,
    /// `secret` or `certificate`.
    pub(super) proof: String,
    /// Sessions so far.
    pub(super) sessions: u64,
    /// Bytes that wait to be sent, and to be heard.
    pub(super) waiting_out: usize,
    pub(super) waiting_in: usize,
    /// Frames sent and received, and their bytes.
    pub(super) out_frames: u64,
    pub(super) in_frames: u64,
    pub(super) out_bytes: u64,
    pub(super) in_bytes: u64,
    /// Connections refused: not from the partner's address, or not able to prove to be the partner.
    pub(super) refused: u64,
}

/// The router at the other end of the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct PartnerStatus {
    pub(super) address: SocketAddr,
    /// `first` or `second`.
    pub(super) router: String,
    /// What it runs.
    pub(super) program: String,
    /// The version of what the two say to each other.
    pub(super) version: u16,
    /// Whether it is ready to be master; null: it has not said, as those that speak version 1 do not.
    #[serde(default)]
    pub(super) ready: Option<bool>,
    /// What keeps it from being ready.
    #[serde(default)]
    pub(super) missing: Vec<String>,
}

impl LinkStatus {
    /// Before anything has happened.
    pub(super) fn down(settings: &Sync) -> LinkStatus {
        LinkStatus {
            up: false,
            partner: None,
            why: None,
            seconds: 0.0,
            listen: settings.listen,
            to: settings.partner,
            proof: settings.proof.name().to_owned(),
            sessions: 0,
            waiting_out: 0,
            waiting_in: 0,
            out_frames: 0,
            in_frames: 0,
            out_bytes: 0,
            in_bytes: 0,
            refused: 0,
        }
    }
}

/// An address that is shared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct GroupStatus {
    pub(super) address: IpAddr,
    /// What this router is.
    pub(super) role: Role,
    /// Why, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) why: Option<String>,
    /// For how long it has been that.
    pub(super) seconds: f64,
    /// How often that has changed.
    pub(super) changes: u64,
    /// Are both routers master, and have been for longer than it takes to hear of it? Then one of them is silent.
    #[serde(default)]
    pub(super) split: bool,
    /// It is this one.
    #[serde(default)]
    pub(super) silent: bool,
    /// Seconds between this router's advertisements; absent: not known here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) interval: Option<f64>,
    /// Tunnels that have it as their near end.
    pub(super) tunnels: Vec<String>,
}

/// A route, in the order of prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct RouteStatus {
    pub(super) prefix: String,
    /// `port wan via 192.0.2.254`, `tunnel oslo`, `host`, `discard`; several with their weights.
    pub(super) to: String,
}

/// A station, in the order of ports and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct NeighbourStatus {
    pub(super) port: String,
    pub(super) address: IpAddr,
    pub(super) mac: String,
}

/// A device as the configuration names it.
pub(super) fn device(device: &Device) -> String {
    match device {
        Device::Netmap(name) => format!("netmap:{name}"),
        Device::Xdp(name) => format!("xdp:{name}"),
        Device::Tap(name) => format!("tap:{name}"),
        Device::Pcap => "pcap".to_owned(),
        Device::Memory => "memory".to_owned(),
    }
}

/// The configuration with all its defaults, in the file's own words, without anything secret.
pub(super) fn configuration(config: &Config) -> Value {
    let routes = config.routes.iter().map(|route| match &route.target {
        RouteTarget::Port { port, via } => {
            json!({"prefix": route.prefix.to_string(), "port": port, "via": via})
        }
        RouteTarget::Tunnel(tunnel) => json!({"prefix": route.prefix.to_string(), "tunnel": tunnel}),
    });
    let neighbours = config.neighbours.iter().map(
        |station| json!({"address": station.address, "port": station.port, "mac": station.mac.to_string()}),
    );
    let tunnels = config.tunnels.iter().filter(|tunnel| !tunnel.is_vacant());
    json!({
        "engine": engine(config),
        "log": log(config),
        "metrics": metrics(config),
        "carp": carp(config),
        "port": config.ports.iter().map(port).collect::<Value>(),
        "tunnel": tunnels.map(tunnel).collect::<Value>(),
        "route": routes.collect::<Value>(),
        "neighbour": neighbours.collect::<Value>(),
    })
}

pub(crate) fn engine(config: &Config) -> Value {
    json!({
        "workers": config.engine.workers,
        "host_port": config.engine.host_port,
        "idle": config.engine.idle.name(),
    })
}

pub(crate) fn log(config: &Config) -> Value {
    json!({"level": config.log.level.name(), "format": config.log.format.name()})
}

pub(crate) fn metrics(config: &Config) -> Value {
    json!({"listen": config.metrics.listen})
}

/// `group`: the virtual addresses, by their groups.
pub(crate) fn carp(config: &Config) -> Value {
    let groups = config.carp.groups.iter();
    let groups: Map<String, Value> =
        groups.map(|group| (group.group.to_string(), json!(group.address))).collect();
    let hooks = config.carp.hooks.iter().map(|hook| {
        json!({
            "on": hook.on.iter().map(|event| event.name()).collect::<Vec<_>>(),
            "command": hook.command,
            "timeout": format!("{}ms", hook.timeout.as_millis()),
        })
    });
    let checks = config.carp.checks.iter().map(|check| {
        json!({
            "name": check.name,
            "command": check.command,
            "every": format!("{}ms", check.every.as_millis()),
            "timeout": format!("{}ms", check.timeout.as_millis()),
            "failures": check.failures,
        })
    });
    let advertises = config
        .carp
        .groups
        .iter()
        .filter_map(|group| Some((group.group.to_string(), json!(format!("{}/256 s", group.interval?)))));
    json!({
        "router": config.carp.router.name(),
        "group": groups,
        "advertises": advertises.collect::<Map<String, Value>>(),
        "sync": config.carp.sync.as_ref().map(sync),
        "ready_after": format!("{}s", config.carp.ready_after.as_secs()),
        "yield_on_stop": format!("{}ms", config.carp.yield_on_stop.as_millis()),
        "hook": hooks.collect::<Value>(),
        "check": checks.collect::<Value>(),
    })
}

/// Without the secret and what goes with a certificate.
fn sync(sync: &Sync) -> Value {
    let partner_name = match &sync.proof {
        SyncProof::Secret(_) => None,
        SyncProof::Certificate { partner_name, .. } => Some(partner_name),
    };
    json!({
        "listen": sync.listen,
        "partner": sync.partner,
        "proof": sync.proof.name(),
        "partner_name": partner_name,
        "heartbeat": format!("{}ms", sync.heartbeat.as_millis()),
        "dead": format!("{}ms", sync.dead.as_millis()),
    })
}

pub(crate) fn port(port: &Port) -> Value {
    json!({
        "name": port.name,
        "device": device(&port.device),
        "mac": port.mac.map(|mac| mac.to_string()),
        "addresses": port.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "mtu": port.mtu,
        "unsafe_emulation": port.unsafe_emulation,
    })
}

pub(crate) fn tunnel(tunnel: &Tunnel) -> Value {
    json!({
        "name": tunnel.name,
        "enabled": tunnel.enabled,
        "local": tunnel.local.to_string(),
        "remote": tunnel.remote,
        "inner": tunnel.inner.map(|inner| inner.to_string()),
        "peer": tunnel.peer,
        "routes": tunnel.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "key": tunnel.key,
        "checksum": tunnel.checksum,
        "sequence": tunnel.sequence,
        "ttl": tunnel.ttl,
        "mtu": match tunnel.mtu {
            Mtu::Auto => json!("auto"),
            Mtu::Bytes(bytes) => json!(bytes),
        },
        "payload": match tunnel.payload {
            Payload::Ip => "ip",
            Payload::Ethernet => "ethernet",
        },
        "encapsulation": tunnel.encapsulation.name(),
        "bridge": tunnel.bridge,
        "fragment": tunnel.fragment,
        "max_depth": tunnel.max_depth,
        "clamp_mss": tunnel.clamp_mss,
        "keepalive": tunnel.keepalive.map(|keepalive| json!({
            "period": format!("{}ms", keepalive.period.as_millis()),
            "retries": keepalive.retries,
        })),
        "protect": protection(&tunnel.protect),
    })
}

/// Everything but keys.
fn protection(protect: &Protect) -> Value {
    let mode = |mode: crate::config::Mode| match mode {
        crate::config::Mode::Transport => "transport",
        crate::config::Mode::Tunnel => "tunnel",
    };
    match protect {
        Protect::None => json!("none"),
        Protect::Manual(manual) => {
            let sas = manual.sas.iter().map(|sa| {
                let mut entry = Map::new();
                let direction = match sa.direction {
                    crate::config::Direction::In => "in",
                    crate::config::Direction::Out => "out",
                };
                entry.insert("direction".to_owned(), json!(direction));
                entry.insert("spi".to_owned(), json!(sa.spi));
                entry.insert("suite".to_owned(), json!(sa.suite.name()));
                entry.insert("esn".to_owned(), json!(sa.esn));
                if let Some(udp) = sa.udp_encap {
                    let ports = json!({"source": udp.source, "destination": udp.destination});
                    entry.insert("udp_encap".to_owned(), ports);
                }
                if sa.direction == crate::config::Direction::In {
                    entry.insert("replay_window".to_owned(), json!(sa.replay_window));
                }
                Value::Object(entry)
            });
            json!({"mode": mode(manual.mode), "pad": manual.pad, "manual": sas.collect::<Value>()})
        }
        Protect::Ike(ike) => json!({
            "mode": mode(ike.mode),
            "pad": ike.pad,
            "suites": ike.suites.iter().map(|suite| suite.name()).collect::<Vec<_>>(),
            "replay_window": ike.replay_window,
            "esn": ike.esn,
            "ike": ike_settings(ike),
        }),
    }
}

/// The `ike` table, without what it names files for.
fn ike_settings(ike: &crate::config::Ike) -> Value {
    let mut settings = json!({"auth": ike.auth.name(), "local_id": ike.local_id, "remote_id": ike.remote_id, "profile": ike.profile.name(), "mobike": ike.mobike, "dpd": ike.dpd.as_secs()});
    if let Some(role) = ike.auth.role() {
        settings["role"] = json!(match role {
            crate::config::Role::Initiator => "initiator",
            crate::config::Role::Responder => "responder",
        });
    }
    let lives = &ike.lifetimes;
    let counts = [("bytes", lives.bytes), ("packets", lives.packets)];
    for (what, life) in counts.into_iter().filter_map(|(what, life)| life.map(|life| (what, life))) {
        settings[format!("rekey_{what}")] = json!(life.rekey);
        settings[format!("life_{what}")] = json!(life.end);
    }
    for (name, time) in [
        ("rekey", Some(lives.time.rekey)),
        ("life", Some(lives.time.end)),
        ("ike_rekey", Some(lives.ike.rekey)),
        ("ike_life", Some(lives.ike.end)),
        ("reauth", lives.reauth),
    ] {
        settings[name] = json!(time.map(|time| time.as_secs()));
    }
    settings["sas"] = json!(ike.sas);
    settings["ml_kem"] = json!(ike.ml_kem.name());
    settings["jitter"] = json!(format!("{}%", lives.jitter));
    if let Some(trust) = ike.auth.trust() {
        settings["revocation"] = json!(trust.revocation.name());
    }
    settings
}

/// What `show` results and `watch` records consist of, for the schema.
#[cfg(test)]
pub(crate) mod schema {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::super::privileges::Privileges;
    use super::{CarpStatus, NeighbourStatus, PortStatus, RouteStatus, Sas, TunnelStatus, WorkerStatus};

    /// The result of `show`, which has one of these keys, and a record of `watch`, which has those that were asked for.
    #[derive(serde::Serialize, schemars::JsonSchema)]
    #[schemars(deny_unknown_fields)]
    pub(crate) struct Shown {
        /// Seconds since the daemon was started; in records alone.
        uptime: Option<f64>,
        /// By name.
        ports: Option<BTreeMap<String, PortStatus>>,
        workers: Option<Vec<WorkerStatus>>,
        /// By name.
        tunnels: Option<BTreeMap<String, TunnelStatus>>,
        /// By the tunnel's name.
        sas: Option<BTreeMap<String, Sas>>,
        routes: Option<Vec<RouteStatus>>,
        neighbours: Option<Vec<NeighbourStatus>>,
        carp: Option<CarpStatus>,
        /// Packets by reason; those that there were any of.
        drops: Option<BTreeMap<String, u64>>,
        privileges: Option<Privileges>,
        /// The configuration with all its defaults, in the file's own words, without anything secret.
        config: Option<Value>,
    }
}
