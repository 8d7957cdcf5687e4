//! Whole files through [`Config::load`]: the examples load and mean what they say, every refusal names its line and what
//! to do, no secret is ever shown, and damaged files do no harm.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A folder of its own for each test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("culvert-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The examples of `tests/config`, readable by their owner alone.
    fn with_examples() -> Self {
        let folder = Self::new();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/config");
        for from in ["", "conf.d"] {
            for entry in fs::read_dir(examples.join(from)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    let name = Path::new(from).join(entry.file_name());
                    folder.write(name.to_str().unwrap(), &fs::read(entry.path()).unwrap());
                }
            }
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self.chmod(name, 0o600);
        path
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self, name: &str) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        Config::load(&self.path(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind in the worst case; a panic here would hide the test's own.
        drop(fs::remove_dir_all(&self.0));
    }
}

fn load_text(text: &str) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let folder = Folder::new();
    folder.write("c.toml", text.as_bytes());
    folder.load("c.toml")
}

/// The one problem of a text, which must stand in the line marked with `#!` (the first line if none is).
fn only_problem(text: &str) -> Problem {
    let errors = load_text(text).expect_err(text);
    let [problem] = errors.problems.as_slice() else { panic!("not one problem in:\n{text}\n{errors}") };
    assert_place(problem, text);
    problem.clone()
}

fn assert_place(problem: &Problem, text: &str) {
    let line = text.lines().position(|line| line.contains("#!")).map_or(1, |index| index + 1);
    let at = problem.at.as_ref().expect("a position");
    assert_eq!(
        (at.file().file_name().unwrap().to_str(), at.line() as usize),
        (Some("c.toml"), line),
        "{problem}"
    );
}

fn assert_says(problem: &Problem, what: &str, why: &str, remedy: &str) {
    assert_eq!(problem.what, what, "{problem}");
    assert!(problem.why.contains(why), "{problem}");
    assert!(problem.remedy.contains(remedy), "{problem}");
}

const PORT: &str = "[[port]]\nname = \"wan\"\ndevice = \"pcap\"\n";
const ENDS: &str = "[[tunnel]]\nname = \"t\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.2\"\n";
const KEY: &str = "key = \"00112233445566778899aabbccddeeff01020304\"\n";

/// A tunnel in clear with one more line.
fn tunnel(line: &str) -> String {
    format!("{ENDS}{line}\nprotect = \"none\"\n")
}

/// A protected tunnel with an outbound and an inbound SA; `line` goes into the table `protect`.
fn protected(line: &str) -> String {
    format!(
        "{ENDS}[tunnel.protect]\n{line}\n[[tunnel.protect.manual]]\ndirection = \"out\"\nspi = 256\n\
         suite = \"aes128gcm16\"\n{KEY}[[tunnel.protect.manual]]\ndirection = \"in\"\nspi = 256\n\
         suite = \"aes128gcm16\"\nkey = \"ff112233445566778899aabbccddeeff01020304\"\n"
    )
}

/// A protected tunnel whose inbound SA is fine and whose outbound one has the given lines.
fn outbound(lines: &str) -> String {
    protected("").replace(&format!("spi = 256\nsuite = \"aes128gcm16\"\n{KEY}"), lines)
}

#[test]
fn the_documented_example_loads() {
    let folder = Folder::with_examples();
    let (config, warnings) = folder.load("example.toml").unwrap();
    assert_eq!((config.engine.workers, config.engine.host_port), (0, true));
    let [wan, lan] = config.ports.as_slice() else { panic!("two ports") };
    assert_eq!(wan.device, Device::Netmap("vmx0".into()));
    assert!(!wan.unsafe_emulation && !lan.unsafe_emulation);
    assert_eq!(wan.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!(wan.addresses, [Prefix { addr: "192.0.2.1".parse().unwrap(), len: 24 }]);
    assert_eq!((lan.name.as_str(), lan.mtu, lan.mtu(), lan.mac), ("lan", None, 1500, None));
    let [tunnel] = config.tunnels.as_slice() else { panic!("one tunnel") };
    assert_eq!(tunnel.inner.unwrap().to_string(), "172.27.27.252/32");
    assert_eq!(tunnel.peer, Some("172.27.27.33".parse().unwrap()));
    assert_eq!((tunnel.key, tunnel.ttl, tunnel.mtu, tunnel.payload), (Some(42), 64, Mtu::Auto, Payload::Ip));
    assert_eq!(tunnel.keepalive, Some(Keepalive { period: Duration::from_secs(10), retries: 3 }));
    let Protect::Ike(ike) = &tunnel.protect else { panic!("IKE") };
    assert_eq!((ike.mode, ike.replay_window, ike.esn, ike.pad), (Mode::Transport, 1024, true, 16));
    assert_eq!(ike.suites, Suite::ALL);
    assert_eq!(ike.local_id.as_deref(), Some("paris.example"));
    let psk = ike.auth.shared().unwrap();
    assert_eq!(psk.expose(), b"not a secret: an example for tests");
    let RouteTarget::Port { port, via } = &config.routes[0].target else { panic!("a port") };
    assert_eq!((port.as_str(), *via), ("wan", Some("192.0.2.254".parse().unwrap())));
    assert_eq!(config.neighbours[0].mac.to_string(), "02:00:00:00:00:02");
    // The example shows both ways to get keys at once.
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert_says(
        &warning.0,
        "tunnel \"paris-oslo\", protect",
        "manual SAs beside `ike` are not used",
        "take one",
    );
}

#[test]
fn the_documented_example_loads_with_manual_keys() {
    let folder = Folder::with_examples();
    let text = fs::read_to_string(folder.path("example.toml")).unwrap();
    let text: String =
        text.lines().filter(|line| !line.starts_with("ike =")).map(|line| format!("{line}\n")).collect();
    folder.write("example.toml", text.as_bytes());
    let (config, warnings) = folder.load("example.toml").unwrap();
    let Protect::Manual(manual) = &config.tunnels[0].protect else { panic!("manual keys") };
    let sa = manual.outbound().unwrap();
    assert_eq!((sa.spi, sa.suite, sa.esn, sa.replay_window), (0x1001, Suite::Aes128Gcm16, false, 1024));
    assert_eq!((sa.cipher_key().first_chunk(), sa.salt()), (Some(&[0x00, 0x11, 0x22, 0x33]), [1, 2, 3, 4]));
    assert_eq!(sa.udp_encap, Some(UdpEncap { source: 4500, destination: 4500 }));
    assert_eq!(warnings.len(), 1);
    assert_says(
        &warnings[0].0,
        "tunnel \"paris-oslo\", protect, manual",
        "no inbound SA",
        "direction = \"in\"",
    );
}

#[test]
fn manual_keys_inherit_what_they_do_not_say() {
    let (config, warnings) = Folder::with_examples().load("manual.toml").unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let Protect::Manual(oslo) = &config.tunnels[0].protect else { panic!("manual keys") };
    assert_eq!((oslo.mode, oslo.pad), (Mode::Transport, 4));
    assert_eq!((oslo.sas[0].replay_window, oslo.sas[0].esn), (64, false));
    assert_eq!((oslo.sas[1].replay_window, oslo.sas[1].esn), (65536, true));
    assert_eq!((oslo.sas[1].cipher_key().len(), oslo.sas[1].salt()), (32, [0xb0, 0xb1, 0xb2, 0xb3]));
    let Protect::Manual(bergen) = &config.tunnels[1].protect else { panic!("manual keys") };
    assert_eq!((bergen.mode, bergen.pad, bergen.inbound().count()), (Mode::Tunnel, 16, 2));
    assert_eq!(bergen.sas.iter().map(|sa| sa.esn).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(bergen.sas[0].udp_encap, Some(UdpEncap { source: 4500, destination: 40000 }));
    assert_eq!(bergen.sas[1].udp_encap, Some(UdpEncap { source: 4500, destination: 4500 }));
    assert!(matches!(config.tunnels[2].protect, Protect::None));
    assert_eq!(config.routes[1].target, RouteTarget::Tunnel("plain".into()));
    assert_eq!((config.tunnels[1].at.line(), config.routes[1].at.line()), (45, 75));
    let bridges: Vec<_> = config.tunnels.iter().map(|tunnel| tunnel.bridge.as_deref()).collect();
    assert_eq!(bridges, [None, Some("lan"), None]);
}

#[test]
fn ethernet_tunnels_are_bridged_with_one_port_each() {
    let bridged = |name: &str, remote: &str, lines: &str| {
        format!(
            "[[tunnel]] #!\nname = \"{name}\"\nlocal = \"192.0.2.1\"\nremote = \"{remote}\"\n{lines}\nprotect = \"none\"\n"
        )
    };
    for (lines, why, remedy) in [
        ("bridge = \"wan\"", "carries IP packets", "payload = \"ethernet\""),
        ("payload = \"ip\"\nbridge = \"wan\"", "carries IP packets", "take `bridge` out"),
        ("payload = \"ethernet\"\nbridge = \"wann\"", "there is no port \"wann\"", "did you mean \"wan\"?"),
    ] {
        let problem = only_problem(&format!("{PORT}{}", bridged("t", "192.0.2.2", lines)));
        assert_says(&problem, "tunnel \"t\", bridge", why, remedy);
    }
    let (config, warnings) = load_text(&bridged("t", "192.0.2.2", "payload = \"ethernet\"")).unwrap();
    assert_says(&warnings[0].0, "tunnel \"t\", bridge", "so it carries none", "bridge = \"PORT\"");
    assert_eq!(config.tunnels[0].bridge, None);
    let lines = "payload = \"ethernet\"\nbridge = \"wan\"";
    let first = bridged("t", "192.0.2.2", lines).replace(" #!", "");
    assert!(load_text(&format!("{PORT}{first}")).is_ok());
    let problem = only_problem(&format!("{PORT}{first}{}", bridged("u", "192.0.2.3", lines)));
    assert_says(
        &problem,
        "tunnel \"u\", bridge",
        "c.toml:4 carries the frames of port \"wan\" already",
        "one tunnel",
    );
    // A payload that cannot be read is wrong once.
    let unreadable = bridged("t", "192.0.2.2", "payload = \"ethernets\"\nbridge = \"wan\"");
    assert_eq!(load_text(&format!("{PORT}{unreadable}")).unwrap_err().problems.len(), 1);
}

#[test]
fn gre_in_udp_and_keepalives_fit_the_tunnel() {
    let (config, _) = load_text(&tunnel("encapsulation = \"udp\"")).unwrap();
    assert_eq!(config.tunnels[0].encapsulation, Encapsulation::Udp);
    for plain in ["", "encapsulation = \"gre\""] {
        assert_eq!(load_text(&tunnel(plain)).unwrap().0.tunnels[0].encapsulation, Encapsulation::Gre);
    }
    let wrong = tunnel("encapsulation = \"upd\" #!");
    assert_says(&only_problem(&wrong), "tunnel \"t\", encapsulation", "\"upd\"", "udp");
    let both = protected("").replace("[tunnel.protect]", "encapsulation = \"udp\"\n[tunnel.protect]");
    let both = both.replacen("spi = 256", "spi = 257", 1).replace("[[tunnel]]", "[[tunnel]] #!");
    assert_says(&only_problem(&both), "tunnel \"t\", encapsulation", "not protected", "`udp_encap`");
    let frames = "payload = \"ethernet\"\nbridge = \"wan\"\nkeepalive = { period = \"1s\" }";
    let frames = format!("{PORT}{}", tunnel(frames).replace("[[tunnel]]", "[[tunnel]] #!"));
    assert_says(&only_problem(&frames), "tunnel \"t\", keepalive", "IP packets", "take `keepalive` out");
    let keepalive = tunnel("encapsulation = \"udp\"\nkeepalive = { period = \"1s\" }").replace("]]", "]] #!");
    assert_says(&only_problem(&keepalive), "tunnel \"t\", keepalive", "not defined", "take `keepalive`");
}

#[test]
fn included_files_are_read_in_order() {
    let (config, warnings) = Folder::with_examples().load("hub.toml").unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let names: Vec<&str> = config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
    assert_eq!(names, ["oslo", "bergen"]);
    assert_eq!(config.tunnels[0].local, Local::Carp { group: "2@vmx0".parse().unwrap(), address: None });
    let Protect::Ike(ike) = &config.tunnels[0].protect else { panic!("IKE") };
    assert!(ike.esn && ike.local_id.is_none());
    assert!(config.tunnels[1].at.file().ends_with("conf.d/20-bergen.toml"));
}

#[test]
fn an_empty_file_is_the_default() {
    let (config, warnings) = load_text("").unwrap();
    assert!(
        config.engine.host_port
            && config.engine.at.is_none()
            && config.ports.is_empty()
            && warnings.is_empty()
    );
}

/// A configuration with the text `carp`, and a tunnel from 2@vmx0.
fn shared(carp: &str) -> String {
    tunnel(carp).replace("\"192.0.2.1\"", "\"carp:2@vmx0\"")
}

#[test]
fn a_tunnel_has_the_address_of_its_group() {
    let group = "[carp]\nrouter = \"second\"\n[[carp.group]]\nvhid = 2\ninterface = \"vmx0\"\naddress = \"203.0.113.230\"\n";
    let (config, _) = load_text(&(group.to_owned() + &shared(""))).unwrap();
    let address = Some("203.0.113.230".parse().unwrap());
    let local = Local::Carp { group: "2@vmx0".parse().unwrap(), address };
    assert_eq!((config.carp.router, &config.tunnels[0].local), (Router::Second, &local));
    assert_eq!(config.tunnels[0].local.to_string(), "carp:2@vmx0");
    for (from, to, what, why, remedy) in [
        ("router = \"second\"\n", "", "carp, router", "is missing", "which of the two"),
        ("second", "third", "carp, router", "not known", "second"),
        ("vhid = 2", "vhid = 0", "carp, group 1, vhid", "0", "255"),
        ("address = \"203", "adress = \"203", "carp, group 1, address", "is missing", "203.0.113.230"),
        ("203.0.113.230", "2001:db8::9", "tunnel \"t\", local", "other family", "two IPv4"),
    ] {
        let errors = load_text(&(group.replace(from, to) + &shared(""))).unwrap_err();
        assert_says(&errors.problems[0], what, why, remedy);
    }
    let twice = group.to_owned() + &group[group.find("[[").unwrap()..] + &shared("");
    assert_says(&load_text(&twice).unwrap_err().problems[0], "carp, group", "2@vmx0", "keep one");
    let ike = "[tunnel.protect.ike]\nauth = \"psk\"\npsk = \"hush\"\nmobike = true\n";
    let moves = group.to_owned() + &shared("").replace("protect = \"none\"\n", ike);
    let problem = &load_text(&moves).unwrap_err().problems[0];
    assert_says(problem, "tunnel \"t\", protect, ike, mobike", "CARP that moves it", "take mobike out");
    assert!(load_text(&moves.replace("mobike = true\n", "")).is_ok());
}

#[test]
fn the_link_of_a_pair_is_read() {
    let text = "[carp]\nrouter = \"first\"\n[carp.sync]\nlisten = \"10.9.0.1:4790\"\npartner = \"10.9.0.2:4790\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
    let sync = load_text(text).unwrap().0.carp.sync.unwrap();
    assert_eq!(
        (sync.listen.to_string(), sync.partner.to_string()),
        ("10.9.0.1:4790".into(), "10.9.0.2:4790".into())
    );
    assert_eq!((sync.heartbeat, sync.dead), (Duration::from_secs(1), Duration::from_secs(3)));
    let fast = load_text(&(text.to_owned() + "heartbeat = \"200ms\"\n")).unwrap().0.carp.sync.unwrap();
    assert_eq!((fast.heartbeat, fast.dead), (Duration::from_millis(200), Duration::from_millis(600)));
    for (from, to, what, why, remedy) in [
        ("listen = \"10.9.0.1:4790\"\n", "", "carp, sync, listen", "is missing", "10.9.0.1:4790"),
        ("partner = \"10.9.0.2:4790\"\n", "", "carp, sync, partner", "is missing", "10.9.0.2:4790"),
        (
            "10.9.0.1:4790",
            "10.9.0.1",
            "carp, sync, listen",
            "no IP address with a port",
            "[2001:db8::1]:4790",
        ),
        ("10.9.0.1:4790", "10.9.0.1:0", "carp, sync, listen", "port 0", "10.9.0.1:4790"),
        ("10.9.0.1:4790", "0.0.0.0:4790", "carp, sync, listen", "0.0.0.0", ""),
        ("10.9.0.2", "10.9.0.1", "carp, sync, partner", "`listen` as well", "the other router's"),
        ("10.9.0.2", "[2001:db8::2]", "carp, sync, partner", "another family", "the other router's"),
        ("cdef\"", "cde\"", "carp, sync, secret", "31 characters", "openssl rand -hex 32"),
        ("secret =", "secrets =", "carp, sync", "`secret_file` is missing", "secret_file"),
        ("secret =", "dead = \"1900ms\"\nsecret =", "carp, sync, dead", "two heartbeats", "three times"),
        ("secret =", "heartbeat = \"1ms\"\nsecret =", "carp, sync, heartbeat", "out of range", "50ms"),
        ("secret =", "cert_file = \"x\"\nsecret =", "carp, sync", "both given", "keep one"),
    ] {
        assert!(text.contains(from), "{from}");
        let errors = load_text(&text.replacen(from, to, 1)).unwrap_err();
        assert_says(&errors.problems[0], what, why, remedy);
    }
}

#[test]
fn how_often_a_group_is_advertised_and_how_long_an_end_waits() {
    let text = "[carp]\nrouter = \"first\"\n[[carp.group]]\nvhid = 2\ninterface = \"em0\"\naddress = \"192.0.2.9\"\n";
    for (more, interval) in [
        ("", None),
        ("advskew = 100\n", Some(356)),
        ("advbase = 3\n", Some(768)),
        ("advbase = 1\nadvskew = 0\n", Some(256)),
    ] {
        assert_eq!(load_text(&(text.to_owned() + more)).unwrap().0.carp.groups[0].interval, interval);
    }
    for (more, what) in
        [("advskew = 255\n", "carp, group 1, advskew"), ("advbase = 0\n", "carp, group 1, advbase")]
    {
        let errors = load_text(&(text.to_owned() + more)).unwrap_err();
        assert_says(&errors.problems[0], what, "out of range", "give");
    }
    let waits = |text: &str| load_text(text).unwrap().0.carp.yield_on_stop;
    let hook = text.to_owned() + "[[carp.hook]]\non = [\"unready\"]\ncommand = [\"/bin/sh\"]\n";
    let hears = if cfg!(target_os = "freebsd") { Duration::from_secs(2) } else { Duration::ZERO };
    assert_eq!((waits(text), waits(&hook)), (hears, Duration::from_secs(2)), "where somebody hears of it");
    let said = |time: &str| hook.replacen("[[", &format!("yield_on_stop = \"{time}\"\n[["), 1);
    assert_eq!((waits(&said("0s")), waits(&said("5s"))), (Duration::ZERO, Duration::from_secs(5)));
    let errors = load_text(&said("31s")).unwrap_err();
    assert_says(&errors.problems[0], "carp, yield_on_stop", "out of range", "30s");
}

#[test]
fn checks_are_read() {
    let text = "[carp]\nrouter = \"first\"\n[[carp.check]]\nname = \"ospf\"\ncommand = [\"/bin/sh\", \"-c\", \"true\"]\n";
    let (config, warnings) = load_text(text).unwrap();
    let check = &config.carp.checks[0];
    let seconds = Duration::from_secs;
    assert_eq!((check.name.as_str(), warnings.len()), ("ospf", 0));
    assert_eq!((check.every, check.timeout, check.failures), (seconds(2), seconds(5), 2));
    let slow = text.to_owned() + "every = \"10s\"\ntimeout = \"300ms\"\nfailures = 1\n";
    let check = load_text(&slow).unwrap().0.carp.checks.remove(0);
    assert_eq!((check.every, check.timeout, check.failures), (seconds(10), Duration::from_millis(300), 1));
    let (_, twice) = text.split_at(text.find("[[carp").unwrap());
    let twice = text.to_owned() + twice;
    assert_says(&load_text(&twice).unwrap_err().problems[0], "carp, check", "\"ospf\"", "another name");
    for (from, to, what, why, remedy) in [
        ("name = \"ospf\"\n", "", "carp, check 1, name", "is missing", "ospf"),
        ("/bin/sh", "sh", "carp, check 1, command", "no whole path", "/usr/local/sbin/ospf-is-up\", \"lan"),
        ("command", "comand", "carp, check 1, command", "is missing", "ospf-is-up"),
        ("command", "failures = 0\ncommand", "carp, check 1, failures", "out of range", "1 to 100"),
        ("command", "every = \"0s\"\ncommand", "carp, check 1, every", "out of range", "100ms"),
    ] {
        assert!(text.contains(from), "{from}");
        let errors = load_text(&text.replacen(from, to, 1)).unwrap_err();
        assert_says(&errors.problems[0], what, why, remedy);
    }
}

#[test]
fn hooks_are_read() {
    let text = "[carp]\nrouter = \"first\"\nready_after = \"20s\"\n[[carp.hook]]\non = [\"master\", \"unready\"]\ncommand = [\"/bin/sh\", \"-c\", \"true\"]\n";
    let (config, warnings) = load_text(text).unwrap();
    assert_eq!((config.carp.ready_after, warnings.len()), (Duration::from_secs(20), 0));
    let hook = &config.carp.hooks[0];
    assert_eq!(
        (&hook.on[..], hook.timeout),
        (&[HookEvent::Master, HookEvent::Unready][..], Duration::from_secs(10))
    );
    assert_eq!(hook.command, ["/bin/sh", "-c", "true"]);
    for (from, to, what, why, remedy) in [
        ("on = [\"master\", \"unready\"]\n", "", "carp, hook 1, on", "is missing", "backup"),
        ("\"master\"", "\"mister\"", "carp, hook 1, on", "not known", "master"),
        ("\"unready\"", "\"master\"", "carp, hook 1, on", "twice", "keep one"),
        ("[\"master\", \"unready\"]", "[]", "carp, hook 1, on", "runs for nothing", "backup"),
        ("/bin/sh", "sh", "carp, hook 1, command", "no whole path", "/usr/local/sbin/move-mac"),
        ("[\"/bin/sh\", \"-c\", \"true\"]", "[]", "carp, hook 1, command", "names no program", "move-mac"),
        ("command", "comand", "carp, hook 1, command", "is missing", "move-mac"),
        ("20s", "0s", "carp, ready_after", "out of range", "1s"),
    ] {
        assert!(text.contains(from), "{from}");
        let errors = load_text(&text.replacen(from, to, 1)).unwrap_err();
        assert_says(&errors.problems[0], what, why, remedy);
    }
    let warnings = load_text(&text.replace("/bin/sh", "/nonexistent")).unwrap().1;
    assert!(
        warnings.len() == 1 && warnings[0].to_string().contains("no file that can be run"),
        "{warnings:?}"
    );
}

#[test]
fn log_and_metrics_are_read_and_only_this_host_is_listened_to() {
    let (config, _) =
        load_text("[log]\nlevel = \"debug\"\nformat = \"json\"\n[metrics]\nlisten = \"[::1]:9178\"\n")
            .unwrap();
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
    assert_eq!(config.metrics.listen, Some("[::1]:9178".parse().unwrap()));
    let (config, _) = load_text("").unwrap();
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Text));
    assert_eq!(config.metrics.listen, None);
    for (text, what, why, remedy) in [
        ("[log]\nlevel = \"verbose\" #!\n", "log, level", "\"verbose\" is not known", "\"debug\""),
        ("[log]\nformat = \"jso\" #!\n", "log, format", "\"jso\" is not known", "did you mean \"json\"?"),
        ("[metrics] #!\n", "metrics, listen", "is missing", "127.0.0.1:9178"),
        ("[metrics]\nlisten = \"0.0.0.0:9178\" #!\n", "metrics, listen", "from elsewhere", "127.0.0.1:9178"),
        ("[metrics]\nlisten = \"[2001:db8::1]:1\" #!\n", "metrics, listen", "from elsewhere", "[::1]:9178"),
        (
            "[metrics]\nlisten = \"127.0.0.1\" #!\n",
            "metrics, listen",
            "no IP address with a port",
            "[::1]:9178",
        ),
        ("[metrics]\nlisten = \"localhost:9178\" #!\n", "metrics, listen", "no IP address", "127.0.0.1:9178"),
        ("[metrics]\nlisten = \"127.0.0.1:0\" #!\n", "metrics, listen", "port 0", "127.0.0.1:9178"),
    ] {
        assert_says(&only_problem(text), what, why, remedy);
    }
    let twice = Folder::new();
    twice.write("c.toml", b"include = [\"d.toml\"]\n[log]\n[metrics]\nlisten = \"127.0.0.1:1\"\n");
    twice.write("d.toml", b"[log]\n[metrics]\nlisten = \"127.0.0.1:2\"\n");
    let errors = twice.load("c.toml").unwrap_err();
    assert_says(&errors.problems[0], "log", "c.toml:2 already", "one [log]");
    assert_says(&errors.problems[1], "metrics", "c.toml:3 already", "one [metrics]");
}

#[test]
fn syntax_errors_name_the_line() {
    assert_says(&only_problem("[engine]\nworkers = #!\n"), "syntax", "", "correct the TOML");
    assert_says(
        &only_problem("[engine]\nworkers = 1\nworkers = 2 #!\n"),
        "syntax",
        "duplicate key",
        "correct",
    );
    let folder = Folder::new();
    folder.write("c.toml", b"[engine]\n# \xff\n");
    let errors = folder.load("c.toml").unwrap_err();
    assert_eq!(errors.problems[0].at.as_ref().unwrap().line(), 2);
    assert_says(&errors.problems[0], "syntax", "not UTF-8", "save the file as UTF-8");
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (text, what, remedy) in [
        ("engin = 1 #!\n".to_owned(), "unknown key \"engin\"", "did you mean `engine`?"),
        ("[engine]\nworker = 1 #!\n".to_owned(), "engine, unknown key \"worker\"", "did you mean `workers`?"),
        (
            format!("{PORT}zzz = 1 #!\n"),
            "port \"wan\", unknown key \"zzz\"",
            "known here: name, device, mac, addresses, mtu",
        ),
        (tunnel("cheksum = true #!"), "tunnel \"t\", unknown key \"cheksum\"", "did you mean `checksum`?"),
        (
            tunnel("keepalive = { period = \"1s\", retry = 2 } #!"),
            "tunnel \"t\", keepalive, unknown key \"retry\"",
            "did you mean `retries`?",
        ),
        (
            protected("suits = [] #!"),
            "tunnel \"t\", protect, unknown key \"suits\"",
            "did you mean `suites`?",
        ),
        (
            outbound(&format!("spi = 256\nsuite = \"aes128gcm16\"\nkye_file = 1 #!\n{KEY}")),
            "tunnel \"t\", protect, manual 1, unknown key \"kye_file\"",
            "did you mean `key_file`?",
        ),
    ] {
        assert_says(&only_problem(&text), what, "no such setting here", remedy);
    }
}

#[test]
fn wrong_values_are_told_what_to_write() {
    for (text, what, why, remedy) in [
        (
            "[engine]\nworkers = 257 #!\n".to_owned(),
            "engine, workers",
            "257 is out of range",
            "give 0 to 256",
        ),
        ("[engine]\nworkers = -1 #!\n".to_owned(), "engine, workers", "-1 is out of range", "give 0 to 256"),
        (
            "[engine]\nworkers = \"2\" #!\n".to_owned(),
            "engine, workers",
            "is a string",
            "write a whole number",
        ),
        (
            "[engine]\nhost_port = 1 #!\n".to_owned(),
            "engine, host_port",
            "is a whole number",
            "true or false",
        ),
        (
            "[[port]] #!\nname = \"wan\"\ndevice = \"xdp:eth0\"\nunsafe_emulation = true\n".to_owned(),
            "port \"wan\", unsafe_emulation",
            "only netmap is emulated",
            "netmap:IF",
        ),
        ("engine = 1 #!\n".to_owned(), "engine", "is a whole number", "write a table"),
        ("port = 1 #!\n".to_owned(), "port", "is a whole number", "[[port]]"),
        ("[port] #!\nname = \"wan\"\n".to_owned(), "port", "is a table", "[[port]]"),
        (tunnel("ttl = 0 #!"), "tunnel \"t\", ttl", "0 is out of range", "give 1 to 255"),
        (tunnel("ttl = 256 #!"), "tunnel \"t\", ttl", "256 is out of range", "give 1 to 255"),
        (tunnel("mtu = 575 #!"), "tunnel \"t\", mtu", "575 is out of range", "give 576 to 65535"),
        (tunnel("mtu = 65536 #!"), "tunnel \"t\", mtu", "65536 is out of range", "give 576 to 65535"),
        (
            tunnel("mtu = \"atuo\" #!"),
            "tunnel \"t\", mtu",
            "\"atuo\" is not known here",
            "did you mean \"auto\"?",
        ),
        (tunnel("mtu = true #!"), "tunnel \"t\", mtu", "is true or false", "\"auto\" or a number"),
        (tunnel("payload = \"ipx\" #!"), "tunnel \"t\", payload", "\"ipx\"", "\"ip\""),
        (tunnel("key = 4294967296 #!"), "tunnel \"t\", key", "out of range", "give 0 to 4294967295"),
        (tunnel("key = \"abcd\" #!"), "tunnel \"t\", key", "is a string", "write a whole number"),
        (
            tunnel("routes = [\n\"10.2.3.4/16\", #!\n]"),
            "tunnel \"t\", routes",
            "host bits",
            "write \"10.2.0.0/16\"",
        ),
        (tunnel("routes = \"10.2.0.0/16\" #!"), "tunnel \"t\", routes", "is a string", "a list of strings"),
        (tunnel("inner = \"10.0.0.1\" #!"), "tunnel \"t\", inner", "no prefix length", "192.0.2.0/24"),
        (tunnel("peer = \"224.0.0.1\" #!"), "tunnel \"t\", peer", "not the address of one host", "unicast"),
        (
            tunnel("keepalive = { period = \"1x\" } #!"),
            "tunnel \"t\", keepalive, period",
            "\"1x\"",
            "\"100ms\" to \"1h\"",
        ),
        (
            tunnel("keepalive = { retries = 1 } #!"),
            "tunnel \"t\", keepalive, period",
            "is missing",
            "period = \"10s\"",
        ),
        (
            protected("replay_window = 63 #!"),
            "tunnel \"t\", protect, replay_window",
            "63",
            "give 64 to 65536",
        ),
        (
            protected("replay_window = 65537 #!"),
            "tunnel \"t\", protect, replay_window",
            "65537",
            "give 64 to 65536",
        ),
        (protected("pad = 8 #!"), "tunnel \"t\", protect, pad", "8", "give 4 or 16"),
        (
            protected("mode = \"tunel\" #!"),
            "tunnel \"t\", protect, mode",
            "\"tunel\"",
            "did you mean \"tunnel\"?",
        ),
        (
            protected("suites = [] #!").replace("ct]", "ct] #!").replace("[] #!", "[]"),
            "tunnel \"t\", protect, suites",
            "no usable suite",
            "offer all",
        ),
        (
            protected("suites = [\"aes128gcm16\", \"aes128gcm16\"] #!"),
            "tunnel \"t\", protect, suites",
            "aes128gcm16 is listed twice",
            "take one out",
        ),
        (
            protected("suites = [\"aes256gcm16\", \"aes128gcm\"] #!"),
            "tunnel \"t\", protect, suites",
            "\"aes128gcm\"",
            "\"aes128gcm16\"?",
        ),
        (format!("{PORT}mtu = 100 #!\n"), "port \"wan\", mtu", "100 is out of range", "give 576 to 65535"),
        (format!("{PORT}mac = \"01:00:5e:00:00:01\" #!\n"), "port \"wan\", mac", "one station", "unicast"),
        (
            format!("{PORT}addresses = [\"10.0.0.1/33\"] #!\n"),
            "port \"wan\", addresses",
            "/33\" is not 0 to 32",
            "length",
        ),
    ] {
        assert_says(&only_problem(&text), what, why, remedy);
    }
    let zero = outbound(&format!("spi = 255 #!\nsuite = \"aes128gcm16\"\n{KEY}"));
    let what = "tunnel \"t\", protect, manual 1, spi";
    assert_says(&only_problem(&zero), what, "255 is reserved (RFC 4303 section 2.1)", "give 256");
    let port =
        outbound(&format!("spi = 256\nsuite = \"aes128gcm16\"\n{KEY}udp_encap = {{ source = 0 }} #!\n"));
    assert_says(
        &only_problem(&port),
        "tunnel \"t\", protect, manual 1, udp_encap, source",
        "0",
        "give 1 to 65535",
    );
}

#[test]
fn missing_keys_are_told_how_to_write_them() {
    for (text, what, remedy) in [
        ("[[port]] #!\ndevice = \"pcap\"\n".to_owned(), "port 1, name", "name = \"NAME\""),
        ("[[port]] #!\nname = \"wan\"\n".to_owned(), "port \"wan\", device", "device = \"netmap:IF\""),
        (
            "[[tunnel]] #!\nname = \"t\"\nremote = \"::2\"\nprotect = \"none\"".to_owned(),
            "tunnel \"t\", local",
            "carp:",
        ),
        (
            "[[tunnel]] #!\nname = \"t\"\nlocal = \"::2\"\nprotect = \"none\"".to_owned(),
            "tunnel \"t\", remote",
            "remote =",
        ),
        (ENDS.replace("]]\n", "]] #!\n"), "tunnel \"t\", protect", "protect = \"none\""),
        (
            "[[route]] #!\nport = \"wan\"\n[[port]]\nname = \"wan\"\ndevice = \"pcap\"\n".to_owned(),
            "route 1, prefix",
            "prefix =",
        ),
        (
            format!("{PORT}[[neighbour]] #!\naddress = \"10.0.0.1\"\nport = \"wan\""),
            "neighbour 10.0.0.1, mac",
            "mac =",
        ),
        (
            format!("{ENDS}[tunnel.protect] #!\nike = {{ auth = \"psk\" }}")
                .replace("] #!", "]")
                .replace("\" }", "\" } #!"),
            "tunnel \"t\", protect, ike",
            "psk_file = \"FILE\"",
        ),
        (
            outbound(&format!("suite = \"aes128gcm16\"\n{KEY}")).replacen("manual]]", "manual]] #!", 1),
            "tunnel \"t\", protect, manual 1, spi",
            "spi = 0x1001",
        ),
        (
            outbound("spi = 256\nsuite = \"aes128gcm16\"\n").replacen("manual]]", "manual]] #!", 1),
            "tunnel \"t\", protect, manual 1",
            "key_file = \"FILE\"",
        ),
    ] {
        assert_says(&only_problem(&text), what, "is missing", remedy);
    }
    let no_keys = format!("{ENDS}[tunnel.protect] #!\nmode = \"tunnel\"\n");
    assert_says(&only_problem(&no_keys), "tunnel \"t\", protect", "nothing gives it keys", "add `ike`");
}

#[test]
fn names_must_be_unique_and_usable() {
    let twice = format!("{PORT}{}", PORT.replace("]]", "]] #!"));
    assert_says(&only_problem(&twice), "port \"wan\"", "c.toml:1 already", "choose another name");
    let twice = format!("{}{}", tunnel(""), tunnel("").replace("]]", "]] #!").replace(".2\"", ".3\""));
    assert_says(&only_problem(&twice), "tunnel \"t\"", "c.toml:1 already", "choose another name");
    let host = "[[port]] #!\nname = \"host\"\ndevice = \"pcap\"\n";
    assert_says(&only_problem(host), "port \"host\", name", "stands for the host stack", "another name");
    let long = "[[port]] #!\nname = \"a234567890123456\"\ndevice = \"pcap\"\n";
    assert_says(&only_problem(long), "port \"a234567890123456\", name", "cannot be the name", "1 to 15");
    let device = "[[port]]\nname = \"wan\"\ndevice = \"netmap\" #!\n";
    assert_says(&only_problem(device), "port \"wan\", device", "\"netmap\" is no device", "netmap:IF");
}

#[test]
fn the_ends_of_a_tunnel_fit_each_other() {
    let same = tunnel("").replace("]]", "]] #!").replace("0.2.2", "0.2.1");
    assert_says(&only_problem(&same), "tunnel \"t\", remote", "192.0.2.1 is `local` as well", "far router");
    let families = tunnel("").replace("]]", "]] #!").replace("192.0.2.2", "2001:db8::2");
    assert_says(&only_problem(&families), "tunnel \"t\", remote", "two families", "two IPv4 or two IPv6");
    let peer = tunnel("inner = \"10.0.0.1/30\"\npeer = \"10.0.0.1\"").replace("]]", "]] #!");
    assert_says(&only_problem(&peer), "tunnel \"t\", peer", "our own", "far router's inner");
    let peer = tunnel("inner = \"10.0.0.1/30\"\npeer = \"fd00::1\"").replace("]]", "]] #!");
    assert_says(&only_problem(&peer), "tunnel \"t\", peer", "two families", "two IPv4");
    let small = tunnel("mtu = 1279\nroutes = [\"fd00::/64\"]").replace("]]", "]] #!");
    assert_says(&only_problem(&small), "tunnel \"t\", mtu", "too few for IPv6", "give 1280 or more");
    let carp = tunnel("").replace("\"192.0.2.1\"", "\"carp:0@vmx0\" #!");
    assert_says(&only_problem(&carp), "tunnel \"t\", local", "no CARP address", "carp:VHID@IF");
}

#[test]
fn entries_do_not_collide() {
    let ends = format!(
        "{}{}",
        tunnel("key = 1"),
        tunnel("key = 1").replace("]]", "]] #!").replace("\"t\"", "\"u\"")
    );
    assert_says(&only_problem(&ends), "tunnel \"u\"", "c.toml:1 has the same", "`key` of its own");
    assert!(load_text(&ends.replacen("key = 1", "key = 2", 1)).is_ok());
    assert!(load_text(&ends.replacen("key = 1", "", 1)).is_ok());

    let port = "[[port]]\nname = \"a\"\ndevice = \"netmap:vmx0\"\n";
    let other = port.replace("]]", "]] #!").replace("\"a\"", "\"b\"").replace("netmap", "xdp");
    assert_says(
        &only_problem(&format!("{port}{other}")),
        "port \"b\", device",
        "c.toml:1 has interface vmx0",
        "one port",
    );

    let routes = format!("{PORT}[[route]]\nprefix = \"10.0.0.0/8\"\nport = \"wan\"\n");
    let both = format!("{routes}{}", tunnel("routes = [\"10.0.0.0/8\"]").replace("]]\n", "]] #!\n"));
    assert_says(&only_problem(&both), "tunnel \"t\", routes", "10.0.0.0/8 is routed at", "keep one");

    let neighbour = "[[neighbour]]\naddress = \"10.0.0.1\"\nport = \"wan\"\nmac = \"02:00:00:00:00:01\"\n";
    let twice = format!("{PORT}{neighbour}{}", neighbour.replace("]]", "]] #!"));
    assert_says(&only_problem(&twice), "neighbour 10.0.0.1", "c.toml:4 already", "keep one");

    let engines = Folder::new();
    engines.write("c.toml", b"include = [\"d.toml\"]\n[engine]\n");
    engines.write("d.toml", b"\n\n[engine]\n");
    let errors = engines.load("c.toml").unwrap_err();
    assert_says(&errors.problems[0], "engine", "c.toml:2 already", "one [engine]");
    assert_eq!(errors.problems[0].at.as_ref().unwrap().line(), 3);
}

#[test]
fn references_exist() {
    let route =
        |target: &str| format!("{PORT}{}[[route]] #!\nprefix = \"10.0.0.0/8\"\n{target}\n", tunnel(""));
    let what = "route 10.0.0.0/8";
    assert_says(&only_problem(&route("port = \"wam\"")), what, "no port \"wam\"", "did you mean \"wan\"?");
    assert_says(&only_problem(&route("tunnel = \"oslo\"")), what, "no tunnel \"oslo\"", "add a [[tunnel]]");
    assert_says(&only_problem(&route("")), what, "neither `port` nor `tunnel`", "tunnel = \"NAME\"");
    assert_says(&only_problem(&route("port = \"wan\"\ntunnel = \"t\"")), what, "both given", "keep one");
    assert_says(
        &only_problem(&route("tunnel = \"t\"\nvia = \"10.0.0.1\"")),
        what,
        "means nothing",
        "take `via` out",
    );
    assert_says(
        &only_problem(&route("port = \"wan\"\nvia = \"fd00::1\"")),
        what,
        "another family",
        "prefix's family",
    );
    let neighbour = "[[neighbour]] #!\naddress = \"10.0.0.1\"\nport = \"wan\"\nmac = \"02:00:00:00:00:01\"\n";
    assert_says(&only_problem(neighbour), "neighbour 10.0.0.1", "no port \"wan\"", "add a [[port]]");
}

#[test]
fn an_entry_with_an_error_can_still_be_named() {
    let text = format!("{PORT}mtu = 1 #!\n[[route]]\nprefix = \"10.0.0.0/8\"\nport = \"wan\"\n");
    assert_says(&only_problem(&text), "port \"wan\", mtu", "1 is out of range", "576");
}

#[test]
fn gateways_without_a_neighbour_are_risky() {
    let text = format!("{PORT}[[route]] #!\nprefix = \"10.0.0.0/8\"\nport = \"wan\"\nvia = \"192.0.2.9\"\n");
    let (_, warnings) = load_text(&text).unwrap();
    assert_eq!(warnings.len(), 1);
    assert_place(&warnings[0].0, &text);
    assert_says(
        &warnings[0].0,
        "route 10.0.0.0/8",
        "no [[neighbour]] gives 192.0.2.9",
        "address = \"192.0.2.9\"",
    );
    let (_, warnings) = load_text(&text.replace("pcap", "netmap:vmx0")).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn manual_sas_come_in_pairs() {
    let text = protected("");
    assert!(load_text(&text).unwrap().1.is_empty());
    let two_out = format!("{}spi = 300\n", text.replace("\"in\"\nspi = 256\n", "\"out\"\n"));
    let errors = load_text(&two_out).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    assert_says(
        &errors.problems[0],
        "tunnel \"t\", protect, manual",
        "a second outbound SA; the first is at",
        "keep one",
    );
    assert_eq!(errors.problems[0].at.as_ref().unwrap().line(), 12);
    let no_out = text.replace("\"out\"", "\"in\"").replacen("spi = 256", "spi = 257", 1);
    let (_, warnings) = load_text(&no_out).unwrap();
    assert_says(&warnings[0].0, "tunnel \"t\", protect, manual", "no outbound SA", "direction = \"out\"");
    assert_eq!(warnings[0].0.at.as_ref().unwrap().line(), 5);
}

#[test]
fn inbound_spis_are_unique() {
    let text = protected("").replacen("\"out\"", "\"in\"", 1);
    let marked = text.replace("direction = \"in\"", "#").replacen("manual]]\n#", "manual]] #!\n#", 2);
    let marked = marked.replacen("manual]] #!", "manual]]", 1).replace("\n#\n", "\ndirection = \"in\"\n");
    let problem = only_problem(&marked);
    assert_says(&problem, "tunnel \"t\", spi", "has SPI 0x100 as well", "an SPI of its own");
}

#[test]
fn a_key_sends_once() {
    let other = protected("")
        .replace("\"t\"", "\"u\"")
        .replace("192.0.2.2", "192.0.2.3")
        .replace("\"in\"\nspi = 256", "\"in\"\nspi = 257");
    let errors = load_text(&format!("{}{other}", protected(""))).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    assert_says(
        &errors.problems[0],
        "tunnel \"u\", key",
        "c.toml:7 has the same key, so nonces would repeat",
        "a key of its own",
    );
    let both_ways = protected("").replace("ff1122", "001122");
    let (_, warnings) = load_text(&both_ways).unwrap();
    assert_says(&warnings[0].0, "tunnel \"t\", key", "may repeat nonces", "each direction");
}

#[test]
fn keys_have_the_length_of_their_suite() {
    for (suite, cipher, whole) in
        [("aes128gcm16", 16, 20), ("aes256gcm16", 32, 36), ("chacha20poly1305", 32, 36)]
    {
        assert_eq!(Suite::from_name(suite).unwrap().key_len(), cipher);
        let lines = |bytes: usize| {
            outbound(&format!("spi = 256\nsuite = \"{suite}\"\nkey = \"{}\" #!\n", "a7".repeat(bytes)))
        };
        let problem = only_problem(&lines(whole - 1));
        let why = format!("has {} bytes; {suite} takes {whole}", whole - 1);
        assert_says(
            &problem,
            "tunnel \"t\", protect, manual 1, key",
            &why,
            &format!("{cipher} bytes of cipher key and 4 of salt"),
        );
        assert!(load_text(&lines(whole)).is_ok());
    }
    let odd = outbound("spi = 256\nsuite = \"aes128gcm16\"\nkey = \"a7a\" #!\n");
    assert_says(
        &only_problem(&odd),
        "tunnel \"t\", protect, manual 1, key",
        "odd number of characters (3)",
        "hex digits",
    );
    let both = outbound(&format!("spi = 256\nsuite = \"aes128gcm16\"\n{KEY}key_file = \"no\"\n"));
    let errors = load_text(&both).unwrap_err();
    assert_says(
        &errors.problems[0],
        "tunnel \"t\", protect, manual 1",
        "`key` and `key_file` are both",
        "keep `key_file`",
    );
}

#[test]
fn secrets_want_private_files() {
    let folder = Folder::with_examples();
    for mode in [0o640, 0o604, 0o620, 0o777] {
        folder.chmod("manual.toml", mode);
        let errors = folder.load("manual.toml").unwrap_err();
        assert_eq!(errors.problems.len(), 4, "{errors}");
        let why = format!("group or others have access to (mode {mode:04o})");
        assert_says(&errors.problems[0], "tunnel \"oslo\", protect, manual 1, key", &why, "run `chmod 600 ");
        assert_eq!(errors.problems[0].at.as_ref().unwrap().line(), 35);
    }
    folder.chmod("manual.toml", 0o400);
    folder.chmod("oslo-in.key", 0o644);
    let errors = folder.load("manual.toml").unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    assert_says(
        &errors.problems[0],
        "tunnel \"oslo\", protect, manual 2, key_file",
        "open to everybody (mode 0644)",
        "chmod 600",
    );
    folder.chmod("oslo-in.key", 0o640);
    assert!(folder.load("manual.toml").is_ok());

    // Named secrets do not make the configuration itself secret.
    folder.chmod("hub.toml", 0o644);
    folder.chmod("conf.d/10-oslo.toml", 0o644);
    assert!(folder.load("hub.toml").is_ok());
    folder.chmod("paris-oslo.psk", 0o666);
    let errors = folder.load("hub.toml").unwrap_err();
    assert_says(
        &errors.problems[0],
        "tunnel \"oslo\", protect, ike, psk_file",
        "open to everybody",
        "chmod 600",
    );
    assert!(errors.problems[0].at.as_ref().unwrap().file().ends_with("conf.d/10-oslo.toml"));

    let inline = format!("{ENDS}[tunnel.protect]\nike = {{ auth = \"psk\", psk = \"hush\" }}\n");
    folder.write("inline.toml", inline.as_bytes());
    let (config, _) = folder.load("inline.toml").unwrap();
    let Protect::Ike(ike) = &config.tunnels[0].protect else { panic!("IKE") };
    let psk = ike.auth.shared().unwrap();
    assert_eq!(psk.expose(), b"hush");
    folder.chmod("inline.toml", 0o644);
    let errors = folder.load("inline.toml").unwrap_err();
    assert_says(&errors.problems[0], "tunnel \"t\", protect, ike, psk", "group or others", "chmod 600");
}

#[test]
fn secret_files_must_hold_a_secret() {
    let folder = Folder::new();
    let text = outbound("spi = 256\nsuite = \"aes128gcm16\"\nkey_file = \"k\" #!\n");
    folder.write("c.toml", text.as_bytes());
    let refusal = |why: &str, remedy: &str| {
        let errors = folder.load("c.toml").unwrap_err();
        assert_eq!(errors.problems.len(), 1, "{errors}");
        assert_place(&errors.problems[0], &text);
        assert_says(&errors.problems[0], "tunnel \"t\", protect, manual 1, key_file", why, remedy);
    };
    refusal("cannot be read", "create it or correct the name");
    folder.write("k", b" \n");
    refusal("is empty", "write the key");
    folder.write("k", &[b'a'; 16385]);
    refusal("has 16385 bytes", "the key alone");
    folder.write("k", b"00112233445566778899aabbccddeeff010203\n");
    refusal("has 19 bytes; aes128gcm16 takes 20", "40 hex digits");
    folder.write("k", b"00112233445566778899aabbccddeeff0102030\xff\n");
    refusal("hex digits at character 39", "as hex digits");
    fs::remove_file(folder.path("k")).unwrap();
    fs::create_dir(folder.path("k")).unwrap();
    refusal("not a regular file", "name a regular file");
}

#[test]
fn includes_are_files_beside_the_top_one() {
    let folder = Folder::new();
    let load = |text: &str| {
        folder.write("c.toml", text.as_bytes());
        folder.load("c.toml")
    };
    let refused = |text: &str, what: &str, why: &str, remedy: &str| {
        let errors = load(text).unwrap_err();
        assert_eq!(errors.problems.len(), 1, "{errors}");
        assert_says(&errors.problems[0], what, why, remedy);
        errors.problems[0].at.clone().expect("a position")
    };
    let missing = folder.path("gone.toml").display().to_string();
    assert_eq!(refused("\ninclude = [\"gone.toml\"]", &missing, "cannot be read", "create it").line(), 2);
    assert_eq!(
        refused("include = [\"*/a.toml\"]", "include", "in a folder's name", "last part only").line(),
        1
    );
    assert_eq!(refused("include = [\"..\"]", "include", "names no file", "a pattern").line(), 1);
    assert_eq!(refused("include = 1", "include", "is a whole number", "a list of strings").line(), 1);
    folder.write("d.toml", b"\n\ninclude = [\"e.toml\"]\n");
    assert_eq!(refused("include = [\"d.toml\"]", "include", "cannot include others", "top file's").line(), 3);
    // The same file by two names is read once, and the top file is not read again.
    folder.write("d.toml", PORT.as_bytes());
    folder.write(".hidden.toml", b"nonsense");
    let (config, _) = load("include = [\"*.toml\", \"./d.toml\", \"d.to?l\"]").unwrap();
    assert_eq!(config.ports.len(), 1);
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = Folder::new();
    let errors = folder.load("gone.toml").unwrap_err();
    let text = errors.to_string();
    assert!(
        text.contains("gone.toml: cannot be read") && text.contains("create it or correct the name"),
        "{text}"
    );
    let errors = Config::load(&folder.0).unwrap_err();
    assert!(errors.to_string().contains("not a regular file"), "{errors}");
    let big = folder.write("big.toml", b"");
    fs::OpenOptions::new().write(true).open(big).unwrap().set_len((64 << 20) + 1).unwrap();
    let errors = folder.load("big.toml").unwrap_err();
    assert!(errors.to_string().contains("longer than 64 MiB"), "{errors}");
}

#[test]
fn everything_wrong_is_told_in_the_order_of_lines() {
    let text = "[engine]\nworkers = 999\n[[port]]\nname = \"host\"\ndevice = \"no\"\nmac = \"x\"\n[[tunnel]]\nttl = 0\n";
    let errors = load_text(text).unwrap_err();
    let lines: Vec<u32> = errors.problems.iter().map(|problem| problem.at.as_ref().unwrap().line()).collect();
    assert_eq!(lines, [2, 3, 5, 6, 7, 7, 7, 7, 8], "{errors}");
    assert_eq!(errors.to_string().lines().count(), 9);
}

#[test]
fn messages_and_json_have_one_form() {
    let problem = only_problem("[engine]\nworkers = 999 #!\n");
    let file = problem.at.as_ref().unwrap().file().display().to_string();
    assert_eq!(
        problem.to_string(),
        format!("engine, workers: 999 is out of range ({file}:2); give 0 to 256")
    );
    let json = serde_json::to_value(Warning(problem)).unwrap();
    assert_eq!(json["what"], "engine, workers");
    assert_eq!((json["line"].as_u64(), json["file"].as_str()), (Some(2), Some(file.as_str())));
    assert_eq!(
        (json["why"].as_str(), json["remedy"].as_str()),
        (Some("999 is out of range"), Some("give 0 to 256"))
    );
}

/// Whatever is wrong around a key, neither messages nor `Debug` show it.
#[test]
fn secrets_stay_hidden() {
    let secret = "c0ffee";
    let sa = |line: &str| outbound(&format!("spi = 256\nsuite = \"aes128gcm16\"\n{line}\n"));
    let psk = |line: &str| format!("{ENDS}[tunnel.protect]\nike = {{ auth = \"psk\", {line} }}\n");
    for text in [
        sa("key = \"c0ffee\""),
        sa("key = \"c0ffee"),
        sa("key = c0ffee"),
        sa("key = \"c0ffee\" x"),
        sa("key = \"\\q c0ffee\""),
        sa("key = \"xyz c0ffee\""),
        sa("key = [\"c0ffee\"]"),
        sa("key = 0xc0ffee"),
        sa("keyy = \"c0ffee\""),
        sa("key = \"c0ffee\"\nkey_file = \"k\""),
        sa("key_file = \"c0ffee\""),
        psk("psk_file = \"c0ffee\""),
        psk("psk = \"c0ffee\", local_id = \"\""),
        psk("psk = [\"c0ffee\"]"),
        psk("psk = \"c0ffee"),
        psk("pskk = \"c0ffee\""),
        tunnel("key = \"c0ffee\""),
    ] {
        let errors = load_text(&text).expect_err(&text);
        let shown = format!("{errors} {errors:?}");
        assert!(!shown.contains(secret), "{shown}");
    }
    let (config, _) = Folder::with_examples().load("manual.toml").unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("key: <hidden>") && !shown.contains("17, 34, 51"), "{shown}");
}

/// When SAs are replaced: what is said, else what the profile has; an end comes after what it is the end of.
#[test]
fn lifetimes() {
    let read = |more: &str| {
        let text = format!("{ENDS}[tunnel.protect.ike]\nauth = \"psk\"\npsk = \"hush\"\n{more}\n");
        load_text(&text).map(|(config, _)| match &config.tunnels[0].protect {
            Protect::Ike(ike) => ike.lifetimes,
            _ => panic!("IKE"),
        })
    };
    let life = |rekey, end| Life { rekey: Duration::from_secs(rekey), end: Duration::from_secs(end) };
    let default = read("").unwrap();
    assert_eq!((default.time, default.ike), (life(3600, 4320), life(14_400, 17_280)));
    assert_eq!((default.bytes, default.packets, default.reauth, default.jitter), (None, None, None, 15));
    assert_eq!(read("profile = \"azure\"").unwrap().time, life(25_000, 30_000));
    let said = read(
        "rekey = \"10m\"\nike_rekey = \"2h\"\nike_life = \"90m\"\nreauth = \"1h\"\njitter = \"0%\"\n\
         rekey_bytes = 5_000_000\nrekey_packets = 1_000\nlife_packets = 1_001",
    )
    .unwrap();
    assert_eq!((said.time, said.ike, said.jitter), (life(600, 720), life(7200, 5400), 0));
    assert_eq!(said.reauth, Some(Duration::from_secs(3600)));
    assert_eq!(said.bytes, Some(Life { rekey: 5_000_000, end: 6_000_000 }));
    assert_eq!(said.packets, Some(Life { rekey: 1000, end: 1001 }));

    for (more, key, why, remedy) in [
        (
            "life = \"1h\" #!",
            "life",
            "is over before SAs are to be replaced, which is after 3600 s",
            "longer",
        ),
        ("rekey = \"9s\" #!", "rekey", "out of range", "\"10s\" to \"720h\""),
        ("rekey = \"10500ms\" #!", "rekey", "no whole number of seconds", "\"10s\" to \"720h\""),
        ("reauth = \"1h\"\nike_life = \"50m\" #!", "ike_life", "after 3600 s", "longer"),
        ("reauth = \"soon\" #!", "reauth", "not a duration", "\"10s\""),
        ("life_bytes = 2_000_000 #!", "life_bytes", "no number for it to be larger than", "`rekey_bytes`"),
        ("rekey_packets = 2_000\nlife_packets = 2_000 #!", "life_packets", "is reached before", "larger"),
        ("rekey_packets = 999 #!", "rekey_packets", "out of range", "give 1000 to"),
        ("rekey_bytes = 900_000_000_000_000 #!", "rekey_bytes", "out of range", "give 1000000 to"),
        ("jitter = \"51%\" #!", "jitter", "left to chance", "\"0%\" to \"50%\""),
        ("jitter = \"15\" #!", "jitter", "left to chance", "per cent"),
    ] {
        let text = format!("{ENDS}[tunnel.protect.ike]\nauth = \"psk\"\npsk = \"hush\"\n{more}\n");
        let errors = load_text(&text).expect_err(more);
        assert_eq!(errors.problems.len(), 1, "{errors}");
        assert_place(&errors.problems[0], &text);
        assert_says(&errors.problems[0], &format!("tunnel \"t\", protect, ike, {key}"), why, remedy);
    }
}

/// An Ed25519 key (RFC 8410), in DER, is known by its public half.
#[test]
fn raw_public_keys() {
    let folder = Folder::new();
    let seed = [7; 32];
    let private = [&b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"[..], &seed].concat();
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let half = ring::signature::KeyPair::public_key(&pair).as_ref();
    let info = |key: &[u8]| [&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], key].concat();
    folder.write("own.key", &private);
    folder.write("far.pub", &info(&[9; 32]));
    let text = format!(
        "{ENDS}[tunnel.protect]\nike = {{ auth = \"pubkey\", key_file = \"own.key\", remote_key_file = \"far.pub\" }} #!\n"
    );
    folder.write("c.toml", text.as_bytes());
    let (config, warnings) = folder.load("c.toml").unwrap();
    assert!(warnings.is_empty());
    let Protect::Ike(ike) = &config.tunnels[0].protect else { panic!("IKE") };
    let crate::config::Auth::PublicKey(keys) = &ike.auth else { panic!("public keys") };
    assert_eq!((keys.public.as_slice(), keys.remote.as_slice()), (&info(half)[..], &info(&[9; 32])[..]));
    let shown = format!("{config:?}");
    assert!(shown.contains("private: <hidden>"), "{shown}");
    folder.write("far.pub", &info(half));
    let errors = folder.load("c.toml").unwrap_err();
    assert_says(
        &errors.problems[0],
        "tunnel \"t\", protect, ike, remote_key_file",
        "this router's own",
        "far router",
    );
    folder.write("own.key", &private[..private.len() - 1]);
    let errors = folder.load("c.toml").unwrap_err();
    assert_says(
        &errors.problems[0],
        "tunnel \"t\", protect, ike, key_file",
        "is no private key",
        "private key",
    );
}

#[test]
fn twenty_thousand_tunnels_load() {
    use std::fmt::Write;
    let mut text = String::new();
    for number in 0..20_000_u32 {
        let (high, low) = (number / 250, number % 250 + 1);
        write!(
            text,
            "[[tunnel]]\nname = \"t{number}\"\nlocal = \"192.0.2.1\"\nremote = \"10.1.{high}.{low}\"\nkey = {number}\n\
             inner = \"10.2.{high}.{low}/32\"\nroutes = [\"10.3.{high}.{low}/32\"]\n[tunnel.protect]\nesn = true\n\
             [[tunnel.protect.manual]]\ndirection = \"in\"\nspi = {}\nsuite = \"aes128gcm16\"\n\
             key = \"00{number:038x}\"\n[[tunnel.protect.manual]]\ndirection = \"out\"\nspi = {}\n\
             suite = \"aes128gcm16\"\nkey = \"01{number:038x}\"\n",
            number + 256,
            number + 256,
        )
        .unwrap();
    }
    let folder = Folder::new();
    folder.write("c.toml", text.as_bytes());
    let (config, warnings) = folder.load("c.toml").unwrap();
    assert_eq!((config.tunnels.len(), warnings.len()), (20_000, 0));
    assert_eq!(config.tunnels[19_999].at.line(), 19_999 * 19 + 1);
}

/// One small damage to a text.
#[derive(Clone, Debug)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Delete(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<prop::sample::Index>;
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..6),
        prop::sample::select(vec![
            "\"",
            "[",
            "]]",
            "{",
            "}",
            "'''",
            "\n",
            "=",
            ".",
            "#",
            "[[tunnel]]\n",
            "\\u",
            "9999999999999999999999"
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
    ];
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        (place(), 1_usize..80).prop_map(|(at, len)| Damage::Delete(at, len)),
        (place(), 1_usize..200).prop_map(|(at, len)| Damage::Repeat(at, len)),
        (place(), piece).prop_map(|(at, piece)| Damage::Insert(at, piece)),
    ]
}

fn apply(damage: &Damage, text: &mut Vec<u8>) {
    let len = text.len() + 1;
    match damage {
        Damage::Flip(at, mask) => {
            if let Some(byte) = text.get_mut(at.index(len)) {
                *byte ^= mask;
            }
        }
        Damage::Delete(at, count) => {
            let start = at.index(len);
            text.drain(start..(start + count).min(len - 1));
        }
        Damage::Repeat(at, count) => {
            let start = at.index(len);
            let piece = text[start..(start + count).min(len - 1)].to_vec();
            text.splice(start..start, piece);
        }
        Damage::Insert(at, piece) => {
            let start = at.index(len);
            text.splice(start..start, piece.iter().copied());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged file is refused or means something, but does no harm: every problem names a line that exists.
    #[test]
    fn damaged_files_do_no_harm(example in prop::sample::select(vec!["example.toml", "manual.toml"]), damages in prop::collection::vec(damage(), 1..6)) {
        let folder = Folder::with_examples();
        let mut text = fs::read(folder.path(example)).unwrap();
        for damage in &damages {
            apply(damage, &mut text);
        }
        folder.write(example, &text);
        let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
        match folder.load(example) {
            Ok((config, _)) => prop_assert!(config.tunnels.len() <= lines),
            Err(errors) => {
                prop_assert!(!errors.problems.is_empty());
                for problem in &errors.problems {
                    let line = problem.at.as_ref().map_or(1, Position::line) as usize;
                    prop_assert!((1..=lines).contains(&line), "{}", problem);
                    prop_assert!(!problem.remedy.is_empty());
                }
            }
        }
    }
}
