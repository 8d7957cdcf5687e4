//! Interfaces on FreeBSD, through ifconfig(8): its arguments as a list, without a shell, and its answer line by line.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::process::{Command, Output};

use culvert_engine::fib::Prefix;

use super::{Inner, Present, canonical};

const IFCONFIG: &str = "/sbin/ifconfig";
#[cfg(target_os = "freebsd")]
const ROUTE: &str = "/sbin/route";

/// The programs.
pub(super) struct System {
    program: String,
    route: String,
}

impl System {
    #[cfg(target_os = "freebsd")]
    pub(super) fn open() -> io::Result<System> {
        Ok(System::with(IFCONFIG, ROUTE))
    }

    /// For tests on other systems, which have one of their own.
    pub(super) fn with(program: &str, route: &str) -> System {
        System { program: program.to_owned(), route: route.to_owned() }
    }

    pub(super) fn read(&mut self, name: &str) -> io::Result<Option<Present>> {
        let output = self.run(&[name.to_owned()])?;
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            let present = parse(&text).ok_or_else(|| unreadable(&text))?;
            return Ok(Some(present));
        }
        let reason = complaint(&output);
        // `ifconfig: interface tun7 does not exist`
        if reason.contains("does not exist") { Ok(None) } else { Err(io::Error::other(reason)) }
    }

    pub(super) fn set_link(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        self.change([name, "mtu", &mtu.to_string(), "up"].map(str::to_owned).as_slice())
    }

    pub(super) fn add_address(&mut self, name: &str, inner: Inner) -> io::Result<()> {
        self.change(&add_arguments(name, inner))
    }

    pub(super) fn remove_address(&mut self, name: &str, inner: Inner) -> io::Result<()> {
        self.change(&remove_arguments(name, inner))
    }

    pub(super) fn add_route(&mut self, name: &str, prefix: Prefix) -> io::Result<()> {
        self.change_route("add", name, prefix, &["already in table", "File exists"])
    }

    pub(super) fn remove_route(&mut self, name: &str, prefix: Prefix) -> io::Result<()> {
        self.change_route("delete", name, prefix, &["not in table", "No such process"])
    }

    /// `done` are the complaints, of releases with and without netlink, that nothing was left to do.
    fn change_route(&self, verb: &str, name: &str, prefix: Prefix, done: &[&str]) -> io::Result<()> {
        let family = if prefix.addr().is_ipv4() { "-inet" } else { "-inet6" };
        let prefix = prefix.to_string();
        let arguments = ["-n", verb, family, "-net", &prefix, "-interface", name];
        let output = run(&self.route, &arguments.map(str::to_owned))?;
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.success() || done.iter().any(|done| told.contains(done)) {
            return Ok(());
        }
        Err(io::Error::other(told.lines().collect::<Vec<_>>().join("; ")))
    }

    /// They go one by one, soon enough.
    #[cfg(target_os = "freebsd")]
    pub(super) fn delete_all(&mut self, _names: &[&str]) -> Result<(), (String, io::Error)> {
        Ok(())
    }

    fn change(&self, arguments: &[String]) -> io::Result<()> {
        let output = self.run(arguments)?;
        if output.status.success() { Ok(()) } else { Err(io::Error::other(complaint(&output))) }
    }

    fn run(&self, arguments: &[String]) -> io::Result<Output> {
        run(&self.program, arguments)
    }
}

/// Switches an interface on or off.
///
/// # Errors
/// The system's.
#[cfg(target_os = "freebsd")]
pub fn switch(name: &str, on: bool) -> io::Result<()> {
    System::open()?.change([name, if on { "up" } else { "down" }].map(str::to_owned).as_slice())
}

fn run(program: &str, arguments: &[String]) -> io::Result<Output> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    output.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))
}

/// What the program says to its failure.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    match text.trim() {
        "" => format!("{IFCONFIG} ended with {}", output.status),
        text => text.to_owned(),
    }
}

fn unreadable(text: &str) -> io::Error {
    io::Error::other(format!(
        "cannot make sense of what {IFCONFIG} says: {}",
        text.lines().next().unwrap_or("nothing")
    ))
}

/// A tun is point to point: IPv4 wants an address at the other end, which is our own where there is none.
fn add_arguments(name: &str, inner: Inner) -> Vec<String> {
    let (local, len) = (inner.local.to_string(), inner.prefix_len);
    let words = match inner.local {
        IpAddr::V4(_) => {
            let peer = inner.peer.unwrap_or(inner.local).to_string();
            vec!["inet".to_owned(), local, peer, "netmask".to_owned(), netmask(len)]
        }
        IpAddr::V6(_) => {
            let ends = [Some(local), inner.peer.map(|peer| peer.to_string())];
            let ends = ends.into_iter().flatten();
            ["inet6".to_owned()]
                .into_iter()
                .chain(ends)
                .chain(["prefixlen".to_owned(), len.to_string()])
                .collect()
        }
    };
    [name.to_owned()].into_iter().chain(words).chain(["alias".to_owned()]).collect()
}

fn remove_arguments(name: &str, inner: Inner) -> Vec<String> {
    let family = if inner.local.is_ipv4() { "inet" } else { "inet6" };
    vec![name.to_owned(), family.to_owned(), inner.local.to_string(), "-alias".to_owned()]
}

/// `0xffffff00` of 24.
fn netmask(len: u8) -> String {
    let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
    format!("0x{mask:08x}")
}

/// Reads
/// ```text
/// tun0: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> metric 0 mtu 1500
///     inet 172.27.27.252 --> 172.27.27.33 netmask 0xffffffff
///     inet6 2001:db8::1 --> 2001:db8::2 prefixlen 128
/// ```
/// and passes over all other lines.
fn parse(text: &str) -> Option<Present> {
    let mut lines = text.lines();
    let first = lines.next()?;
    let flags = first.split_once('<')?.1.split_once('>')?.0;
    let mtu = after(first, "mtu")?.parse().ok()?;
    let up = flags.split(',').any(|flag| flag == "UP");
    Some(Present { mtu, up, addresses: lines.filter_map(address).collect::<BTreeSet<_>>() })
}

fn address(line: &str) -> Option<Inner> {
    let mut words = line.split_whitespace();
    let family = words.next().filter(|word| matches!(*word, "inet" | "inet6"))?;
    // A link-local address is followed by its interface.
    let ip = |text: &str| text.split_once('%').map_or(text, |(address, _)| address).parse::<IpAddr>().ok();
    let local = ip(words.next()?)?;
    let peer = after(line, "-->").and_then(ip);
    let prefix_len = match family {
        "inet" => {
            let mask = u32::from_str_radix(after(line, "netmask")?.strip_prefix("0x")?, 16).ok()?;
            mask.leading_ones() as u8
        }
        _ => after(line, "prefixlen")?.parse().ok()?,
    };
    Some(canonical(Inner { local, prefix_len, peer }))
}

/// The word behind another one.
fn after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.split_whitespace().skip_while(|found| *found != word).nth(1)
}
