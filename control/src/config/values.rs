//! From the text of a setting to its value: addresses, names, durations, keys. A refusal quotes the text unless it is a
//! secret, and shows how to write it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroizing;

use super::model::{Device, Direction, Group, Local, Mac, Mode, Payload, Prefix, Suite};
use super::reader::nearest;
use super::report::Fault;

/// Interface names have at most this many bytes: `IFNAMSIZ` is 16 with the NUL on FreeBSD and Linux.
const NAME_LEN: usize = 15;

/// The pseudo-port of frames that go to the host stack.
const HOST: &str = "host";

/// Text from a file as messages show it: in quotes, control characters escaped, not endless.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}..", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// The value that belongs to one of a few words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Fault> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let remedy = match nearest(text, &known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write \"{}\"", known.join("\" or \"")),
    };
    Err(Fault::new(format!("{} is not known here", quoted(text)), remedy))
}

pub(super) fn mode(text: &str) -> Result<Mode, Fault> {
    word(text, &[("transport", Mode::Transport), ("tunnel", Mode::Tunnel)])
}

pub(super) fn payload(text: &str) -> Result<Payload, Fault> {
    word(text, &[("ip", Payload::Ip), ("ethernet", Payload::Ethernet)])
}

pub(super) fn direction(text: &str) -> Result<Direction, Fault> {
    word(text, &[("in", Direction::In), ("out", Direction::Out)])
}

pub(super) fn suite(text: &str) -> Result<Suite, Fault> {
    word(text, &Suite::ALL.map(|suite| (suite.name(), suite)))
}

/// A name that an interface can have.
pub(super) fn interface(text: &str) -> Result<String, Fault> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.is_empty()
        || text.len() > NAME_LEN
        || !text.bytes().all(usable)
        || text.bytes().all(|byte| byte == b'.')
    {
        let why = format!("{} cannot be the name of an interface", quoted(text));
        return Err(Fault::new(why, format!("use 1 to {NAME_LEN} of the characters A-Z a-z 0-9 . _ -")));
    }
    Ok(text.to_owned())
}

/// The name of a port or tunnel.
pub(super) fn name(text: &str) -> Result<String, Fault> {
    if text == HOST {
        let why = format!("\"{HOST}\" stands for the host stack");
        return Err(Fault::new(why, "choose another name"));
    }
    interface(text)
}

pub(super) fn device(text: &str) -> Result<Device, Fault> {
    let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    match (kind, rest) {
        ("netmap", Some(rest)) => interface(rest).map(Device::Netmap),
        ("xdp", Some(rest)) => interface(rest).map(Device::Xdp),
        ("tap", Some(rest)) => interface(rest).map(Device::Tap),
        ("pcap", None) => Ok(Device::Pcap),
        ("memory", None) => Ok(Device::Memory),
        _ => {
            let remedy = "write \"netmap:IF\", \"xdp:IF\", \"tap:NAME\", \"pcap\" or \"memory\"";
            Err(Fault::new(format!("{} is no device", quoted(text)), remedy))
        }
    }
}

/// The address of one host.
pub(super) fn host_address(text: &str) -> Result<IpAddr, Fault> {
    let example = "write an address such as \"192.0.2.1\" or \"2001:db8::1\"";
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Fault::new(format!("{} is not an IP address", quoted(text)), example));
    };
    check_host(address)
}

fn check_host(address: IpAddr) -> Result<IpAddr, Fault> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(Fault::new(
            format!("{address} is not the address of one host"),
            "give a unicast address",
        ));
    }
    Ok(address)
}

pub(super) fn local(text: &str) -> Result<Local, Fault> {
    let Some(carp) = text.strip_prefix("carp:") else {
        return host_address(text).map(Local::Address);
    };
    let form = || {
        let why = format!("{} names no CARP address", quoted(text));
        Fault::new(why, "write \"carp:VHID@IF\" with a VHID of 1 to 255, such as \"carp:2@vmx0\"")
    };
    parts(carp, form).map(|group| Local::Carp { group, address: None })
}

/// `VHID@IF`.
pub(super) fn group(text: &str) -> Result<Group, Fault> {
    let form = || {
        let why = format!("{} names no group", quoted(text));
        Fault::new(why, "write VHID@IF with a VHID of 1 to 255, such as 2@vmx0")
    };
    parts(text, form)
}

fn parts(text: &str, form: impl Fn() -> Fault) -> Result<Group, Fault> {
    let (vhid, name) = text.split_once('@').ok_or_else(&form)?;
    let vhid = vhid.parse::<u8>().ok().filter(|vhid| *vhid != 0).ok_or_else(form)?;
    Ok(Group { vhid, interface: interface(name)? })
}

fn prefix(text: &str) -> Result<Prefix, Fault> {
    let form = |why: String| Fault::new(why, "write an address and a length, such as \"192.0.2.0/24\"");
    let Some((addr, len)) = text.split_once('/') else {
        return Err(form(format!("{} has no prefix length", quoted(text))));
    };
    let Ok(addr) = addr.parse::<IpAddr>() else {
        return Err(form(format!("{} is not an IP address", quoted(addr))));
    };
    let most = if addr.is_ipv4() { 32 } else { 128 };
    let digits = !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit());
    match len.parse::<u8>().ok().filter(|len| digits && *len <= most) {
        Some(len) => Ok(Prefix { addr, len }),
        None => Err(form(format!("the prefix length of {} is not 0 to {most}", quoted(text)))),
    }
}

/// A network: no host bits.
pub(super) fn network(text: &str) -> Result<Prefix, Fault> {
    let prefix = prefix(text)?;
    let network = prefix.network();
    if network != prefix {
        return Err(Fault::new(format!("{prefix} has host bits set"), format!("write \"{network}\"")));
    }
    Ok(prefix)
}

/// An interface's own address with the length of its network.
pub(super) fn interface_address(text: &str) -> Result<Prefix, Fault> {
    let prefix = prefix(text)?;
    check_host(prefix.addr)?;
    Ok(prefix)
}

/// The Ethernet address of one station.
pub(super) fn mac(text: &str) -> Result<Mac, Fault> {
    let form = || {
        let why = format!("{} is not an Ethernet address", quoted(text));
        Fault::new(why, "write six pairs of hex digits, such as \"02:00:00:00:00:01\"")
    };
    let mut bytes = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs
            .next()
            .filter(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(form)?;
    }
    if pairs.next().is_some() {
        return Err(form());
    }
    // IEEE 802: the lowest bit of the first byte marks a group.
    if bytes[0] & 1 != 0 || bytes == [0; 6] {
        let why = format!("{} is not the address of one station", Mac(bytes));
        return Err(Fault::new(why, "give a unicast address: an even first byte, not all zero"));
    }
    Ok(Mac(bytes))
}

/// Shortest and longest period of keepalives.
const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// How long a far router may be silent.
const SILENCES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// The period of keepalives: a whole number with `ms`, `s`, `m` or `h`.
pub(super) fn period(text: &str) -> Result<Duration, Fault> {
    duration(text, PERIODS, "write a whole number and ms, s, m or h, from \"100ms\" to \"1h\"")
}

/// How long a far router may be silent before it is asked whether it is there.
pub(super) fn dpd(text: &str) -> Result<Duration, Fault> {
    duration(text, SILENCES, "write a whole number and s, m or h, from \"1s\" to \"1h\"")
}

/// How long an SA lives.
const LIVES: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(720 * 3600);

/// The time until an SA is replaced, or ends.
pub(super) fn lifetime(text: &str) -> Result<Duration, Fault> {
    let remedy = "write a whole number and s, m or h, from \"10s\" to \"720h\"";
    let time = duration(text, LIVES, remedy)?;
    if time.subsec_nanos() > 0 {
        return Err(Fault::new(format!("{} is no whole number of seconds", quoted(text)), remedy));
    }
    Ok(time)
}

/// How long a daemon that is to end waits until its router is not master any more.
pub(super) fn yield_on_stop(text: &str) -> Result<Duration, Fault> {
    let range = Duration::ZERO..=Duration::from_secs(30);
    duration(
        text,
        range,
        "write a whole number and ms or s, from \"0s\", which hands nothing over, to \"30s\"",
    )
}

/// How often the two routers of a pair say that they are there.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// How long the other router of a pair may be silent.
const DEAD: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);

/// How often the two routers of a pair say that they are there.
pub(super) fn heartbeat(text: &str) -> Result<Duration, Fault> {
    duration(text, HEARTBEATS, "write a whole number and ms, s or m, from \"50ms\" to \"1m\"")
}

/// How long the other router of a pair may be silent before it is taken for dead.
pub(super) fn dead(text: &str) -> Result<Duration, Fault> {
    duration(text, DEAD, "write a whole number and ms, s or m, from \"100ms\" to \"10m\"")
}

/// An address and a port of a host.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, Fault> {
    const REMEDY: &str = "give an address and a port: \"10.9.0.1:4790\" or \"[2001:db8::1]:4790\"";
    let endpoint: SocketAddr = text
        .parse()
        .map_err(|_| Fault::new(format!("{} is no IP address with a port", quoted(text)), REMEDY))?;
    if endpoint.port() == 0 {
        return Err(Fault::new("port 0 is any port", REMEDY));
    }
    host_address(&endpoint.ip().to_string())?;
    Ok(endpoint)
}

fn duration(text: &str, range: std::ops::RangeInclusive<Duration>, remedy: &str) -> Result<Duration, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(Fault::new(format!("{} is not a duration", quoted(text)), remedy)),
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match millis.map(Duration::from_millis).filter(|period| range.contains(period)) {
        Some(period) => Ok(period),
        None => Err(Fault::new(format!("{} is out of range", quoted(text)), remedy)),
    }
}

/// The bytes behind hex digits. Says nothing about the text beyond its length and where it is no hex.
pub(super) fn hex(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let remedy = "write the cipher key and then the 4-byte salt as hex digits, without spaces and prefix";
    let (pairs, rest) = text.as_chunks::<2>();
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for (index, [high, low]) in pairs.iter().enumerate() {
        let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) else {
            let place = index.saturating_mul(2).saturating_add(1);
            return Err(Fault::new(
                format!("has something else than hex digits at character {place} or the next"),
                remedy,
            ));
        };
        bytes.push(high << 4 | low);
    }
    if !rest.is_empty() {
        return Err(Fault::new(format!("has an odd number of characters ({})", text.len()), remedy));
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods() {
        assert_eq!(period("10s").unwrap(), Duration::from_secs(10));
        assert_eq!(period("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(period("1m").unwrap(), Duration::from_secs(60));
        assert_eq!(period("1h").unwrap(), Duration::from_secs(3600));
        for bad in ["", "10", "s", "1.5s", "-1s", "10 s", "2h", "99ms", "18446744073709551615h", "1\u{e9}"] {
            assert!(period(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_have_no_host_bits() {
        assert_eq!(network("0.0.0.0/0").unwrap().len, 0);
        assert_eq!(network("2001:db8::/32").unwrap().to_string(), "2001:db8::/32");
        assert!(network("10.2.3.4/16").unwrap_err().remedy.contains("\"10.2.0.0/16\""));
        assert!(network("2001:db8::1/64").unwrap_err().remedy.contains("\"2001:db8::/64\""));
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/-1", "x/8"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn macs() {
        assert_eq!(mac("02:00:00:00:00:fF").unwrap().to_string(), "02:00:00:00:00:ff");
        for bad in [
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "01:00:5e:00:00:01",
        ] {
            assert!(mac(bad).is_err(), "{bad}");
        }
        assert!(mac("00:00:00:00:00:00").is_err());
    }

    #[test]
    fn names_fit_interfaces() {
        assert!(name("paris-oslo_1.x").is_ok());
        assert!(name("123456789012345").is_ok());
        for bad in ["", "1234567890123456", "a b", "a/b", "..", ".", "\u{e9}", "host"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locals() {
        assert_eq!(
            local("carp:2@vmx0").unwrap(),
            Local::Carp { group: Group { vhid: 2, interface: "vmx0".into() }, address: None }
        );
        assert_eq!(local("2001:db8::1").unwrap().to_string(), "2001:db8::1");
        for bad in
            ["carp:0@vmx0", "carp:256@vmx0", "carp:2", "carp:2@", "carp:@vmx0", "224.0.0.5", "0.0.0.0", "::"]
        {
            assert!(local(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hex_keys() {
        assert_eq!(hex(b"00fFa1").unwrap().as_slice(), &[0, 0xff, 0xa1]);
        assert!(hex(b"00f").is_err());
        let refusal = hex(b"00\xc3\xa9ab").unwrap_err();
        assert!(refusal.why.contains("character 3") && !refusal.why.contains("ab"));
    }

    #[test]
    fn quotes_are_short_and_clean() {
        assert_eq!(quoted("a\u{1b}[31m"), "\"a\\u{1b}[31m\"");
        assert!(quoted(&"\u{e9}".repeat(1000)).len() < 200);
    }
}
