//! The configuration as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use super::translate::{Draft, Port, PortRoute, Tunnel};

/// Writes the configuration that was made of the files called `read`.
pub(super) fn toml(draft: &Draft, read: &[String]) -> String {
    let mut out = String::from("# Made by `culvert import` of\n");
    for file in read {
        line(&mut out, format_args!("#   {}", comment(file)));
    }
    out += "# It said beside this what it left out and what is risky. `culvert check` says more.\n";
    for port in &draft.ports {
        write_port(&mut out, port);
    }
    write_carp(&mut out, &draft.tunnels);
    for tunnel in &draft.tunnels {
        write_tunnel(&mut out, tunnel);
    }
    for route in &draft.routes {
        write_route(&mut out, route);
    }
    out
}

fn line(out: &mut String, what: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = writeln!(out, "{what}");
}

/// Text for a comment: in one line, and without what TOML forbids there.
fn comment(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn quoted(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn write_port(out: &mut String, port: &Port) {
    let Port { name, addresses } = port;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let carries = if addresses.is_empty() { "addresses by DHCP".to_owned() } else { addresses.join(", ") };
    line(
        out,
        format_args!(
            "\n# The host keeps its addresses: {carries}. Without this entry Culvert leaves {name} alone.\n[[port]]"
        ),
    );
    line(out, format_args!("name = {}", quoted(name)));
    line(out, format_args!("device = {}", quoted(format!("netmap:{name}"))));
}

/// The groups whose addresses tunnels have.
fn write_carp(out: &mut String, tunnels: &[Tunnel]) {
    let groups: BTreeMap<(&str, u8), IpAddr> = tunnels
        .iter()
        .filter_map(|tunnel| {
            let (vhid, interface) = tunnel.carp.as_ref()?;
            Some(((interface.as_str(), *vhid), tunnel.local))
        })
        .collect();
    if groups.is_empty() {
        return;
    }
    *out += "\n# The other router of the pair says \"second\".\n[carp]\nrouter = \"first\"\n";
    for ((interface, vhid), address) in groups {
        line(out, format_args!("[[carp.group]]\nvhid = {vhid}\ninterface = {}", quoted(interface)));
        line(out, format_args!("address = {}", quoted(address)));
    }
}

fn write_tunnel(out: &mut String, tunnel: &Tunnel) {
    let mut text = String::from("[[tunnel]]\n");
    line(&mut text, format_args!("name = {}", quoted(&tunnel.name)));
    match &tunnel.carp {
        Some((vhid, interface)) => {
            let local = quoted(format!("carp:{vhid}@{interface}"));
            line(&mut text, format_args!("local = {local}"));
        }
        None => line(&mut text, format_args!("local = {}", quoted(tunnel.local))),
    }
    line(&mut text, format_args!("remote = {}", quoted(tunnel.remote)));
    if let Some(inner) = tunnel.inner {
        line(&mut text, format_args!("inner = {}", quoted(inner)));
    }
    if let Some(peer) = tunnel.peer {
        line(&mut text, format_args!("peer = {}", quoted(peer)));
    }
    if !tunnel.routes.is_empty() {
        let routes: Vec<String> = tunnel.routes.iter().map(quoted).collect();
        line(&mut text, format_args!("routes = [{}]", routes.join(", ")));
    }
    if let Some(key) = tunnel.key {
        line(&mut text, format_args!("key = {key}"));
    }
    for (setting, there) in [("checksum", tunnel.checksum), ("sequence", tunnel.sequence)] {
        if there {
            line(&mut text, format_args!("{setting} = true"));
        }
    }
    if tunnel.udp {
        text += "encapsulation = \"udp\"\n";
    }
    if let Some(mtu) = tunnel.mtu {
        line(&mut text, format_args!("mtu = {mtu}"));
    }
    if tunnel.inside.is_some() {
        text += "max_depth = 2\n";
    }
    text += "protect = \"none\"\n";
    out.push('\n');
    if let Some(description) = &tunnel.description {
        line(out, format_args!("# {}", comment(description)));
    }
    match &tunnel.inside {
        None => *out += &text,
        Some(outer) => {
            line(out, format_args!("# Left out: its packets would go into tunnel {outer}."));
            text.lines().for_each(|entry| line(out, format_args!("# {entry}")));
        }
    }
}

fn write_route(out: &mut String, route: &PortRoute) {
    let PortRoute { prefix, port, via, tunnel } = route;
    line(out, format_args!("\n# The far end of {tunnel}, which a route into a tunnel covers.\n[[route]]"));
    line(out, format_args!("prefix = {}", quoted(prefix)));
    line(out, format_args!("port = {}", quoted(port)));
    if let Some(via) = via {
        line(out, format_args!("via = {}", quoted(via)));
    }
}
