//! The entries of a configuration file, one function each: `[engine]`, `[[port]]`, `[[tunnel]]` with its protection,
//! `[[route]]` and `[[neighbour]]`. Each asks for all of its keys before it decides anything, so that one run tells
//! everything that is wrong; an entry with an error is left out of the model.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use toml::de::DeValue;
use zeroize::Zeroizing;

use super::ike;
use super::model::{
    Config, Device, Direction, Encapsulation, Engine, Idle, Keepalive, Local, MAX_DEPTH, Manual, ManualSa,
    Mode, Mtu, Neighbour, Payload, Port, Prefix, Protect, Route, RouteTarget, Secret, Suite, Tunnel,
    UdpEncap,
};
use super::reader::{Table, number, wrong_kind};
use super::report::{Fault, Position, Report};
use super::source::{Document, Loader};
use super::values::{self, quoted};
use super::{carp, watching};

/// SPIs below this are reserved (RFC 4303 section 2.1).
const FIRST_SPI: i128 = 256;

/// Every IPv4 host takes packets of this many bytes (RFC 791 section 3.2).
const MIN_MTU: i128 = 576;

/// The least that a link must carry for IPv6 (RFC 8200 section 5).
const MIN_MTU_IPV6: u16 = 1280;

/// The longest IPv4 packet (RFC 791 section 3.1).
const MAX_MTU: i128 = 65535;

/// Windows from RFC 4303 section 3.4.3's recommended size up to the largest that the engine keeps.
const REPLAY_WINDOW: std::ops::RangeInclusive<i128> = 64..=65536;
const DEFAULT_REPLAY_WINDOW: u32 = 1024;

/// UDP port of encapsulated ESP (RFC 3948 section 2.1).
const UDP_ENCAP_PORT: u16 = 4500;

/// Multiple that ESP plaintext is padded to where nothing is said: AES-GCM works on blocks of this many bytes.
const DEFAULT_PAD: u8 = 16;

/// What has been read so far.
#[derive(Default)]
pub(super) struct Draft {
    /// The entries without an error.
    pub(super) config: Config,
    /// Names of all ports, those with errors as well.
    pub(super) ports: HashMap<String, Position>,
    /// Names of all tunnels, those with errors as well.
    pub(super) tunnels: HashMap<String, Position>,
}

/// Reads the file that was named on the command line. Gives the files it includes and where it does so.
pub(super) fn read_top(
    document: &Document,
    draft: &mut Draft,
    report: &mut Report,
) -> Vec<(PathBuf, Option<Position>)> {
    let Some(entries) = document.parse(report) else { return Vec::new() };
    let mut table = Table::root(document, entries);
    let includes =
        table.texts("include", report, |pattern| Loader::expand(pattern, document)).unwrap_or_default();
    read_entries(table, draft, report);
    let files = includes.into_iter();
    files.flat_map(|(files, at)| files.into_iter().map(move |file| (file, Some(at.clone())))).collect()
}

/// Reads a file that another one includes.
pub(super) fn read_included(document: &Document, draft: &mut Draft, report: &mut Report) {
    let Some(entries) = document.parse(report) else { return };
    let mut table = Table::root(document, entries);
    if let Some(entry) = table.take("include") {
        let why = "an included file cannot include others";
        report.error("include", &entry.at, Fault::new(why, "name the files in the top file's `include`"));
    }
    read_entries(table, draft, report);
}

fn read_entries(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    if let Some(engine) = table.table("engine", report) {
        read_engine(engine, draft, report);
    }
    if let Some(log) = table.table("log", report) {
        watching::read_log(log, draft, report);
    }
    if let Some(metrics) = table.table("metrics", report) {
        watching::read_metrics(metrics, draft, report);
    }
    if let Some(carp) = table.table("carp", report) {
        carp::read(carp, draft, report);
    }
    for port in table.tables("port", report) {
        read_port(port, draft, report);
    }
    for tunnel in table.tables("tunnel", report) {
        read_tunnel(tunnel, draft, report);
    }
    for route in table.tables("route", report) {
        draft.config.routes.extend(read_route(route, report));
    }
    for neighbour in table.tables("neighbour", report) {
        draft.config.neighbours.extend(read_neighbour(neighbour, report));
    }
    table.finish(report);
}

fn read_engine(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    if let Some(first) = &draft.config.engine.at {
        let why = format!("there is one at {first} already");
        report.error("engine", &table.at, Fault::new(why, "put all of it into one [engine]"));
    }
    let workers = table.number("workers", 0..=256, report);
    let host_port = table.boolean("host_port", report);
    let words = [Idle::Adaptive, Idle::Spin].map(|idle| (idle.name(), idle));
    let idle = table.text("idle", report, |text| values::word(text, &words));
    let default = Engine::default();
    draft.config.engine = Engine {
        workers: workers.unwrap_or(default.workers),
        host_port: host_port.unwrap_or(default.host_port),
        idle: idle.unwrap_or(default.idle),
        at: Some(table.at.clone()),
    };
    table.finish(report);
}

/// Takes the name of a port or tunnel, calls the table by it from now on, and notes it in `names`.
fn read_name(
    table: &mut Table<'_>,
    kind: &str,
    names: &mut HashMap<String, Position>,
    report: &mut Report,
) -> Option<String> {
    table.require("name", "give it a name: name = \"NAME\"", report);
    let text = table.text("name", report, |text| Ok(text.to_owned()))?;
    table.what = format!("{kind} {}", quoted(&text));
    if let Some(first) = names.get(&text) {
        let why = format!("there is one of this name at {first} already");
        report.error(table.what.clone(), &table.at, Fault::new(why, "choose another name"));
        return None;
    }
    names.insert(text.clone(), table.at.clone());
    match values::name(&text) {
        Ok(name) => Some(name),
        Err(fault) => {
            report.error(table.name_of("name"), &table.at, fault);
            None
        }
    }
}

fn read_port(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    let name = read_name(&mut table, "port", &mut draft.ports, report);
    table.require("device", "say what carries its frames: device = \"netmap:IF\" or another", report);
    let device = table.text("device", report, values::device);
    let mac = table.text("mac", report, values::mac);
    let addresses = without_positions(table.texts("addresses", report, values::interface_address));
    let mtu = table.number("mtu", MIN_MTU..=MAX_MTU, report);
    if let Some(mtu) = mtu
        && mtu < MIN_MTU_IPV6
        && addresses.iter().any(|address| address.addr.is_ipv6())
    {
        refuse_ipv6_mtu(&table, mtu, report);
    }
    let unsafe_emulation = table.boolean("unsafe_emulation", report).unwrap_or_default();
    if unsafe_emulation && !matches!(device, Some(Device::Netmap(_)) | None) {
        let why = "only netmap is emulated".to_owned();
        let fault = Fault::new(why, "take the line out, or use device = \"netmap:IF\"");
        report.error(table.name_of("unsafe_emulation"), &table.at, fault);
    }
    let at = table.at.clone();
    table.finish(report);
    if let (Some(name), Some(device)) = (name, device) {
        draft.config.ports.push(Port { name, device, mac, addresses, mtu, unsafe_emulation, at });
    }
}

fn refuse_ipv6_mtu(table: &Table<'_>, mtu: u16, report: &mut Report) {
    let why = format!("{mtu} bytes are too few for IPv6 (RFC 8200 section 5)");
    let remedy = format!("give {MIN_MTU_IPV6} or more, or take the IPv6 addresses out");
    report.error(table.name_of("mtu"), &table.at, Fault::new(why, remedy));
}

fn without_positions<T>(list: Option<Vec<(T, Position)>>) -> Vec<T> {
    list.unwrap_or_default().into_iter().map(|(value, _)| value).collect()
}

fn read_tunnel(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    let name = read_name(&mut table, "tunnel", &mut draft.tunnels, report);
    let enabled = table.boolean("enabled", report).unwrap_or(true);
    table.require("local", "give our outer address: local = \"192.0.2.1\" or \"carp:VHID@IF\"", report);
    let local = table.text("local", report, values::local);
    table.require("remote", "give the far router's outer address: remote = \"192.0.2.2\"", report);
    let remote = table.text("remote", report, values::host_address);
    check_ends(&table, local.as_ref(), remote, report);
    let inner = table.text("inner", report, values::interface_address);
    let peer = table.text("peer", report, values::host_address);
    check_inner(&table, inner, peer, report);
    let routes = without_positions(table.texts("routes", report, values::network));
    let key = table.number("key", 0..=i128::from(u32::MAX), report);
    let checksum = table.boolean("checksum", report).unwrap_or(false);
    let sequence = table.boolean("sequence", report).unwrap_or(false);
    let ttl = table.number("ttl", 1..=255, report).unwrap_or(64);
    let mtu = table.convert("mtu", report, read_mtu).unwrap_or(Mtu::Auto);
    let ipv6_inside =
        routes.iter().chain(&inner).map(|prefix| prefix.addr).chain(peer).any(|addr| addr.is_ipv6());
    if let Mtu::Bytes(mtu) = mtu
        && mtu < MIN_MTU_IPV6
        && ipv6_inside
    {
        refuse_ipv6_mtu(&table, mtu, report);
    }
    let fragment = table.boolean("fragment", report).unwrap_or(false);
    let clamp_mss = table.boolean("clamp_mss", report).unwrap_or(true);
    let max_depth = table.number("max_depth", 1..=i128::from(MAX_DEPTH), report).unwrap_or(1);
    let (payload, bridge) = read_payload(&mut table, report);
    let keepalive = table.table("keepalive", report).and_then(|table| read_keepalive(table, report));
    let protect = read_protect(&mut table, report);
    if payload == Payload::Ethernet && keepalive.is_some() {
        let why = "GRE keepalives are IP packets, which a tunnel of Ethernet frames does not carry";
        report.error(table.name_of("keepalive"), &table.at, Fault::new(why, "take `keepalive` out"));
    }
    let encapsulation = read_encapsulation(&mut table, protect.as_ref(), keepalive, report);
    let at = table.at.clone();
    table.finish(report);
    if let (Some(name), Some(local), Some(remote), Some(protect)) = (name, local, remote, protect) {
        draft.config.tunnels.push(Tunnel {
            name,
            enabled,
            local,
            remote,
            inner,
            peer,
            routes,
            key,
            checksum,
            sequence,
            ttl,
            mtu,
            fragment,
            clamp_mss,
            payload,
            encapsulation,
            bridge,
            keepalive,
            max_depth,
            protect,
            at,
        });
    }
}

fn check_ends(table: &Table<'_>, local: Option<&Local>, remote: Option<IpAddr>, report: &mut Report) {
    let (Some(Local::Address(local)), Some(remote)) = (local, remote) else { return };
    if *local == remote {
        let why = format!("{remote} is `local` as well");
        report.error(
            table.name_of("remote"),
            &table.at,
            Fault::new(why, "give the far router's outer address"),
        );
    } else if local.is_ipv4() != remote.is_ipv4() {
        let why = format!("`local` {local} and `remote` {remote} are of two families");
        report.error(
            table.name_of("remote"),
            &table.at,
            Fault::new(why, "give two IPv4 or two IPv6 addresses"),
        );
    }
}

fn check_inner(table: &Table<'_>, inner: Option<Prefix>, peer: Option<IpAddr>, report: &mut Report) {
    let (Some(inner), Some(peer)) = (inner, peer) else { return };
    if inner.addr == peer {
        let why = format!("{peer} is our own `inner` address");
        report.error(
            table.name_of("peer"),
            &table.at,
            Fault::new(why, "give the far router's inner address"),
        );
    } else if inner.addr.is_ipv4() != peer.is_ipv4() {
        let why = format!("`inner` {inner} and `peer` {peer} are of two families");
        report.error(
            table.name_of("peer"),
            &table.at,
            Fault::new(why, "give two IPv4 or two IPv6 addresses"),
        );
    }
}

fn read_mtu(value: DeValue<'_>) -> Result<Mtu, Fault> {
    match value {
        DeValue::String(text) => values::word(&text, &[("auto", Mtu::Auto)]),
        DeValue::Integer(_) => number(&value, MIN_MTU..=MAX_MTU).map(Mtu::Bytes),
        other => Err(wrong_kind(&other, "\"auto\" or a number of bytes")),
    }
}

/// What the tunnel carries, and the port that its Ethernet frames are bridged with.
fn read_payload(table: &mut Table<'_>, report: &mut Report) -> (Payload, Option<String>) {
    let has_bridge = table.has("bridge");
    let unreadable = table.has("payload");
    let payload = table.text("payload", report, values::payload);
    let bridge = table.text("bridge", report, |text| Ok(text.to_owned()));
    match payload {
        Some(Payload::Ethernet) if !has_bridge => {
            let why = "nothing says which port's frames it carries, so it carries none";
            let remedy = "name the port: bridge = \"PORT\"";
            report.warning(table.name_of("bridge"), &table.at, Fault::new(why, remedy));
        }
        Some(Payload::Ip) if has_bridge => refuse_bridge(table, report),
        None if has_bridge && !unreadable => refuse_bridge(table, report),
        _ => {}
    }
    (payload.unwrap_or(Payload::Ip), bridge)
}

fn refuse_bridge(table: &Table<'_>, report: &mut Report) {
    let why = "a tunnel that carries IP packets is not bridged with a port";
    let remedy = "say payload = \"ethernet\", or take `bridge` out";
    report.error(table.name_of("bridge"), &table.at, Fault::new(why, remedy));
}

/// What the GRE packets go in. RFC 8086 gives UDP to GRE that nothing else is put around.
fn read_encapsulation(
    table: &mut Table<'_>,
    protect: Option<&Protect>,
    keepalive: Option<Keepalive>,
    report: &mut Report,
) -> Encapsulation {
    const NAMES: [Encapsulation; 2] = [Encapsulation::Gre, Encapsulation::Udp];
    let words = NAMES.map(|encapsulation| (encapsulation.name(), encapsulation));
    let encapsulation =
        table.text("encapsulation", report, |text| values::word(text, &words)).unwrap_or(Encapsulation::Gre);
    if encapsulation == Encapsulation::Udp {
        if matches!(protect, Some(Protect::Manual(_) | Protect::Ike(_))) {
            let why =
                "GRE goes in UDP only where it is not protected: ESP has a UDP encapsulation of its own";
            let remedy = "take `encapsulation` out; to cross a NAT, give manual SAs `udp_encap`, IKE finds out by itself";
            report.error(table.name_of("encapsulation"), &table.at, Fault::new(why, remedy));
        }
        if keepalive.is_some() {
            let why =
                "GRE keepalives are not defined for GRE in UDP: the far end would send them back without UDP";
            let remedy = "take `keepalive` or `encapsulation` out";
            report.error(table.name_of("keepalive"), &table.at, Fault::new(why, remedy));
        }
    }
    encapsulation
}

fn read_keepalive(mut table: Table<'_>, report: &mut Report) -> Option<Keepalive> {
    table.require("period", "give the time between two: period = \"10s\"", report);
    let period = table.text("period", report, values::period);
    let retries = table.number("retries", 1..=255, report).unwrap_or(3);
    table.finish(report);
    Some(Keepalive { period: period?, retries })
}

/// What a tunnel says about its protection. It has to say something: a forgotten table must not send in clear.
fn read_protect(table: &mut Table<'_>, report: &mut Report) -> Option<Protect> {
    let remedy = "add [tunnel.protect], or say protect = \"none\" to send in clear";
    table.require("protect", remedy, report);
    if !table.has("protect") {
        return None;
    }
    if table.is_text("protect") {
        return table
            .text("protect", report, |text| values::word(text, &[("none", ())]))
            .map(|()| Protect::None);
    }
    let protect = table.table("protect", report)?;
    read_protection(protect, report)
}

/// The settings that all SAs of a tunnel share.
pub(super) struct Shared {
    pub(super) mode: Mode,
    pub(super) pad: u8,
    pub(super) esn: Option<bool>,
    pub(super) replay_window: u32,
}

fn read_protection(mut table: Table<'_>, report: &mut Report) -> Option<Protect> {
    let shared = Shared {
        mode: table.text("mode", report, values::mode).unwrap_or(Mode::Transport),
        pad: table.convert("pad", report, read_pad).unwrap_or(DEFAULT_PAD),
        esn: table.boolean("esn", report),
        replay_window: table.number("replay_window", REPLAY_WINDOW, report).unwrap_or(DEFAULT_REPLAY_WINDOW),
    };
    let suites = read_suites(&mut table, report);
    let has_ike = table.has("ike");
    let ike = table.table("ike", report).and_then(|table| ike::read(table, &shared, suites, report));
    let has_manual = table.has("manual");
    let manual = read_manual(&mut table, &shared, report);
    if let Some(manual) = manual.as_ref().filter(|_| !has_ike) {
        check_directions(&table, manual, report);
    }
    let (what, at) = (table.what.clone(), table.at.clone());
    table.finish(report);
    match (has_ike, has_manual) {
        (true, with_manual) => {
            if with_manual {
                // Fixed keys never win by accident: they stay the same after a restart.
                let why = "the manual SAs beside `ike` are not used";
                report.warning(what, &at, Fault::new(why, "take one of the two out"));
            }
            ike.map(|ike| Protect::Ike(Box::new(ike)))
        }
        (false, true) => manual.map(Protect::Manual),
        (false, false) => {
            let why = "nothing gives it keys";
            let remedy = "add `ike`, or [[tunnel.protect.manual]] for tests; or say protect = \"none\"";
            report.error(what, &at, Fault::new(why, remedy));
            None
        }
    }
}

fn read_pad(value: DeValue<'_>) -> Result<u8, Fault> {
    match number(&value, 4..=16)? {
        pad @ (4 | 16) => Ok(pad),
        other => Err(Fault::new(format!("{other} is not a possible padding"), "give 4 or 16")),
    }
}

fn read_suites(table: &mut Table<'_>, report: &mut Report) -> Vec<Suite> {
    let what = table.name_of("suites");
    let Some(list) = table.texts("suites", report, values::suite) else { return Suite::ALL.to_vec() };
    let mut suites = Vec::new();
    for (suite, at) in list {
        if suites.contains(&suite) {
            report.error(what.clone(), &at, Fault::new(format!("{suite} is listed twice"), "take one out"));
        }
        suites.push(suite);
    }
    if suites.is_empty() {
        let remedy = "name at least one suite, or take the line out to offer all";
        report.error(what, &table.at, Fault::new("no usable suite is listed", remedy));
    }
    suites
}

/// A secret that stands either in the configuration itself or in a file it names; `decode` works on the file's text.
pub(super) fn read_secret(
    table: &mut Table<'_>,
    inline: &'static str,
    file: &'static str,
    report: &mut Report,
    parse: impl FnOnce(&str) -> Result<Secret, Fault>,
    decode: impl FnOnce(Secret) -> Result<Secret, Fault>,
) -> Option<Secret> {
    let document = table.document;
    match (table.has(inline), table.has(file)) {
        (true, true) => {
            let why = format!("`{inline}` and `{file}` are both given");
            report.error(table.what.clone(), &table.at, Fault::new(why, format!("keep `{file}`")));
        }
        (false, false) => {
            let why = format!("`{inline}` or `{file}` is missing");
            let remedy = format!("name the file that holds it: {file} = \"FILE\"");
            report.error(table.what.clone(), &table.at, Fault::new(why, remedy));
        }
        _ => {}
    }
    let from_text = table.secret(inline, report, parse);
    let from_file = table.text(file, report, |name| {
        let path = document.resolve(name);
        let secret = document.read_secret(&path)?;
        decode(secret).map_err(|fault| Fault::new(format!("{}: {}", path.display(), fault.why), fault.remedy))
    });
    from_text.or(from_file)
}

fn read_manual(table: &mut Table<'_>, shared: &Shared, report: &mut Report) -> Option<Manual> {
    let tables = table.tables("manual", report);
    let count = tables.len();
    let sas: Vec<ManualSa> = tables.into_iter().filter_map(|sa| read_sa(sa, shared, report)).collect();
    if sas.len() != count || sas.is_empty() {
        return None;
    }
    Some(Manual { mode: shared.mode, pad: shared.pad, sas })
}

fn check_directions(table: &Table<'_>, manual: &Manual, report: &mut Report) {
    let what = table.name_of("manual");
    if manual.inbound().next().is_none() {
        let why = "no inbound SA: every ESP packet of the tunnel will be dropped (esp-unknown-spi)";
        report.warning(what.clone(), &table.at, Fault::new(why, "add one with direction = \"in\""));
    }
    let mut outbound = manual.sas.iter().filter(|sa| sa.direction == Direction::Out);
    let Some(first) = outbound.next() else {
        let why = "no outbound SA: nothing will be sent (no-sa)";
        report.warning(what, &table.at, Fault::new(why, "add one with direction = \"out\""));
        return;
    };
    for other in outbound {
        let why = format!("a second outbound SA; the first is at {}", first.at);
        report.error(what.clone(), &other.at, Fault::new(why, "keep one with direction = \"out\""));
    }
}

fn read_sa(mut table: Table<'_>, shared: &Shared, report: &mut Report) -> Option<ManualSa> {
    table.require("direction", "say which way its packets go: direction = \"in\" or \"out\"", report);
    let direction = table.text("direction", report, values::direction);
    table.require("spi", "give its number, such as spi = 0x1001", report);
    let spi = table.convert("spi", report, read_spi);
    table.require("suite", "name its cipher, such as suite = \"aes128gcm16\"", report);
    let suite = table.text("suite", report, values::suite);
    let sized = |bytes: Zeroizing<Vec<u8>>| check_key_len(suite, bytes).map(Secret::new);
    let inline = |text: &str| values::hex(text.as_bytes()).and_then(sized);
    let from_file = |secret: Secret| values::hex(secret.expose()).and_then(sized);
    let key = read_secret(&mut table, "key", "key_file", report, inline, from_file);
    // Keys that nobody negotiates come without ESN unless something says so, as other implementations have it.
    let esn = table.boolean("esn", report).or(shared.esn).unwrap_or(false);
    let replay_window = table.number("replay_window", REPLAY_WINDOW, report).unwrap_or(shared.replay_window);
    let udp_encap = table.table("udp_encap", report).map(|encap| read_udp_encap(encap, report));
    let at = table.at.clone();
    table.finish(report);
    Some(ManualSa {
        direction: direction?,
        spi: spi?,
        suite: suite?,
        esn,
        key: key?,
        udp_encap,
        replay_window,
        at,
    })
}

fn read_spi(value: DeValue<'_>) -> Result<u32, Fault> {
    let spi = number::<u32>(&value, 0..=i128::from(u32::MAX))?;
    if i128::from(spi) < FIRST_SPI {
        let why = format!("{spi} is reserved (RFC 4303 section 2.1)");
        return Err(Fault::new(why, format!("give {FIRST_SPI} to {}", u32::MAX)));
    }
    Ok(spi)
}

/// Takes a key of the length that the suite wants; of any length where the suite is not known, which is an error anyway.
fn check_key_len(suite: Option<Suite>, key: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let Some(suite) = suite else { return Ok(key) };
    let wanted = suite.key_len().saturating_add(Suite::SALT_LEN);
    if key.len() == wanted {
        return Ok(key);
    }
    let why = format!("has {} bytes; {suite} takes {wanted}", key.len());
    let cipher = suite.key_len();
    let digits = wanted.saturating_mul(2);
    Err(Fault::new(
        why,
        format!("give {cipher} bytes of cipher key and 4 of salt, {digits} hex digits in all"),
    ))
}

fn read_udp_encap(mut table: Table<'_>, report: &mut Report) -> UdpEncap {
    let source = table.number("source", 1..=65535, report).unwrap_or(UDP_ENCAP_PORT);
    let destination = table.number("destination", 1..=65535, report).unwrap_or(UDP_ENCAP_PORT);
    table.finish(report);
    UdpEncap { source, destination }
}

fn read_route(mut table: Table<'_>, report: &mut Report) -> Option<Route> {
    table.require("prefix", "say where it leads to: prefix = \"10.0.0.0/8\"", report);
    let prefix = table.text("prefix", report, values::network);
    if let Some(prefix) = prefix {
        table.what = format!("route {prefix}");
    }
    let port = table.text("port", report, |text| Ok(text.to_owned()));
    let via = table.text("via", report, values::host_address);
    let tunnel = table.text("tunnel", report, |text| Ok(text.to_owned()));
    let (what, at) = (table.what.clone(), table.at.clone());
    table.finish(report);
    let target = match (port, via, tunnel) {
        (Some(port), via, None) => RouteTarget::Port { port, via },
        (None, None, Some(tunnel)) => RouteTarget::Tunnel(tunnel),
        (None, Some(_), Some(_)) => {
            let why = "a tunnel has one far end, so `via` means nothing";
            report.error(what, &at, Fault::new(why, "take `via` out"));
            return None;
        }
        (Some(_), _, Some(_)) => {
            let why = "`port` and `tunnel` are both given";
            report.error(what, &at, Fault::new(why, "keep one"));
            return None;
        }
        (None, _, None) => {
            let why = "neither `port` nor `tunnel` is given";
            report.error(
                what,
                &at,
                Fault::new(why, "say where it goes: port = \"NAME\" or tunnel = \"NAME\""),
            );
            return None;
        }
    };
    let prefix = prefix?;
    if let Some(via) = via
        && via.is_ipv4() != prefix.addr.is_ipv4()
    {
        let why = format!("via {via} is of another family than {prefix}");
        report.error(what, &at, Fault::new(why, "give a gateway of the prefix's family"));
        return None;
    }
    Some(Route { prefix, target, at })
}

fn read_neighbour(mut table: Table<'_>, report: &mut Report) -> Option<Neighbour> {
    table.require("address", "give its IP address: address = \"192.0.2.2\"", report);
    let address = table.text("address", report, values::host_address);
    if let Some(address) = address {
        table.what = format!("neighbour {address}");
    }
    table.require("port", "name the port it is reached through: port = \"NAME\"", report);
    let port = table.text("port", report, |text| Ok(text.to_owned()));
    table.require("mac", "give its Ethernet address: mac = \"02:00:00:00:00:02\"", report);
    let mac = table.text("mac", report, values::mac);
    let at = table.at.clone();
    table.finish(report);
    Some(Neighbour { address: address?, port: port?, mac: mac?, at })
}
