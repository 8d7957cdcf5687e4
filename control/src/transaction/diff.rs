//! What is different between two configurations, for people and for tools: which tunnels, ports, routes and neighbours come,
//! go and change, in which settings, what becomes of packets, and what could only be changed by a restart. Positions in files
//! do not matter, and of secrets only whether they changed is ever told.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{Auth, Config, Device, Neighbour, Port, Position, Protect, Route, RouteTarget, Tunnel};
use crate::daemon::status;

/// Settings of a tunnel that can change while its packets flow on: the far end need not know.
const HARMLESS: [&str; 8] = ["inner", "peer", "routes", "ttl", "mtu", "fragment", "clamp_mss", "keepalive"];

/// The differences. Serialized, this is what `culvert diff --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Is there any difference?
    pub changed: bool,
    /// Tunnels by name.
    pub tunnels: BTreeMap<String, Change>,
    /// Ports by name.
    pub ports: BTreeMap<String, Change>,
    /// Routes by prefix.
    pub routes: BTreeMap<String, Change>,
    /// Neighbours by port and address.
    pub neighbours: BTreeMap<String, Change>,
    /// Settings of the engine, and whatever else there is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub engine: Option<Change>,
    /// Tunnels that stay as they are.
    pub untouched: usize,
    /// Why it takes a restart; empty where it takes none.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub restart: Vec<String>,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which kind.
    pub change: Kind,
    /// What becomes of its packets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traffic: Option<String>,
    /// Of what changed: the settings, with both values. Secrets are `"hidden"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub settings: BTreeMap<String, Both>,
}

/// A setting before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Both {
    pub from: Value,
    pub to: Value,
}

/// What happens to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Added,
    Changed,
    Removed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Added => "added",
            Kind::Changed => "changed",
            Kind::Removed => "removed",
        }
    }
}

/// What has to be done to get from `before` to `after`.
#[must_use]
pub fn changes(before: &Config, after: &Config) -> Changes {
    let mut changes = Changes::default();
    let there = |config| entries(config, |tunnel: &Tunnel| tunnel.name.clone());
    let (old, new) = (there(&before.tunnels), there(&after.tunnels));
    for (name, pair) in pairs(&old, &new).filter(|(name, _)| !name.is_empty()) {
        match change(pair, same_tunnel, tunnel_settings) {
            Some(change) => {
                let traffic = Some(traffic(&change, pair.1).to_owned());
                changes.tunnels.insert(name.to_owned(), Change { traffic, ..change });
            }
            None => changes.untouched += 1,
        }
    }
    let of_port = |port: &Port| port.name.clone();
    let (old, new) = (entries(&before.ports, of_port), entries(&after.ports, of_port));
    changes.ports = all(&old, &new, same_port, |port| flat(&status::port(port)));
    let of_route = |route: &Route| route.prefix.to_string();
    let (old, new) = (entries(&before.routes, of_route), entries(&after.routes, of_route));
    changes.routes = all(&old, &new, |one, other| one.target == other.target, route_settings);
    let of_neighbour = |station: &Neighbour| format!("{} on {}", station.address, station.port);
    let (old, new) = (entries(&before.neighbours, of_neighbour), entries(&after.neighbours, of_neighbour));
    let mac = |station: &Neighbour| BTreeMap::from([("mac".to_owned(), json!(station.mac.to_string()))]);
    changes.neighbours = all(&old, &new, |one, other| one.mac == other.mac, mac);
    changes.engine = engine(before, after);
    changes.restart = restart(before, after, &changes);
    let lists = [&changes.tunnels, &changes.ports, &changes.routes, &changes.neighbours];
    changes.changed = changes.engine.is_some() || lists.iter().any(|list| !list.is_empty());
    changes
}

type Entries<'c, T> = BTreeMap<String, &'c T>;

fn entries<T>(list: &[T], key: impl Fn(&T) -> String) -> Entries<'_, T> {
    list.iter().map(|entry| (key(entry), entry)).collect()
}

/// By key, what is there before and after.
fn pairs<'e, T>(
    old: &'e Entries<'_, T>,
    new: &'e Entries<'_, T>,
) -> impl Iterator<Item = (&'e str, (Option<&'e T>, Option<&'e T>))> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().map(|key| (key.as_str(), (old.get(key).copied(), new.get(key).copied())))
}

fn all<T>(
    old: &Entries<'_, T>,
    new: &Entries<'_, T>,
    same: impl Fn(&T, &T) -> bool,
    settings: impl Fn(&T) -> BTreeMap<String, Value>,
) -> BTreeMap<String, Change> {
    let changes =
        pairs(old, new).filter_map(|(key, pair)| Some((key.to_owned(), change(pair, &same, &settings)?)));
    changes.collect()
}

fn change<T>(
    pair: (Option<&T>, Option<&T>),
    same: impl Fn(&T, &T) -> bool,
    settings: impl Fn(&T) -> BTreeMap<String, Value>,
) -> Option<Change> {
    let (change, settings) = match pair {
        (Some(old), Some(new)) if same(old, new) => return None,
        (Some(old), Some(new)) => (Kind::Changed, differing(&settings(old), &settings(new))),
        (None, Some(_)) => (Kind::Added, BTreeMap::new()),
        (Some(_), None) => (Kind::Removed, BTreeMap::new()),
        (None, None) => return None,
    };
    let hide = |settings: BTreeMap<String, Both>| settings.into_iter().map(hidden).collect();
    Some(Change { change, traffic: None, settings: hide(settings) })
}

/// A key's digest, which made the difference visible, is not for others.
fn hidden((name, both): (String, Both)) -> (String, Both) {
    // Secrets, and what is too long to be shown: each is there as a digest.
    const ENDS: [&str; 7] = [".key", ".psk", ".password", ".cert", ".ca", ".crl", ".remote_key"];
    let secret = name.starts_with("protect.") && ENDS.iter().any(|end| name.ends_with(end));
    let hidden = || json!("hidden");
    (name, if secret { Both { from: hidden(), to: hidden() } } else { both })
}

fn differing(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> BTreeMap<String, Both> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let both = names.into_iter().map(|name| {
        let value = |from: &BTreeMap<String, Value>| from.get(name).cloned().unwrap_or_default();
        (name.clone(), Both { from: value(old), to: value(new) })
    });
    both.filter(|(_, both)| both.from != both.to).collect()
}

/// The settings of an entry by name; those of tables in it with a dot, of lists of tables with a number.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    fn flatten(name: String, value: &Value, to: &mut BTreeMap<String, Value>) {
        let dot = if name.is_empty() { "" } else { "." };
        match value {
            Value::Object(table) => {
                table.iter().for_each(|(key, value)| flatten(format!("{name}{dot}{key}"), value, to));
            }
            Value::Array(list) if list.first().is_some_and(Value::is_object) => {
                let numbered = (1..).zip(list);
                numbered.for_each(|(number, value)| flatten(format!("{name}{dot}{number}"), value, to));
            }
            value => drop(to.insert(name, value.clone())),
        }
    }
    let mut to = BTreeMap::new();
    flatten(String::new(), value, &mut to);
    to
}

/// A tunnel's settings, a number for each secret that is another one for another secret.
fn tunnel_settings(tunnel: &Tunnel) -> BTreeMap<String, Value> {
    let mut settings = flat(&status::tunnel(tunnel));
    let digest =
        |secret: &crate::config::Secret| json!(crate::config::Digest::of(secret.expose()).to_string());
    match &tunnel.protect {
        Protect::None => {}
        Protect::Manual(manual) => {
            let keys = (1..).zip(&manual.sas);
            settings
                .extend(keys.map(|(number, sa)| (format!("protect.manual.{number}.key"), digest(&sa.key))));
        }
        Protect::Ike(ike) => {
            let mut add = |name: &str, value| settings.insert(format!("protect.ike.{name}"), value);
            if let Some(shared) = ike.auth.shared() {
                add(if matches!(ike.auth, Auth::Psk(_)) { "psk" } else { "password" }, digest(shared));
            }
            if let Some(key) = ike.auth.private() {
                add("key", digest(key));
            }
            let public = |parts: &[Vec<u8>]| json!(crate::config::Digest::of(&parts.concat()).to_string());
            if let Some(certified) = ike.auth.certified() {
                add("cert", public(&certified.chain));
            }
            if let Some(trust) = ike.auth.trust() {
                add("ca", public(&trust.cas));
                add("crl", public(&trust.crls));
            }
            if let Auth::PublicKey(pair) = &ike.auth {
                add("remote_key", public(std::slice::from_ref(&pair.remote)));
            }
        }
    }
    settings
}

fn route_settings(route: &Route) -> BTreeMap<String, Value> {
    let to = match &route.target {
        RouteTarget::Port { port, via: Some(via) } => format!("port {port} via {via}"),
        RouteTarget::Port { port, via: None } => format!("port {port}"),
        RouteTarget::Tunnel(tunnel) => format!("tunnel {tunnel}"),
    };
    BTreeMap::from([("to".to_owned(), json!(to))])
}

/// Are they the same but for where they stand?
#[must_use]
pub fn same_tunnel(one: &Tunnel, other: &Tunnel) -> bool {
    let blank = |tunnel: &Tunnel| {
        let mut tunnel = Tunnel { at: Position::nowhere(), ..tunnel.clone() };
        tunnel.protect.forget_places();
        tunnel
    };
    blank(one) == blank(other)
}

fn same_port(one: &Port, other: &Port) -> bool {
    let blank = |port: &Port| Port { at: Position::nowhere(), ..port.clone() };
    blank(one) == blank(other)
}

fn traffic(change: &Change, after: Option<&Tunnel>) -> &'static str {
    let harmless = |name: &String| {
        let name = name.split('.').next().unwrap_or_default();
        HARMLESS.contains(&name)
    };
    match change.change {
        Kind::Added => "is taken as soon as the far end has it too",
        Kind::Removed => "ends",
        Kind::Changed if after.is_some_and(|tunnel| !tunnel.enabled) => "ends",
        Kind::Changed if !change.settings.is_empty() && change.settings.keys().all(harmless) => "flows on",
        Kind::Changed => "is interrupted until the far end agrees",
    }
}

/// What a configuration says beside its lists.
fn rest(config: &Config) -> Config {
    let Config { ports: _, tunnels: _, routes: _, neighbours: _, engine: _, .. } = config;
    let mut rest = Config {
        ports: Vec::new(),
        tunnels: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
        ..config.clone()
    };
    (rest.engine.at, rest.log.at, rest.metrics.at) = (None, None, None);
    rest.carp.at = None;
    rest.carp.groups.iter_mut().for_each(|group| group.at = Position::nowhere());
    rest.carp.hooks.iter_mut().for_each(|hook| hook.at = Position::nowhere());
    rest.carp.checks.iter_mut().for_each(|check| check.at = Position::nowhere());
    rest.carp.sync.iter_mut().for_each(|sync| sync.at = Position::nowhere());
    rest
}

/// The same without `[carp.sync]`, whose secrets are no setting that is shown.
fn beside_sync(config: &Config) -> Config {
    let mut rest = rest(config);
    rest.carp.sync = None;
    rest
}

fn engine(before: &Config, after: &Config) -> Option<Change> {
    if rest(before) == rest(after) {
        return None;
    }
    let settings = |config: &Config| {
        let mut settings = flat(&status::engine(config));
        settings.extend(flat(&json!({
            "log": status::log(config),
            "metrics": status::metrics(config),
            "carp": status::carp(config),
        })));
        settings
    };
    let settings = differing(&settings(before), &settings(after));
    Some(Change { change: Kind::Changed, traffic: None, settings })
}

/// What cannot be changed while packets flow.
fn restart(before: &Config, after: &Config, changes: &Changes) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(change) = &changes.engine {
        let alive = |setting: &String| {
            ["log.", "carp.group.", "carp.advertises", "carp.yield_on_stop", "carp.sync"]
                .iter()
                .any(|alive| setting.starts_with(alive))
        };
        let settings = change.settings.keys().all(alive);
        if !settings || (change.settings.is_empty() && beside_sync(before) != beside_sync(after)) {
            why.push("engine: its settings are made at the start".to_owned());
        }
    }
    for (name, change) in &changes.ports {
        match change.change {
            Kind::Added => why.push(format!("port {name:?}: a port is opened at the start")),
            Kind::Removed => why.push(format!("port {name:?}: a port is held until the end")),
            Kind::Changed => {
                let alive = |setting: &String| matches!(setting.as_str(), "addresses" | "mac");
                let stuck = change.settings.keys().find(|setting| !alive(setting));
                why.extend(stuck.map(|setting| format!("port {name:?}: {setting} is set at the start")));
            }
        }
    }
    let bridged = |config: &Config| -> BTreeSet<String> {
        let xdp = config.ports.iter().filter(|port| matches!(port.device, Device::Xdp(_)));
        let of =
            |port: &&Port| config.tunnels.iter().any(|tunnel| tunnel.bridge.as_ref() == Some(&port.name));
        xdp.filter(of).map(|port| port.name.clone()).collect()
    };
    for port in bridged(before).symmetric_difference(&bridged(after)) {
        why.push(format!("port {port:?}: whether its frames are bridged is set at the start"));
    }
    why
}

impl Changes {
    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        if !self.changed {
            return "nothing changes\n".to_owned();
        }
        let mut text = String::new();
        let kinds = [
            ("port", &self.ports),
            ("tunnel", &self.tunnels),
            ("route", &self.routes),
            ("neighbour", &self.neighbours),
        ];
        for (what, list) in kinds {
            for (name, change) in list {
                describe(&format!("{what} {name}"), change, &mut text);
            }
        }
        self.engine.iter().for_each(|change| describe("engine", change, &mut text));
        let count =
            |kind| kinds.iter().flat_map(|(_, list)| list.values()).filter(|one| one.change == kind).count();
        let changed = count(Kind::Changed) + usize::from(self.engine.is_some());
        text += &format!(
            "{} added, {changed} changed, {} removed; {} tunnels are not touched\n",
            count(Kind::Added),
            count(Kind::Removed),
            self.untouched
        );
        self.restart.iter().for_each(|why| text += &format!("takes a restart: {why}\n"));
        text
    }
}

fn describe(what: &str, change: &Change, text: &mut String) {
    let traffic = change.traffic.as_ref().map_or(String::new(), |traffic| format!("; its traffic {traffic}"));
    *text += &format!("{what}: {}{traffic}\n", change.change.name());
    for (name, Both { from, to }) in &change.settings {
        let hidden = from == "hidden" && to == "hidden";
        *text += &match hidden {
            true => format!("  {name}: another one\n"),
            false => format!("  {name}: {} -> {}\n", plain(from), plain(to)),
        };
    }
}

/// A value as somebody would write it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

impl From<&Changes> for Value {
    fn from(changes: &Changes) -> Value {
        // Names are strings, and all values are: there is nothing that JSON cannot say.
        serde_json::to_value(changes).unwrap_or(Value::Object(Map::new()))
    }
}
