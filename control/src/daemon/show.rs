//! `culvert show`: asks the daemon, and prints its answer as it is (`--json`) or as tables that fit 80 columns.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use anstyle::Style;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::privileges::Privileges;
use super::status::{
    CarpStatus, NeighbourStatus, PortStatus, RouteStatus, SaStatus, Sas, TunnelStatus, What, WorkerStatus,
};
use crate::api::client::{self, Stream};
use crate::api::{Command, Line};
use crate::report::{Counts, Numbers};
use crate::table::Table;
use crate::{Failure, cli, text};

/// Runs the command.
///
/// # Errors
/// Code 1 where no daemon answers, or with something else, and where standard output takes no more.
pub fn run(arguments: &cli::Show) -> Result<(), Failure> {
    let what = arguments.what;
    match arguments.watch {
        None => {
            let result = client::call(&arguments.socket, &Command::Show { what }).map_err(about)?;
            print(&written(what, &result, arguments.json)?)
        }
        Some(seconds) => watch(arguments, seconds),
    }
}

/// Shows it again and again, until the daemon ends or nobody reads any more.
fn watch(arguments: &cli::Show, seconds: u32) -> Result<(), Failure> {
    let what = arguments.what;
    let every = u64::from(seconds) * 1000;
    let mut stream =
        Stream::open(&arguments.socket, &Command::Watch { what: vec![what], every }).map_err(about)?;
    let before = match (arguments.json, io::stdout().is_terminal()) {
        (true, _) => "",
        // Home, and all that is there away.
        (false, true) => "\x1b[H\x1b[2J",
        (false, false) => "\n",
    };
    loop {
        match stream.next(None).map_err(about)? {
            Some(Line::Record(record)) => {
                print(&format!("{before}{}", written(what, &record, arguments.json)?))?;
            }
            // Of the records that it was too slow for, nobody needs to know who only looks at the last.
            Some(Line::Lost(_)) | None => {}
            Some(Line::End(why)) => return Err(about(Failure::failed(why))),
        }
    }
}

fn about(failure: Failure) -> Failure {
    failure.about("show")
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

fn written(what: What, result: &Value, json: bool) -> Result<String, Failure> {
    let text = if json {
        serde_json::to_string(result).map(|json| json + "\n")
    } else {
        tables(what, result, text::colours())
    };
    text.map_err(|error| about(Failure::failed(format!("the daemon's answer: {error}"))))
}

/// The tables of an answer.
fn tables(what: What, result: &Value, colours: bool) -> Result<String, serde_json::Error> {
    let value = result.get(what.name()).unwrap_or(&Value::Null);
    let tables = match what {
        What::Ports => ports(&read(value)?),
        What::Workers => workers(&read(value)?),
        What::Tunnels => tunnels(&read(value)?),
        What::Sas => sas(&read(value)?),
        What::Routes => routes(&read(value)?),
        What::Neighbours => neighbours(&read(value)?),
        What::Drops => drops(&read(value)?),
        What::Carp => carp(&read(value)?),
        What::Privileges => privileges(&read(value)?),
        What::Config => return Ok(serde_json::to_string_pretty(value)? + "\n"),
    };
    let filled = tables.into_iter().filter(|table| !table.is_empty());
    let style = |heading: &str, cell: Option<&str>| {
        if colours { text::style(heading, cell) } else { Style::new() }
    };
    let blocks: Vec<String> =
        filled.map(|table| table.painted(style).map(|line| line + "\n").collect()).collect();
    Ok(blocks.join("\n"))
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(value)
}

fn privileges(privileges: &Privileges) -> Vec<Table> {
    let mut limits = Table::new(2, ["privilege", "has"]);
    for (what, value) in privileges.lines() {
        limits.row([what.to_owned(), value]);
    }
    let mut missing = Table::new(1, ["limit that is not in force"]);
    privileges.missing.iter().for_each(|why| missing.row([why.clone()]));
    vec![limits, missing]
}

fn ports(ports: &BTreeMap<String, PortStatus>) -> Vec<Table> {
    let mut devices = Table::new(3, ["port", "device", "health", "mtu", "queues", "mac"]);
    let mut counts = Table::new(1, ["port", "received", "sent", "receive lost", "send lost"]);
    let mut modes = Table::new(2, ["port", "mode"]);
    let mut copies = Table::new(1, ["port", "copied frames", "copied bytes"]);
    for (name, port) in ports {
        let PortStatus { device, health, mac, .. } = port;
        devices.row([name, device, health].map(String::clone).into_iter().chain([
            port.mtu.to_string(),
            port.queues.to_string(),
            mac.clone(),
        ]));
        let numbers = [port.rx, port.tx, port.rx_lost, port.tx_lost].map(|number| number.to_string());
        counts.row([name.clone()].into_iter().chain(numbers));
        modes.row([name.clone(), port.mode.clone()]);
        if port.copied_frames > 0 {
            copies.row([name.clone(), port.copied_frames.to_string(), port.copied_bytes.to_string()]);
        }
    }
    vec![devices, counts, copies, modes]
}

fn workers(workers: &Vec<WorkerStatus>) -> Vec<Table> {
    let mut table = Table::new(0, ["worker", "core", "frames", "cpu seconds", "cpu %"]);
    let mut counts = Table::new(0, ["worker", "in packets", "in bytes", "out packets", "out bytes"]);
    let mut copies = Table::new(2, ["worker", "copied", "copied frames", "copied bytes"]);
    for worker in workers {
        table.row([
            worker.worker.to_string(),
            worker.core.map_or("any".to_owned(), |core| core.to_string()),
            worker.frames.to_string(),
            format!("{:.2}", worker.cpu_seconds),
            format!("{:.1}", worker.cpu_percent),
        ]);
        counts.row([worker.worker.to_string()].into_iter().chain(numbers(&worker.counts)));
        for (kind, copied) in worker.copied.iter().filter(|(_, copied)| copied.frames > 0) {
            let [frames, bytes] = [copied.frames, copied.bytes].map(|number| number.to_string());
            copies.row([worker.worker.to_string(), kind.clone(), frames, bytes]);
        }
    }
    vec![table, counts, copies]
}

fn numbers(counts: &Counts) -> impl Iterator<Item = String> {
    let Counts { in_packets, in_bytes, out_packets, out_bytes } = *counts;
    [in_packets, in_bytes, out_packets, out_bytes].into_iter().map(|number| number.to_string())
}

fn tunnels(tunnels: &BTreeMap<String, TunnelStatus>) -> Vec<Table> {
    let mut ways = Table::new(3, ["tunnel", "local", "remote"]);
    let mut counts = Table::new(1, ["tunnel", "in packets", "in bytes", "out packets", "out bytes"]);
    for (name, tunnel) in tunnels {
        ways.row([name.clone(), tunnel.local.clone(), tunnel.remote.to_string()]);
        counts.row([name.clone()].into_iter().chain(numbers(&tunnel.counts)));
    }
    if !ways.fits() {
        ways = Table::new(3, ["tunnel", "end", "address"]);
        for (name, tunnel) in tunnels {
            ways.row([name.clone(), "local".to_owned(), tunnel.local.clone()]);
            ways.row([String::new(), "remote".to_owned(), tunnel.remote.to_string()]);
        }
    }
    let states = states(tunnels, true);
    let states =
        if states.fits() { vec![states] } else { vec![self::states(tunnels, false), reasons(tunnels)] };
    states.into_iter().chain([ways, counts, nesting(tunnels)]).collect()
}

/// Whether tunnels are up, and, where there is room for it, why they are not.
fn states(tunnels: &BTreeMap<String, TunnelStatus>, reasons: bool) -> Table {
    let mut states = Table::new(3, ["tunnel", "port", "state", "mtu", "sas"]);
    for (name, tunnel) in tunnels {
        let state = match &tunnel.why {
            Some(why) if reasons => format!("{}: {why}", tunnel.state),
            None if tunnel.nesting.is_some() => format!("{} (way kept)", tunnel.state),
            _ => tunnel.state.clone(),
        };
        let port = tunnel.port.clone().unwrap_or_else(|| "-".to_owned());
        states.row([name.clone(), port, state, tunnel.mtu.to_string(), tunnel.sas.to_string()]);
    }
    states
}

/// Why tunnels are down, on as many lines as it takes.
fn reasons(tunnels: &BTreeMap<String, TunnelStatus>) -> Table {
    let mut table = Table::new(2, ["tunnel", "is down"]);
    let down = || tunnels.iter().filter_map(|(name, tunnel)| Some((name, tunnel.why.as_ref()?)));
    let margin =
        down().map(|(name, _)| name.chars().count()).max().unwrap_or_default().max("tunnel".len()) + 2;
    for (name, why) in down() {
        let mut name = name.clone();
        for line in text::wrap(why, text::COLUMNS.saturating_sub(margin)) {
            table.row([std::mem::take(&mut name), line]);
        }
    }
    table
}

/// Tunnels that routes lead into tunnels: where to, and what they do instead.
fn nesting(tunnels: &BTreeMap<String, TunnelStatus>) -> Table {
    let mut table = Table::new(4, ["tunnel", "would go", "by route", "keeps"]);
    for (name, nesting) in tunnels.iter().filter_map(|(name, tunnel)| Some((name, tunnel.nesting.as_ref()?)))
    {
        let keeps = nesting.way.clone().unwrap_or_else(|| "-".to_owned());
        table.row([name.clone(), nesting.path.join(" -> "), nesting.route.clone(), keeps]);
    }
    table
}

fn sas(sas: &BTreeMap<String, Sas>) -> Vec<Table> {
    let mut table = Table::new(5, ["tunnel", "SA", "suite", "state", "keys", "age"]);
    let mut numbers = Table::new(2, ["tunnel", "SA", "last number", "remaining"]);
    let all = sas.iter().flat_map(|(name, sas)| sas.iter().map(move |sa| (name, sa)));
    for (name, SaStatus { report: sa, age }) in all {
        let number = format!("{} {:#010x}", sa.direction, sa.spi);
        let (last, remaining) = match sa.numbers {
            Numbers::Out { used, remaining } => (used, Some(remaining.to_string())),
            Numbers::In { highest } => (highest, None),
        };
        let words = [name, &number, &sa.suite, &sa.state, &sa.source].map(Clone::clone);
        table.row(words.into_iter().chain([text::age(*age)]));
        let cells = [name.clone(), number, last.to_string()];
        numbers.row(cells.into_iter().chain(remaining));
    }
    vec![table, numbers]
}

fn routes(routes: &Vec<RouteStatus>) -> Vec<Table> {
    let mut table = Table::new(2, ["prefix", "to"]);
    for route in routes {
        // One line for each of several ways.
        let mut prefix = route.prefix.as_str();
        for way in route.to.split(", ") {
            table.row([prefix.to_owned(), way.to_owned()]);
            prefix = "";
        }
    }
    vec![table]
}

fn neighbours(neighbours: &Vec<NeighbourStatus>) -> Vec<Table> {
    let mut table = Table::new(3, ["port", "address", "mac"]);
    for station in neighbours {
        table.row([station.port.clone(), station.address.to_string(), station.mac.clone()]);
    }
    vec![table]
}

fn carp(carp: &CarpStatus) -> Vec<Table> {
    let mut table = Table::new(2, ["group", "role", "since", "address"]);
    let mut why = Table::new(2, ["group", "why"]);
    for (name, group) in &carp.groups {
        table.row([
            name.clone(),
            group.role.to_string(),
            text::age(group.seconds),
            group.address.to_string(),
        ]);
        if let Some(of_group) = &group.why {
            why.row([name.clone(), of_group.clone()]);
        }
        if group.split {
            let who = if group.silent { "this one" } else { "the other one" };
            why.row([name.clone(), format!("both routers are master; {who} is silent")]);
        }
    }
    let mut sync = Table::new(2, ["sync", "state", "since", "partner"]);
    let mut no_sync = Table::new(1, ["no link with the partner"]);
    let mut partner_missing = Table::new(1, ["the partner is not ready to be master"]);
    if let Some(link) = &carp.sync {
        let partner = link.partner.as_ref().map_or_else(
            || link.to.to_string(),
            |who| {
                format!("router {} at {}, {}, version {}", who.router, who.address, who.program, who.version)
            },
        );
        let state = if link.up { "up" } else { "down" };
        sync.row([link.proof.clone(), state.to_owned(), text::age(link.seconds), partner]);
        link.why.iter().for_each(|why| no_sync.row([why.clone()]));
        let its = link.partner.iter().flat_map(|who| &who.missing);
        its.for_each(|what| partner_missing.row([what.clone()]));
    }
    let mut missing = Table::new(1, ["not ready to be master"]);
    carp.missing.iter().for_each(|what| missing.row([what.clone()]));
    vec![table, why, missing, sync, no_sync, partner_missing]
}

fn drops(drops: &BTreeMap<String, u64>) -> Vec<Table> {
    let mut table = Table::new(1, ["dropped", "packets"]);
    for (reason, count) in drops {
        table.row([reason.clone(), count.to_string()]);
    }
    vec![table]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_fit_the_screen() {
        let long = "a-tunnel-of-15c";
        let most = u64::MAX;
        for (what, result) in [
            (
                What::Ports,
                json!({"ports": {long: {"device": "xdp:a-link-of-15-ch", "mode": "xdp, generic (native: Operation not supported), copy",
                    "mac": "02:00:00:00:00:01", "mtu": 9000, "health": "departed", "queues": 16,
                    "rx": 9_999_999_999_999_u64, "tx": 9_999_999_999_999_u64, "rx_lost": 999_999_999, "tx_lost": 9_999_999,
                    "copied_frames": 9_999_999_999_999_u64, "copied_bytes": most, "rx_lent": 16_384, "tx_lent": null}}}),
            ),
            (
                What::Workers,
                json!({"workers": [{"worker": 255, "core": 255, "frames": most, "cpu_seconds": 99999.5, "cpu_percent": 99.9,
                    "in_packets": 9_999_999_999_999_u64, "in_bytes": 9_999_999_999_999_999_u64, "out_packets": 1, "out_bytes": 1,
                    "copied": {"interfaces": {"frames": most, "bytes": most}, "headroom": {"frames": 0, "bytes": 0}}},
                    {"worker": 1, "core": null, "frames": 1, "cpu_seconds": 0.0, "cpu_percent": 0.0,
                    "in_packets": 1, "in_bytes": 1, "out_packets": 1, "out_bytes": 1}]}),
            ),
            (
                What::Tunnels,
                json!({"tunnels": {long: {"local": "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", "remote": "2001:db8:aaaa:bbbb:cccc:dddd:eeee:fffe",
                    "state": "down", "why": "it waits for the far end to begin: the far end does not answer, and has not for a long time", "port": null, "mtu": 1500,
                    "in_packets": 9_999_999_999_999_u64, "in_bytes": 9_999_999_999_999_999_u64, "out_packets": 1, "out_bytes": 1, "sas": 2}}}),
            ),
            (
                What::Sas,
                json!({"sas": {long: [
                    {"direction": "out", "spi": 4097, "suite": "chacha20poly1305", "state": "exhausted", "age": 8e7, "used": 1, "remaining": most},
                    {"direction": "in", "spi": 4098, "suite": "aes128gcm16", "state": "live", "age": 0.5, "highest": most}]}}),
            ),
            (
                What::Routes,
                json!({"routes": [{"prefix": "2001:db8:aaaa:bbbb::/64", "to": "port wan via 2001:db8::1 weight 1, tunnel oslo weight 2"}]}),
            ),
            (
                What::Neighbours,
                json!({"neighbours": [{"port": "wan", "address": "192.0.2.254", "mac": "02:00:00:00:00:01"}]}),
            ),
            (
                What::Carp,
                json!({"carp": {"followed": true, "router": "second", "groups": {"255@a-link-of-15-ch": {
                    "address": "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", "role": "backup", "why": "a-link-of-15-ch has no signal",
                    "seconds": 8e7, "changes": 99_999, "tunnels": [long]}}}}),
            ),
            (What::Drops, json!({"drops": {"cleartext-for-protected": most}})),
        ] {
            let shown = tables(what, &result, false).expect("an answer");
            assert!(shown.lines().count() > 1, "{shown}");
            for line in shown.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn several_ways_stand_below_each_other() {
        let result =
            json!({"routes": [{"prefix": "10.0.0.0/8", "to": "port a weight 1, tunnel b weight 2"}]});
        let shown = tables(What::Routes, &result, false).expect("an answer");
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines, ["prefix      to", "10.0.0.0/8  port a weight 1", "            tunnel b weight 2"]);
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        assert!(tables(What::Ports, &json!({}), false).is_err());
        assert!(tables(What::Ports, &json!({"ports": {"wan": {}}}), false).is_err());
    }
}
