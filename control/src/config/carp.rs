//! `[carp]`: which router of a pair this is, the virtual addresses that the two share, and how they speak with each other.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::model::{
    Carp, CarpCheck, CarpGroup, CarpHook, Config, Group, HookEvent, Local, Protect, Router, Secret, Sync,
    SyncProof,
};
use super::reader::Table;
use super::report::{Fault, Report};
use super::sections::{Draft, read_secret};
use super::{ike, values, watching};
use crate::sync::link;

/// How often the two routers say that they are there, where nothing is said.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long an end waits until this router is not master any more, where nothing is said, and somebody hears that it yields.
const YIELD: Duration = Duration::from_secs(2);
/// How long a hook may run, where nothing is said.
const HOOK_TIME: Duration = Duration::from_secs(10);
/// How often a check is run, how long it may run, and how many failures in a row count, where nothing is said.
const CHECK: (Duration, Duration, u32) = (Duration::from_secs(2), Duration::from_secs(5), 2);
/// The shortest secret, in bytes.
const SHORTEST: usize = 32;

/// Reads `[carp]`.
pub(super) fn read(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    watching::refuse_second(&table, draft.config.carp.at.as_ref(), report);
    let remedy = "say which of the two this is: router = \"first\", and \"second\" on the other one";
    table.require("router", remedy, report);
    let words = [Router::First, Router::Second].map(|router| (router.name(), router));
    let router = table.text("router", report, |text| values::word(text, &words));
    let groups = table.tables("group", report).into_iter().filter_map(|group| read_group(group, report));
    let groups = groups.collect();
    let sync = table.table("sync", report).and_then(|sync| read_sync(sync, report));
    let hooks = table.tables("hook", report).into_iter().filter_map(|hook| read_hook(hook, report));
    let hooks: Vec<CarpHook> = hooks.collect();
    let checks = read_checks(&mut table, report);
    let ready_after = table.text("ready_after", report, values::dpd).unwrap_or_default();
    let router = router.unwrap_or_default();
    // FreeBSD's CARP is demoted; elsewhere a hook may tell who elects, or nobody does.
    let hears = cfg!(target_os = "freebsd") || hooks.iter().any(|hook| hook.on.contains(&HookEvent::Unready));
    let yield_on_stop = table.text("yield_on_stop", report, values::yield_on_stop);
    let yield_on_stop = yield_on_stop.unwrap_or(if hears { YIELD } else { Duration::ZERO });
    draft.config.carp =
        Carp { groups, router, ready_after, yield_on_stop, hooks, checks, sync, at: Some(table.at.clone()) };
    table.finish(report);
}

fn read_group(mut table: Table<'_>, report: &mut Report) -> Option<CarpGroup> {
    table.require("vhid", "give the number that both routers have for it: vhid = 2", report);
    let vhid = table.number("vhid", 1..=255, report);
    table.require("interface", "name the interface that carries it: interface = \"vmx0\"", report);
    let interface = table.text("interface", report, values::interface);
    table.require("address", "give the virtual address: address = \"203.0.113.230\"", report);
    let address = table.text("address", report, values::host_address);
    let advbase: Option<u8> = table.number("advbase", 1..=255, report);
    let advskew: Option<u8> = table.number("advskew", 0..=254, report);
    let interval = u16::from(advbase.unwrap_or(1)) * 256 + u16::from(advskew.unwrap_or(0));
    let interval = (advbase.is_some() || advskew.is_some()).then_some(interval);
    let at = table.at.clone();
    table.finish(report);
    Some(CarpGroup { group: Group { vhid: vhid?, interface: interface? }, address: address?, interval, at })
}

/// Reads a `[[carp.hook]]`.
fn read_hook(mut table: Table<'_>, report: &mut Report) -> Option<CarpHook> {
    table.require("on", "say for what it runs: on = [\"master\", \"backup\"]", report);
    let on = table.texts("on", report, |text| values::word(text, &HookEvent::ALL));
    let command = read_command(&mut table, MOVE_MAC, report);
    let timeout = table.text("timeout", report, values::period).unwrap_or(HOOK_TIME);
    let at = table.at.clone();
    let mut events = Vec::new();
    for (event, at) in on? {
        if events.contains(&event) {
            let fault = Fault::new(format!("{:?} stands there twice", event.name()), "keep one of the two");
            report.error(table.name_of("on"), &at, fault);
        }
        events.push(event);
    }
    if events.is_empty() {
        let fault = Fault::new("runs for nothing", "say for what it runs: on = [\"master\", \"backup\"]");
        report.error(table.name_of("on"), &at, fault);
    }
    table.finish(report);
    Some(CarpHook { on: events, command: command?, timeout, at })
}

/// Reads all `[[carp.check]]`.
fn read_checks(table: &mut Table<'_>, report: &mut Report) -> Vec<CarpCheck> {
    let mut checks: Vec<CarpCheck> = Vec::new();
    for check in table.tables("check", report) {
        let Some(check) = read_check(check, report) else { continue };
        if let Some(first) = checks.iter().find(|first| first.name == check.name) {
            let why = format!("the entry at {} is {:?} as well", first.at, check.name);
            report.error("carp, check", &check.at, Fault::new(why, "give one of the two another name"));
        }
        checks.push(check);
    }
    checks
}

fn read_check(mut table: Table<'_>, report: &mut Report) -> Option<CarpCheck> {
    table.require("name", "name what it looks at: name = \"ospf\"", report);
    let name = table.text("name", report, values::name);
    let command = read_command(&mut table, "/usr/local/sbin/ospf-is-up\", \"lan", report);
    let every = table.text("every", report, values::period).unwrap_or(CHECK.0);
    let timeout = table.text("timeout", report, values::period).unwrap_or(CHECK.1);
    let failures = table.number("failures", 1..=100, report).unwrap_or(CHECK.2);
    let at = table.at.clone();
    table.finish(report);
    Some(CarpCheck { name: name?, command: command?, every, timeout, failures, at })
}

/// The program and arguments of a hook.
const MOVE_MAC: &str = "/usr/local/sbin/move-mac\", \"up";

/// Reads a `command`: a program by its whole path, and arguments, such as `example`.
fn read_command(table: &mut Table<'_>, example: &str, report: &mut Report) -> Option<Vec<String>> {
    table.require(
        "command",
        &format!("give the program and its arguments: command = [\"{example}\"]"),
        report,
    );
    let command = table.texts("command", report, |text| Ok(text.to_owned()))?;
    let command: Vec<String> = command.into_iter().map(|(word, _)| word).collect();
    let program = command.first().map(Path::new);
    let name = || values::quoted(command.first().map_or("", String::as_str));
    let why = match program {
        None => Some("names no program".to_owned()),
        Some(program) if !program.is_absolute() => Some(format!("{} is no whole path", name())),
        Some(_) if command.iter().any(|word| word.contains('\0')) => Some("has a NUL in it".to_owned()),
        Some(_) => None,
    };
    if let Some(why) = why {
        let remedy = format!("give the program's whole path and its arguments: command = [\"{example}\"]");
        report.error(table.name_of("command"), &table.at, Fault::new(why, remedy));
        return None;
    }
    if program.is_some_and(|program| !is_program(program)) {
        let why = format!("{} is no file that can be run here", name());
        report.warning(table.name_of("command"), &table.at, Fault::new(why, "put it there, and chmod 755"));
    }
    Some(command)
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Reads `[carp.sync]`.
fn read_sync(mut table: Table<'_>, report: &mut Report) -> Option<Sync> {
    table.require("listen", "say where this router listens: listen = \"10.9.0.1:4790\"", report);
    let listen = table.text("listen", report, values::endpoint);
    table.require("partner", "say where the other router listens: partner = \"10.9.0.2:4790\"", report);
    let partner = table.text("partner", report, values::endpoint);
    if let (Some(listen), Some(partner)) = (listen, partner) {
        let remedy = "give the other router's address, which its own `listen` has";
        let why = if listen == partner {
            Some(format!("{partner} is `listen` as well"))
        } else if listen.is_ipv4() != partner.is_ipv4() {
            Some(format!("{partner} is of another family than `listen`"))
        } else {
            None
        };
        if let Some(why) = why {
            report.error(table.name_of("partner"), &table.at, Fault::new(why, remedy));
            return None;
        }
    }
    let heartbeat = table.text("heartbeat", report, values::heartbeat).unwrap_or(HEARTBEAT);
    let dead = table.text("dead", report, values::dead).unwrap_or(heartbeat * 3);
    if dead < heartbeat * 2 {
        let why =
            format!("{dead:?} is less than two heartbeats of {heartbeat:?}: a single late one would end it");
        let remedy = "give three times `heartbeat`, or leave it out";
        report.error(table.name_of("dead"), &table.at, Fault::new(why, remedy));
    }
    let proof = read_proof(&mut table, report);
    let at = table.at.clone();
    table.finish(report);
    Some(Sync { listen: listen?, partner: partner?, proof: proof?, heartbeat, dead, at })
}

/// `secret_file`, or `cert_file` and what goes with it.
fn read_proof(table: &mut Table<'_>, report: &mut Report) -> Option<SyncProof> {
    if table.has("secret") || table.has("secret_file") || !table.has("cert_file") {
        if table.has("cert_file") {
            let fault = Fault::new("a secret and `cert_file` are both given", "keep one of the two ways");
            report.error(table.what.clone(), &table.at, fault);
        }
        return read_secret(table, "secret", "secret_file", report, inline, long_enough)
            .map(SyncProof::Secret);
    }
    let own = ike::read_certified(table, report);
    let cas = ike::read_cas(table, report);
    let remedy =
        "say whose certificate it is to be, as its subjectAltName has it: partner_name = \"router2.example\"";
    table.require("partner_name", remedy, report);
    let partner_name = table.text("partner_name", report, partner_name);
    let (what, at) = (table.name_of("cert_file"), table.at.clone());
    let proof = SyncProof::Certificate { own: own?, cas: cas?, partner_name: partner_name? };
    if let Err(why) = link::usable(&proof) {
        let remedy = "TLS 1.3 takes keys of P-256, P-384, Ed25519, and RSA of 2048 to 8192 bits";
        report.error(what, &at, Fault::new(why, remedy));
        return None;
    }
    Some(proof)
}

fn inline(text: &str) -> Result<Secret, Fault> {
    long_enough(Secret::new(Zeroizing::new(text.as_bytes().to_vec())))
}

/// Whoever connects can try secrets at leisure; one of this length cannot be found by that.
fn long_enough(secret: Secret) -> Result<Secret, Fault> {
    let length = secret.expose().len();
    if length < SHORTEST {
        let why = format!("has {length} characters, and could be found by trying");
        let remedy = format!(
            "give {SHORTEST} or more, such as what `openssl rand -hex 32` prints, the same on both routers"
        );
        return Err(Fault::new(why, remedy));
    }
    Ok(secret)
}

fn partner_name(text: &str) -> Result<String, Fault> {
    if !link::is_name(text) {
        let why = format!("{} is no DNS name or IP address", values::quoted(text));
        return Err(Fault::new(why, "write one that the partner's certificate has as subjectAltName"));
    }
    Ok(text.to_owned())
}

/// Gives tunnels the addresses of their groups, and notes what does not fit together.
pub(super) fn resolve(config: &mut Config, report: &mut Report) {
    let mut addresses = HashMap::new();
    for CarpGroup { group, address, at, .. } in &config.carp.groups {
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
        // When the address goes to the other router, this one's strongSwan would take the far end along to an address of its own.
        if let Protect::Ike(ike) = &tunnel.protect
            && ike.mobike
        {
            let why = format!("the near end is shared ({group}): it is CARP that moves it, not MOBIKE");
            let fault = Fault::new(why, "take mobike out");
            report.error(format!("tunnel {:?}, protect, ike, mobike", tunnel.name), &ike.at, fault);
        }
    }
}
