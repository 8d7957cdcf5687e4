//! A traced packet as people read it: a line for each thing that befell it, within 80 columns.

use std::net::IpAddr;

use super::report::{From, HeadersReport, StepReport, WayReport};

/// The lines of a packet, the `number`th.
pub(super) fn packet(number: u64, way: &WayReport) -> String {
    let mut text = format!("packet {number}, {} UTC, worker {}\n", time_of_day(way.time), way.worker);
    for (name, line) in way.steps.iter().flat_map(lines) {
        text += &format!("  {name:<10}  {line}\n");
    }
    text
}

/// The time of day, to the nanosecond.
fn time_of_day(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:09}", seconds % 60, nanoseconds % 1_000_000_000)
}

fn lines(step: &StepReport) -> Vec<(&'static str, String)> {
    let one = |name, line: String| vec![(name, line)];
    match step {
        StepReport::Received { from, port, queue, tunnel, source_mac, destination_mac, packet } => {
            let port = port.as_deref().unwrap_or("?");
            let mut from = match from {
                From::Port => format!("port {port}, queue {}", queue.unwrap_or_default()),
                From::Interface => {
                    format!("from the host, by interface {}", tunnel.as_deref().unwrap_or("?"))
                }
                From::Exceptions => "from the exception thread".to_owned(),
                From::Worker => format!("from another worker, port {port}"),
            };
            if let (Some(source), Some(destination)) = (source_mac, destination_mac) {
                from += &format!(", {source} > {destination}");
            }
            vec![("received", from), ("", headers(packet))]
        }
        StepReport::Belongs { tunnel } => one("tunnel", tunnel.clone()),
        StepReport::Route { prefix: None, .. } => one("route", "none".to_owned()),
        StepReport::Route { prefix: Some(prefix), source, to } => {
            let source = match source.as_deref() {
                None | Some("given") => String::new(),
                Some(source) => format!(" ({source})"),
            };
            one("route", format!("{prefix}{source}: {to}"))
        }
        StepReport::Way { to } => one("way", format!("of several, {to}")),
        StepReport::Open { spi, sequence } => one("esp open", format!("SPI {spi:#010x}, number {sequence}")),
        StepReport::Gre { protocol, key, sequence, checksum } => {
            let mut line = format!("protocol {protocol:#06x}");
            line += &key.map_or(", no key".to_owned(), |key| format!(", key {key}"));
            line += &sequence.map_or(String::new(), |sequence| format!(", number {sequence}"));
            line += if *checksum { ", checksum" } else { "" };
            one("gre", line)
        }
        StepReport::Out { tunnel, packet } => {
            vec![("out of", format!("tunnel {tunnel}")), ("", headers(packet))]
        }
        StepReport::Held { packet } => one("held", headers(packet)),
        StepReport::Into { tunnel, packet } => {
            vec![("into", format!("tunnel {tunnel}")), ("", headers(packet))]
        }
        StepReport::Seal { spi, sequence } => one("esp seal", format!("SPI {spi:#010x}, number {sequence}")),
        StepReport::Outer { packet } => one("outer", headers(packet)),
        StepReport::Sent { port, mac, length } => {
            one("sent", format!("port {port}, to {mac}, {length} bytes"))
        }
        StepReport::HandedOver { worker } => one("handed to", format!("worker {worker}")),
        StepReport::Host => one("host", "as it came".to_owned()),
        StepReport::HostInterface { tunnel } => one("host", format!("by interface {tunnel}")),
        StepReport::Exception { cause } => one("exception", format!("to the exception thread: {cause}")),
        StepReport::Drop { reason } => one("dropped", reason.clone()),
    }
}

/// What a packet said: `10.1.0.5:1234 > 10.2.0.6:80, tcp, ttl 64, 60 bytes`.
fn headers(packet: &HeadersReport) -> String {
    let end = |address: &Option<IpAddr>, port: Option<u16>| match (address, port) {
        (Some(address), Some(port)) => std::net::SocketAddr::new(*address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    };
    let mut line = match packet.ethertype {
        _ if packet.source.is_some() => format!(
            "{} > {}, ",
            end(&packet.source, packet.source_port),
            end(&packet.destination, packet.destination_port)
        ),
        0 => String::new(),
        ethertype => format!("type {ethertype:#06x}, "),
    };
    match packet.protocol {
        Some(number) => line += &format!("{}, ", protocol(number)),
        None if packet.source.is_some() => line += "arp, ",
        None => {}
    }
    line += if packet.fragment { "fragment, " } else { "" };
    line += &packet.ttl.map_or(String::new(), |ttl| format!("ttl {ttl}, "));
    format!("{line}{} bytes", packet.length)
}

fn protocol(number: u8) -> String {
    let name = match number {
        1 => "icmp",
        2 => "igmp",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        50 => "esp",
        58 => "icmp6",
        89 => "ospf",
        112 => "vrrp",
        132 => "sctp",
        number => return format!("protocol {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_packet_is_told_line_by_line() {
        let way: WayReport = serde_json::from_value(json!({"time": 1_700_000_000_000_000_007_u64, "worker": 1, "steps": [
            {"step": "received", "from": "port", "port": "lan", "queue": 0, "source_mac": "02:00:00:01:00:05", "destination_mac": "02:00:00:01:00:01",
                "packet": {"length": 98, "ethertype": 0x800, "source": "10.1.0.5", "destination": "10.2.0.6", "protocol": 6,
                    "source_port": 1234, "destination_port": 80, "ttl": 64}},
            {"step": "route", "prefix": "10.2.0.0/16", "source": "given", "to": "tunnel oslo"},
            {"step": "into", "tunnel": "oslo", "packet": {"length": 84, "ethertype": 0x800, "source": "10.1.0.5", "destination": "10.2.0.6", "protocol": 1, "ttl": 63}},
            {"step": "gre", "protocol": 0x800, "key": 42, "checksum": false},
            {"step": "seal", "spi": 4097, "sequence": 7},
            {"step": "drop", "reason": "tx-full"}]}))
        .expect("a way");
        assert_eq!(
            packet(3, &way),
            "packet 3, 22:13:20.000000007 UTC, worker 1\n\
             \x20 received    port lan, queue 0, 02:00:00:01:00:05 > 02:00:00:01:00:01\n\
             \x20             10.1.0.5:1234 > 10.2.0.6:80, tcp, ttl 64, 98 bytes\n\
             \x20 route       10.2.0.0/16: tunnel oslo\n\
             \x20 into        tunnel oslo\n\
             \x20             10.1.0.5 > 10.2.0.6, icmp, ttl 63, 84 bytes\n\
             \x20 gre         protocol 0x0800, key 42\n\
             \x20 esp seal    SPI 0x00001001, number 7\n\
             \x20 dropped     tx-full\n"
        );
    }
}
