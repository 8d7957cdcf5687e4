//! The arguments of ifconfig(8) and route(8), as far as they say something about tunnels, addresses and routes.
//!
//! Words that may be secrets (`pass`, keys of other kinds of interfaces) are passed with their keyword and kept nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{Position, Prefix};

/// What all arguments of an interface come to.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Its addresses, in order.
    pub(super) addresses: Vec<Address>,
    /// The ends of the tunnel: ours, the far one.
    pub(super) ends: Option<(IpAddr, IpAddr)>,
    /// GRE key; 0 is none, as gre(4) has it.
    pub(super) key: u32,
    pub(super) checksum: bool,
    pub(super) sequence: bool,
    pub(super) udp: bool,
    pub(super) mtu: Option<u32>,
    /// What it is for, in one line.
    pub(super) description: Option<String>,
    /// The name that it gets.
    pub(super) name: Option<String>,
    /// Its address comes from elsewhere.
    pub(super) dynamic: bool,
    /// It is given to a jail.
    pub(super) jailed: bool,
    /// What means something to FreeBSD and nothing here, each with where it stands.
    pub(super) left: Vec<(Left, Position)>,
}

/// An address of an interface.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// The address and its network.
    pub(super) prefix: Prefix,
    /// The far end's, on a point-to-point interface.
    pub(super) peer: Option<IpAddr>,
    /// CARP's virtual host.
    pub(super) vhid: Option<u8>,
    /// Whether it is beside the interface's first.
    pub(super) alias: bool,
    /// Where it is given.
    pub(super) at: Position,
}

/// What of the arguments has no counterpart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// A keyword with its value, or without.
    Option(String),
    /// A keyword whose value cannot be read.
    Unreadable(&'static str),
    /// A word that nobody knows here, and with it the rest of the words. It may be a secret.
    Unknown,
}

/// Keywords of ifconfig(8) with a value that means nothing to a tunnel.
const WITH_VALUE: [&str; 26] = [
    "advbase",
    "advskew",
    "authkey",
    "authmode",
    "bssid",
    "carpver",
    "channel",
    "country",
    "defname",
    "group",
    "laggport",
    "laggproto",
    "media",
    "mediaopt",
    "metric",
    "mode",
    "nwkey",
    "pass",
    "peer6",
    "pltime",
    "ssid",
    "state",
    "vlan",
    "vlandev",
    "vltime",
    "wepkey",
];

/// Keywords without a value that mean nothing to a tunnel, with and without `-` in front.
const BARE: [&str; 40] = [
    "accept_rtadv",
    "anycast",
    "arp",
    "auto_linklocal",
    "autoconf",
    "create",
    "debug",
    "defaultif",
    "deprecated",
    "down",
    "eui64",
    "ifdisabled",
    "ipv6_prefer_source",
    "link0",
    "link1",
    "link2",
    "lro",
    "monitor",
    "mcast",
    "multicast",
    "no_dad",
    "no_prefer_iface",
    "no_radr",
    "nud",
    "plumb",
    "polling",
    "prefer_source",
    "promisc",
    "rxcsum",
    "rxcsum6",
    "staticarp",
    "tso",
    "tso4",
    "tso6",
    "txcsum",
    "txcsum6",
    "up",
    "vlanhwtag",
    "vlanhwcsum",
    "wol",
];

/// What an interface is for: of tunnels, everything has to be understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Tunnel,
    Other,
}

impl Settings {
    /// Takes the arguments of one call of ifconfig(8).
    pub(super) fn apply(&mut self, words: &[String], kind: Kind, alias: bool, at: &Position) {
        let mut call = Call { settings: self, words, next: 0, v6: false, open: None, vhid: None, alias, at };
        call.run(kind);
    }
}

/// One call of ifconfig(8).
struct Call<'c> {
    settings: &'c mut Settings,
    words: &'c [String],
    next: usize,
    v6: bool,
    /// The address that is being described.
    open: Option<Address>,
    /// CARP's virtual host of the next address.
    vhid: Option<u8>,
    alias: bool,
    at: &'c Position,
}

impl<'c> Call<'c> {
    fn word(&mut self) -> Option<&'c str> {
        let word = self.words.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some(word)
    }

    fn leave(&mut self, left: Left) {
        self.settings.left.push((left, self.at.clone()));
    }

    /// The value behind a keyword, if it can be read.
    fn value<T>(&mut self, keyword: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.word().and_then(read);
        if value.is_none() {
            self.leave(Left::Unreadable(keyword));
        }
        value
    }

    fn address(&self, text: &str) -> Option<IpAddr> {
        let address: IpAddr = text.split('%').next()?.parse().ok()?;
        (address.is_ipv6() == self.v6).then_some(address)
    }

    fn close(&mut self) {
        self.settings.addresses.extend(self.open.take());
    }

    fn run(&mut self, kind: Kind) {
        while let Some(word) = self.word() {
            match word {
                "inet" | "inet6" => {
                    self.close();
                    self.v6 = word == "inet6";
                }
                "link" | "ether" | "lladdr" => {
                    self.close();
                    self.word();
                }
                "alias" | "add" => self.alias = true,
                "-alias" | "delete" | "remove" => {
                    self.open = None;
                    self.leave(Left::Option(word.to_owned()));
                }
                "tunnel" => {
                    let near = self.word().and_then(|word| self.address(word));
                    let far = self.word().and_then(|word| self.address(word));
                    match near.zip(far) {
                        Some(ends) => self.settings.ends = Some(ends),
                        None => self.leave(Left::Unreadable("tunnel")),
                    }
                }
                "-tunnel" | "deletetunnel" => self.settings.ends = None,
                "netmask" => {
                    if let Some(len) = self.value("netmask", mask)
                        && let Some(open) = &mut self.open
                    {
                        open.prefix.len = len;
                    }
                }
                "prefixlen" => {
                    let most = if self.v6 { 128 } else { 32 };
                    if let Some(len) =
                        self.value("prefixlen", |text| text.parse().ok().filter(|len| *len <= most))
                        && let Some(open) = &mut self.open
                    {
                        open.prefix.len = len;
                    }
                }
                "vhid" => {
                    if let Some(vhid) =
                        self.value("vhid", |text| text.parse::<u8>().ok().filter(|vhid| *vhid > 0))
                    {
                        // It may stand before its address, or behind.
                        match &mut self.open {
                            Some(open) => open.vhid = Some(vhid),
                            None => self.vhid = Some(vhid),
                        }
                    }
                }
                // CARP's, behind `vhid`.
                "peer" | "broadcast" => drop(self.word()),
                "grekey" => self.settings.key = self.value("grekey", number).unwrap_or_default(),
                "mtu" => self.settings.mtu = self.value("mtu", number),
                "enable_csum" | "-enable_csum" => self.settings.checksum = !word.starts_with('-'),
                "enable_seq" | "-enable_seq" => self.settings.sequence = !word.starts_with('-'),
                "udpencap" | "-udpencap" => self.settings.udp = !word.starts_with('-'),
                "descr" | "description" => self.settings.description = self.word().map(str::to_owned),
                "-descr" | "-description" => self.settings.description = None,
                "name" => self.settings.name = self.word().map(str::to_owned),
                "vnet" => {
                    self.word();
                    self.settings.jailed = true;
                }
                "fib" | "tunnelfib" | "udpport" => {
                    let keyword = if word == "fib" {
                        "fib"
                    } else if word == "udpport" {
                        word
                    } else {
                        "tunnelfib"
                    };
                    let value = self.word().and_then(number);
                    if value != Some(0) {
                        let value = value.map_or(String::new(), |value| format!(" {value}"));
                        self.leave(Left::Option(format!("{keyword}{value}")));
                    }
                }
                _ => self.rest(word, kind),
            }
        }
        self.close();
    }

    /// Pseudo arguments of rc, what means nothing here, addresses, and what nobody knows.
    fn rest(&mut self, word: &str, kind: Kind) {
        match word.to_ascii_uppercase().as_str() {
            "DHCP" | "SYNCDHCP" | "NOSYNCDHCP" | "WPA" | "HOSTAP" => {
                self.settings.dynamic = true;
                return;
            }
            "NOAUTO" => return self.leave(Left::Option("NOAUTO".to_owned())),
            _ => {}
        }
        if WITH_VALUE.contains(&word) {
            self.word();
        } else if BARE.contains(&word.strip_prefix('-').unwrap_or(word)) {
            // Nothing that a configuration says.
        } else if !self.take_address(word) && kind == Kind::Tunnel {
            self.leave(Left::Unknown);
            // Whether what follows belongs to it, nobody can tell.
            self.next = self.words.len();
        }
    }

    /// Takes `A`, `A/LEN`, `A-B` or, behind an address, the far end's. Was it one?
    fn take_address(&mut self, word: &str) -> bool {
        let (text, len) = word.split_once('/').map_or((word, None), |(text, len)| (text, Some(len)));
        let most: u8 = if self.v6 { 128 } else { 32 };
        let len = match len.map(|len| len.parse::<u8>().ok().filter(|len| *len <= most)) {
            Some(None) => return false,
            Some(len) => len,
            None => None,
        };
        let addresses = match self.address(text) {
            Some(address) => vec![address],
            None if self.v6 => return false,
            None => range(text),
        };
        let Some((first, others)) = addresses.split_first() else { return false };
        if len.is_none()
            && others.is_empty()
            && let Some(open) = &mut self.open
            && open.peer.is_none()
        {
            open.peer = Some(*first);
            return true;
        }
        self.close();
        let alias = self.alias
            || self.settings.addresses.iter().any(|other| other.prefix.addr.is_ipv4() == first.is_ipv4());
        let vhid = self.vhid.take();
        let of = |addr: &IpAddr, len: u8, alias| Address {
            prefix: Prefix { addr: *addr, len },
            peer: None,
            vhid,
            alias,
            at: self.at.clone(),
        };
        let first = of(first, len.unwrap_or(if self.v6 { 64 } else { 32 }), alias);
        if others.is_empty() {
            self.open = Some(first);
        } else {
            // rc gives the rest of a range no network of its own.
            let rest: Vec<Address> = others.iter().map(|addr| of(addr, most, true)).collect();
            self.settings.addresses.push(first);
            self.settings.addresses.extend(rest);
        }
        true
    }
}

/// `192.0.2.1-9`, and `192.0.1-3.4`, as rc expands them, up to rc's own bound.
fn range(text: &str) -> Vec<IpAddr> {
    const MOST: u16 = 2048;
    let parts: Vec<&str> = text.split('.').collect();
    let Some((place, (low, high))) =
        parts.iter().enumerate().find_map(|(place, part)| Some((place, part.split_once('-')?)))
    else {
        return Vec::new();
    };
    let (Ok(low), Ok(high)) = (low.parse::<u16>(), high.parse::<u16>()) else { return Vec::new() };
    let mut addresses = Vec::new();
    for number in low..=high.min(low.saturating_add(MOST)) {
        let number = number.to_string();
        let parts: Vec<&str> = parts
            .iter()
            .enumerate()
            .map(|(at, part)| if at == place { number.as_str() } else { part })
            .collect();
        match parts.join(".").parse::<Ipv4Addr>() {
            Ok(address) => addresses.push(IpAddr::V4(address)),
            Err(_) => return Vec::new(),
        }
    }
    addresses
}

/// The length of a netmask, as `255.255.255.0` or `0xffffff00`.
pub(super) fn mask(text: &str) -> Option<u8> {
    let bits = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => text.parse::<Ipv4Addr>().ok()?.to_bits(),
    };
    let len = bits.leading_ones();
    (bits.checked_shl(len).unwrap_or(0) == 0).then_some(u8::try_from(len).ok()?)
}

/// A number as strtoul(3) takes it: decimal, `0x` or `0`.
pub(super) fn number(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    match (hex, text.strip_prefix('0')) {
        (Some(hex), _) => u32::from_str_radix(hex, 16).ok(),
        (None, Some(octal)) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ if text.starts_with('+') => None,
        _ => text.parse().ok(),
    }
}

/// A route as route(8) is told it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub(super) prefix: Prefix,
    pub(super) gateway: Gateway,
}

/// Where a route leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Gateway {
    Address(IpAddr),
    Interface(String),
    /// To nobody: `-reject`, `-blackhole`.
    Discard,
}

/// Reads the arguments behind `route add`.
///
/// # Errors
/// Why they cannot be read.
pub(super) fn route(words: &[&str], v6: bool) -> Result<Route, &'static str> {
    let mut words = words.iter().copied();
    let (mut v6, mut host, mut net, mut interface, mut discard) = (v6, false, false, false, false);
    let mut len = None;
    let mut positional = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "-inet" | "-4" => v6 = false,
            "-inet6" | "-6" => v6 = true,
            "-host" => host = true,
            "-net" => net = true,
            "-interface" | "-iface" => {
                interface = true;
                positional.extend(words.next());
            }
            "-reject" | "-blackhole" => discard = true,
            "-netmask" => len = Some(words.next().and_then(mask).ok_or("its netmask cannot be read")?),
            "-prefixlen" => {
                let most = if v6 { 128 } else { 32 };
                let length =
                    words.next().and_then(|text| text.parse().ok()).filter(|length: &u8| *length <= most);
                len = Some(length.ok_or("its prefix length cannot be read")?);
            }
            "-fib" => {
                if words.next() != Some("0") {
                    return Err("it stands in another table than the first (-fib)");
                }
            }
            "-mtu" | "-expire" | "-weight" | "-hopcount" | "-rtt" | "-rttvar" | "-sendpipe" | "-recvpipe"
            | "-ssthresh" | "-ifa" | "-ifp" => drop(words.next()),
            "-gateway" => positional.extend(words.next()),
            "-dst" => positional.extend(words.next()),
            _ if word.starts_with('-') => {}
            _ => positional.push(word),
        }
    }
    let mut positional = positional.into_iter();
    let destination = positional.next().ok_or("it leads nowhere")?;
    let gateway = positional.next();
    if let Some(third) = positional.next() {
        len = Some(mask(third).ok_or("its netmask cannot be read")?);
    }
    v6 |= destination.contains(':');
    let most: u8 = if v6 { 128 } else { 32 };
    let prefix = if destination == "default" {
        let addr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
        Prefix { addr, len: 0 }
    } else {
        let (text, own) =
            destination.split_once('/').map_or((destination, None), |(text, own)| (text, Some(own)));
        if let Some(own) = own {
            let own = own.parse().ok().filter(|own: &u8| *own <= most);
            len = Some(own.ok_or("its prefix length cannot be read")?);
        }
        let full = if v6 || len.is_none() { text.to_owned() } else { filled(text) };
        let addr: IpAddr = full.parse().map_err(|_| "its destination is no address")?;
        if addr.is_ipv6() != v6 {
            return Err("its destination is of another family");
        }
        match len {
            _ if host => Prefix { addr, len: most },
            Some(len) => Prefix { addr, len },
            None if net => return Err("it names a network without a length"),
            None => Prefix { addr, len: most },
        }
    };
    let gateway = match gateway {
        _ if discard => Gateway::Discard,
        None => return Err("it has no gateway"),
        Some(name) if interface => Gateway::Interface(name.to_owned()),
        Some(text) => {
            let address = text.split('%').next().and_then(|text| text.parse::<IpAddr>().ok());
            Gateway::Address(address.ok_or("its gateway is no address")?)
        }
    };
    Ok(Route { prefix: prefix.network(), gateway })
}

/// `10.2` is `10.2.0.0` where a length stands behind it.
fn filled(text: &str) -> String {
    let missing = 3_usize.saturating_sub(text.matches('.').count());
    format!("{text}{}", ".0".repeat(missing))
}
