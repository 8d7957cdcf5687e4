//! From rc's variables to interfaces and routes: which interfaces there are, what is said of each, and where.
//!
//! 1. `cloned_interfaces` and `gif_interfaces` name those that rc makes; `ifconfig_IF` and its kind name the others.
//! 2. What is said of one is put together in rc's order: `create_args_IF`, `ifconfig_IF` (or `ifconfig_DEFAULT`), `ifconfig_IF_ipv6`,
//!    aliases; and the name that it gets, `ifconfig_IF_name`.
//! 3. `static_routes`, `ipv6_static_routes` and the default routers are the routes.

use std::collections::{BTreeMap, BTreeSet};

use super::ifconfig::{self, Kind, Route, Settings};
use super::report::{Notes, Place};
use super::shell::{Shell, Variable};
use crate::config::Position;

/// An interface, with everything that is said of it.
#[derive(Debug)]
pub(super) struct Interface {
    /// Its name once rc is done.
    pub(super) name: String,
    /// The name that it was made under: what it is, is in there.
    pub(super) made_as: String,
    /// Whether rc makes it.
    pub(super) cloned: bool,
    pub(super) settings: Settings,
    /// The variables that speak of it, and where they were set.
    pub(super) variables: Vec<Place>,
    /// Where most is said of it.
    pub(super) at: Position,
}

impl Interface {
    /// The driver's name: the letters in front.
    pub(super) fn driver(&self) -> &str {
        self.made_as.split(|character: char| character.is_ascii_digit()).next().unwrap_or_default()
    }

    /// Is it a GRE tunnel?
    pub(super) fn is_gre(&self) -> bool {
        self.driver() == "gre"
    }
}

/// A route, and the variable that it comes from.
#[derive(Debug)]
pub(super) struct StaticRoute {
    /// What messages call it.
    pub(super) variable: String,
    pub(super) route: Route,
    pub(super) at: Position,
}

/// Steps 1 and 2.
pub(super) fn interfaces(shell: &Shell, notes: &mut Notes) -> Vec<Interface> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let mut order = Vec::new();
    let lists = ["cloned_interfaces", "gif_interfaces"].map(|list| (list, list_of(shell, list, notes)));
    for (list, words) in &lists {
        for (word, at) in words {
            // `:sticky` and the like say when rc destroys it.
            let name = word.split(':').next().unwrap_or_default();
            if !usable(name) {
                let why = "it holds a word that no interface can be called";
                notes.left(*list, why, "correct it", at);
            } else if !order.iter().any(|known| known == name) {
                order.push(name.to_owned());
            }
        }
    }
    let cloned: BTreeSet<String> = order.iter().cloned().collect();
    order.extend(named(shell, &cloned));
    for made_as in order {
        let cloned = cloned.contains(&made_as);
        if let Some(interface) = interface(shell, &made_as, cloned, &lists, notes) {
            found.entry(interface.name.clone()).or_insert(interface);
        }
    }
    found.into_values().collect()
}

/// A variable that holds words, each with the line that brought it.
fn list_of(shell: &Shell, name: &str, notes: &mut Notes) -> Vec<Listed> {
    let Some(variable) = shell.get(name) else { return Vec::new() };
    notes.doubt(name, variable);
    variable.words().map(|(word, at)| (word.to_owned(), at.clone())).collect()
}

/// A word of a list, and the line that brought it.
type Listed = (String, Position);

/// Can an interface have this name?
fn usable(name: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b'+');
    !name.is_empty()
        && name.len() <= 15
        && name.bytes().all(byte)
        && name.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

/// What stands for an interface in the names of variables.
fn mangled(name: &str) -> String {
    name.replace(['.', '-', '/', '+'], "_")
}

/// Interfaces that variables speak of, but for those known already and for what these are called later.
fn named(shell: &Shell, cloned: &BTreeSet<String>) -> Vec<String> {
    let renamed: BTreeSet<String> = cloned.iter().filter_map(|name| new_name(shell, name)).collect();
    let known: BTreeSet<String> = cloned.iter().chain(&renamed).map(|name| mangled(name)).collect();
    let mut names = BTreeSet::new();
    for (variable, _) in shell.variables() {
        let Some(rest) = variable
            .strip_prefix("ipv6_ifconfig_")
            .or(variable.strip_prefix("ifconfig_"))
            .or(variable.strip_prefix("ipv4_addrs_"))
        else {
            continue;
        };
        let rest = ["_ipv6", "_descr", "_name", "_aliases"]
            .iter()
            .find_map(|end| rest.strip_suffix(end))
            .unwrap_or(rest);
        let rest = match rest.rsplit_once("_alias") {
            Some((name, number)) if is_number(number) => name,
            _ => rest,
        };
        if rest != "DEFAULT" && usable(rest) && !known.contains(rest) {
            names.insert(rest.to_owned());
        }
    }
    // Those that others get their names from are not others.
    let later: BTreeSet<String> = names.iter().filter_map(|name| new_name(shell, name)).collect();
    let later: BTreeSet<String> = later.iter().map(|name| mangled(name)).collect();
    let vlans: BTreeMap<String, String> = vlans(shell).map(|name| (mangled(&name), name)).collect();
    let names = names.into_iter().filter(|name| !later.contains(name));
    names.map(|name| vlans.get(&name).cloned().unwrap_or(name)).collect()
}

/// `vlans_IF="10 20"` makes IF.10 and IF.20.
fn vlans(shell: &Shell) -> impl Iterator<Item = String> {
    shell.variables().filter_map(|(name, variable)| Some((name.strip_prefix("vlans_")?, variable))).flat_map(
        |(parent, variable)| {
            variable
                .words()
                .map(
                    |(child, _)| {
                        if is_number(child) { format!("{parent}.{child}") } else { child.to_owned() }
                    },
                )
                .collect::<Vec<_>>()
        },
    )
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn new_name(shell: &Shell, name: &str) -> Option<String> {
    let variable = shell.get(&format!("ifconfig_{}_name", mangled(name)))?;
    Some(variable.value.trim().to_owned()).filter(|name| usable(name))
}

/// Step 2.
fn interface(
    shell: &Shell,
    made_as: &str,
    cloned: bool,
    lists: &[(&str, Vec<Listed>)],
    notes: &mut Notes,
) -> Option<Interface> {
    let listed = lists.iter().find_map(|(list, words)| {
        let (_, at) = words.iter().find(|(word, _)| word.split(':').next() == Some(made_as))?;
        Some(Place { variable: (*list).to_owned(), at: at.clone() })
    });
    let mut said = Said {
        shell,
        notes,
        variables: Vec::new(),
        main: None,
        settings: Settings::default(),
        kind: Kind::Other,
    };
    let driver = made_as.split(|character: char| character.is_ascii_digit()).next().unwrap_or_default();
    if driver == "gre" {
        said.kind = Kind::Tunnel;
    }
    let before = mangled(made_as);
    said.call(&format!("create_args_{before}"), None);
    let mut name = made_as.to_owned();
    if let Some(new) = new_name(shell, made_as) {
        said.note(&format!("ifconfig_{before}_name"));
        name = new;
    }
    let key = mangled(&name);
    if !said.call(&format!("ifconfig_{key}"), None) {
        said.call("ifconfig_DEFAULT", None);
    }
    said.call(&format!("ifconfig_{key}_ipv6"), Some("inet6"));
    said.call(&format!("ipv6_ifconfig_{key}"), Some("inet6"));
    if let Some(description) = said.note(&format!("ifconfig_{key}_descr")) {
        said.settings.description = Some(description.value.clone());
    }
    said.aliases(&key);
    let Said { mut variables, main, mut settings, .. } = said;
    if let Some(new) = settings.name.take().filter(|name| usable(name)) {
        name = new;
    }
    let at = main.or(variables.first().map(|place| place.at.clone()));
    let at = at.or(listed.as_ref().map(|place| place.at.clone()))?;
    variables.splice(..0, listed);
    Some(Interface { name, made_as: made_as.to_owned(), cloned, settings, variables, at })
}

/// What is said of an interface, as it is put together.
struct Said<'s> {
    shell: &'s Shell,
    notes: &'s mut Notes,
    variables: Vec<Place>,
    main: Option<Position>,
    settings: Settings,
    kind: Kind,
}

impl<'s> Said<'s> {
    /// Looks a variable up, and notes that it was used. One that is empty says nothing.
    fn note(&mut self, name: &str) -> Option<&'s Variable> {
        let variable = self.shell.get(name)?;
        self.notes.doubt(name, variable);
        variable.words().next()?;
        if name != "ifconfig_DEFAULT" {
            self.variables.push(Place { variable: name.to_owned(), at: variable.at.clone() });
        }
        Some(variable)
    }

    /// Takes a variable that holds arguments of ifconfig(8), with `family` in front where none is given.
    fn call(&mut self, name: &str, family: Option<&str>) -> bool {
        let Some(variable) = self.note(name) else { return false };
        let mut words = evaluated(&variable.value);
        if let Some(family) = family
            && words.first().is_some_and(|word| word != family)
        {
            words.insert(0, family.to_owned());
        }
        if self.main.is_none() {
            self.main = Some(variable.at.clone());
        }
        self.settings.apply(&words, self.kind, false, &variable.at);
        true
    }

    /// `ifconfig_IF_aliases`, `ifconfig_IF_aliasN` in the order of their numbers up to an empty one, and what came before them.
    fn aliases(&mut self, key: &str) {
        let mut all: Vec<(Vec<String>, Position)> = Vec::new();
        if let Some(variable) = self.note(&format!("ifconfig_{key}_aliases")) {
            all.push((evaluated(&variable.value), variable.at.clone()));
        }
        for (prefix, family) in [("ifconfig_", "inet"), ("ipv6_ifconfig_", "inet6")] {
            let start = format!("{prefix}{key}_alias");
            let numbered = self.shell.variables().filter_map(|(name, _)| {
                let number = name.strip_prefix(&start)?;
                Some((number.parse::<u64>().ok().filter(|_| is_number(number))?, name))
            });
            let mut numbered: Vec<_> = numbered.collect();
            numbered.sort();
            for (_, name) in numbered {
                let Some(variable) = self.note(name) else { break };
                let mut words = evaluated(&variable.value);
                let given = words.first().is_some_and(|word| is_family(word));
                if !given || family == "inet6" {
                    words.insert(0, family.to_owned());
                }
                all.push((words, variable.at.clone()));
            }
        }
        if let Some(variable) = self.note(&format!("ipv4_addrs_{key}")) {
            let each = variable.words().flat_map(|(word, _)| ["inet".to_owned(), word.to_owned()]);
            all.push((each.collect(), variable.at.clone()));
        }
        for (words, at) in all {
            // One call for each address.
            for call in words.chunk_by(|_, word| !is_family(word)) {
                self.settings.apply(call, self.kind, true, &at);
            }
        }
    }
}

fn is_family(word: &str) -> bool {
    matches!(word, "inet" | "inet6" | "link" | "ether")
}

/// The words of a value that rc evaluates once more: quotes in it hold words together.
fn evaluated(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, ' ' | '\t' | '\n') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), _) if open == character => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// Step 3.
pub(super) fn routes(shell: &Shell, notes: &mut Notes) -> Vec<StaticRoute> {
    let mut routes = Vec::new();
    for (list, prefix, v6) in
        [("static_routes", "route_", false), ("ipv6_static_routes", "ipv6_route_", true)]
    {
        for (name, at) in list_of(shell, list, notes) {
            // `NAME:IF` ties it to an interface.
            let name = name.split(':').next().unwrap_or_default();
            let variable = format!("{prefix}{}", mangled(name));
            match shell.get(&variable) {
                Some(value) => {
                    notes.doubt(&variable, value);
                    let words: Vec<&str> = value.words().map(|(word, _)| word).collect();
                    take(&mut routes, variable, &words, v6, &value.at, notes);
                }
                None => notes.left(list, "it names a route that no variable describes", "correct it", &at),
            }
        }
    }
    for (router, v6) in [("defaultrouter", false), ("ipv6_defaultrouter", true)] {
        let Some(variable) = shell.get(router) else { continue };
        notes.doubt(router, variable);
        let words: Vec<&str> = variable.words().map(|(word, _)| word).collect();
        if !words.is_empty() && !words.iter().all(|word| word.eq_ignore_ascii_case("NO")) {
            let words: Vec<&str> = ["default"].into_iter().chain(words).collect();
            take(&mut routes, router.to_owned(), &words, v6, &variable.at, notes);
        }
    }
    routes
}

fn take(
    routes: &mut Vec<StaticRoute>,
    variable: String,
    words: &[&str],
    v6: bool,
    at: &Position,
    notes: &mut Notes,
) {
    match ifconfig::route(words, v6) {
        Ok(route) => routes.push(StaticRoute { variable, route, at: at.clone() }),
        Err(why) => {
            notes.left(variable, why, "look whether it leads into a tunnel: that one's `routes` take it", at)
        }
    }
}
