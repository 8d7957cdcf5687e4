//! `[carp]`: which router of a pair this is, and the virtual addresses that the two share.

use std::collections::HashMap;

use super::model::{Carp, CarpGroup, Config, Group, Local, Router};
use super::reader::Table;
use super::report::{Fault, Report};
use super::sections::Draft;
use super::{values, watching};

/// Reads `[carp]`.
pub(super) fn read(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    watching::refuse_second(&table, draft.config.carp.at.as_ref(), report);
    let remedy = "say which of the two this is: router = \"first\", and \"second\" on the other one";
    table.require("router", remedy, report);
    let words = [Router::First, Router::Second].map(|router| (router.name(), router));
    let router = table.text("router", report, |text| values::word(text, &words));
    let groups = table.tables("group", report).into_iter().filter_map(|group| read_group(group, report));
    draft.config.carp =
        Carp { groups: groups.collect(), router: router.unwrap_or_default(), at: Some(table.at.clone()) };
    table.finish(report);
}

fn read_group(mut table: Table<'_>, report: &mut Report) -> Option<CarpGroup> {
    table.require("vhid", "give the number that both routers have for it: vhid = 2", report);
    let vhid = table.number("vhid", 1..=255, report);
    table.require("interface", "name the interface that carries it: interface = \"vmx0\"", report);
    let interface = table.text("interface", report, values::interface);
    table.require("address", "give the virtual address: address = \"203.0.113.230\"", report);
    let address = table.text("address", report, values::host_address);
    let at = table.at.clone();
    table.finish(report);
    Some(CarpGroup { group: Group { vhid: vhid?, interface: interface? }, address: address?, at })
}

/// Gives tunnels the addresses of their groups, and notes what does not fit together.
pub(super) fn resolve(config: &mut Config, report: &mut Report) {
    let mut addresses = HashMap::new();
    for CarpGroup { group, address, at } in &config.carp.groups {
        if let Some((_, first)) = addresses.insert(group.clone(), (*address, at)) {
            let why = format!("the entry at {first} is for {group} as well");
            report.error("carp, group", at, Fault::new(why, "keep one of the two"));
        }
    }
    for tunnel in &mut config.tunnels {
        let Local::Carp { group, address } = &mut tunnel.local else { continue };
        *address = addresses.get(group).map(|(address, _)| *address);
        if let Some(address) = address
            && address.is_ipv4() != tunnel.remote.is_ipv4()
        {
            let why = format!("{group} has {address}, and `remote` is of the other family");
            let fault = Fault::new(why, "give two IPv4 or two IPv6 addresses");
            report.error(format!("tunnel {:?}, local", tunnel.name), &tunnel.at, fault);
        }
    }
}
