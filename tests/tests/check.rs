//! `culvert check` from outside: what it says of the documented examples, and every mistake and risk that it knows.

use std::fs;
use std::path::Path;

use culvert_tests::{Folder, Ran};

const PORTS: &str = r#"
[[port]]
name = "wan"
device = "pcap"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]

[[port]]
name = "lan"
device = "pcap"
addresses = ["10.1.0.1/24"]

[[neighbour]]
address = "192.0.2.254"
port = "wan"
mac = "02:00:00:00:00:fe"

[[neighbour]]
address = "192.0.2.2"
port = "wan"
mac = "02:00:00:00:00:02"
"#;

/// A tunnel to `remote` without protection, which is a risk that every one of them has.
fn tunnel(name: &str, remote: &str, lines: &str) -> String {
    let local = if remote.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
    format!(
        "[[tunnel]]\nname = \"{name}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\nprotect = \"none\"\n{lines}\n"
    )
}

fn check(config: &str, json: bool) -> Ran {
    let folder = Folder::new();
    folder.write("c.toml", format!("{PORTS}{config}"));
    folder.culvert(["check", "-c", "c.toml"].into_iter().chain(json.then_some("--json")))
}

/// The examples of `tests/config`, readable by their owner alone.
fn example(name: &str) -> (Folder, Ran) {
    let folder = Folder::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for entry in fs::read_dir(examples).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        folder.write(entry.file_name().to_str().unwrap(), fs::read(entry.path()).unwrap());
    }
    let ran = folder.culvert(["check", "-c", name]);
    (folder, ran)
}

/// The one risk beside those of having no protection.
fn only_risk(config: &str, what: &str, why: &str, remedy: &str) {
    let ran = check(config, true);
    ran.succeeds();
    let report = ran.json();
    let warnings = report["warnings"].as_array().unwrap();
    let others: Vec<_> =
        warnings.iter().filter(|risk| !risk["what"].as_str().unwrap().ends_with(", protect")).collect();
    let [risk] = others.as_slice() else { panic!("{others:?}") };
    let says = |field: &str, text: &str| risk[field].as_str().unwrap().contains(text);
    assert!(risk["what"] == what && says("why", why) && says("remedy", remedy), "{risk}");
    assert!(risk["file"] == "c.toml" && risk["line"].as_u64() > Some(0), "{risk}");
}

#[test]
fn the_documented_example_is_described() {
    let (_folder, ran) = example("example.toml");
    ran.succeeds();
    // What netmap says of the ports is another thing on each system.
    let (tunnel, rest) = ran.stdout.split_once("\nport wan\n").expect("the ports");
    let (ports, risk) = rest.split_once("\nrisk: ").expect("a risk");
    let (wan, lan) = ports.split_once("\n\nport lan\n").expect("the other port");
    for port in [wan, lan] {
        assert!(port.starts_with("  netmap      "), "{port}");
    }
    let expected = "\
tunnel paris-oslo
  outer       192.0.2.1 -> 192.0.2.2
  path        port wan to 192.0.2.2, 02:00:00:00:00:02
  protection  ESP transport mode, aes128gcm16 aes256gcm16 chacha20poly1305, ESN,
              keys from IKE
  mtu         1430 bytes (1430 fit the path)
  overhead    70 bytes, 8 of them UDP's, should there be a NAT, and up to 15 of
              padding
  nesting     depth 1: paris-oslo -> port wan
";
    assert_eq!(tunnel, expected);
    let expected = "\
tunnel \"paris-oslo\", protect: the manual SAs beside `ike` are not used
      (example.toml:31); take one of the two out
0 wrong, 1 risky
";
    assert_eq!(risk, expected);
}

/// Either what the kernel would give for a port, or why nobody knows.
#[test]
fn netmap_is_asked_of_each_netmap_port() {
    let (folder, _) = example("example.toml");
    let ran = folder.culvert(["check", "-c", "example.toml", "--json"]);
    ran.succeeds();
    let report = ran.json();
    let ports = report["netmap"].as_object().unwrap();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["lan", "wan"]);
    for port in ports.values() {
        assert_ne!(port["problem"].is_null(), port["rings"].is_null(), "{port}");
    }
}

#[test]
fn lines_fit_80_columns() {
    for name in ["example.toml", "manual.toml"] {
        let (_folder, ran) = example(name);
        ran.succeeds();
        let long: Vec<&str> = ran.stdout.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty() && ran.stdout.lines().count() > 10, "{long:?}");
    }
}

#[test]
fn the_json_object_of_every_kind_of_tunnel() {
    let (folder, _) = example("manual.toml");
    let ran = folder.culvert(["check", "-c", "manual.toml", "--json"]);
    ran.succeeds();
    let report = ran.json();
    assert_eq!(report["errors"], serde_json::json!([]));
    // 20 outer IPv4 + 16 ESP and IV + 8 GRE with key + 2 trailer + 16 ICV; (1500 - 20 - 16 - 16) / 4 * 4 - 2 - 8.
    let oslo = serde_json::json!({
        "local": "192.0.2.1", "remote": "192.0.2.2", "payload": "ip", "encapsulation": "gre",
        "path": {"port": "wan", "next_hop": "192.0.2.2", "mac": null,
                 "problem": "no [[neighbour]] gives the next hop's MAC (no-neighbour)"},
        "protection": {"mode": "transport", "suites": ["aes128gcm16", "chacha20poly1305"], "keys": "manual",
                       "esn": null, "replay_window": 65536},
        "mtu": 1438, "largest_mtu": 1438, "overhead": 62, "padding": 3, "nesting": ["oslo"], "depth": 1,
    });
    assert_eq!(report["tunnels"]["oslo"], oslo);
    // 40 IPv6 + 8 UDP + 16 ESP + 40 IPv6 + 4 GRE + 14 Ethernet + 2 + 16; (1500 - 40 - 8 - 16 - 16) / 4 * 4 - 2 - 44 - 14.
    let bergen = &report["tunnels"]["bergen"];
    assert_eq!(
        (&bergen["overhead"], &bergen["largest_mtu"], &bergen["mtu"]),
        (&140.into(), &1360.into(), &1280.into())
    );
    assert_eq!(
        (&bergen["payload"], &bergen["path"]["mac"]),
        (&"ethernet".into(), &"02:00:00:00:00:02".into())
    );
    let plain = &report["tunnels"]["plain"];
    assert_eq!(
        (&plain["protection"], &plain["overhead"], &plain["padding"]),
        (&serde_json::Value::Null, &32.into(), &0.into())
    );
    let names: Vec<usize> =
        ["\"oslo\":{", "\"bergen\":{", "\"plain\":{"].map(|name| ran.stdout.find(name).unwrap()).into();
    assert!(names.is_sorted(), "in the configuration's order");
}

#[test]
fn a_gateway_is_the_next_hop() {
    let route = "[[route]]\nprefix = \"0.0.0.0/0\"\nport = \"wan\"\nvia = \"192.0.2.254\"\n";
    let ran = check(&format!("{}{route}", tunnel("t", "203.0.113.9", "")), true);
    ran.succeeds();
    let path = &ran.json()["tunnels"]["t"]["path"];
    let expected = serde_json::json!({"port": "wan", "next_hop": "192.0.2.254", "mac": "02:00:00:00:00:fe", "problem": null});
    assert_eq!(*path, expected);
}

#[test]
fn tunnels_in_tunnels_are_told_with_their_path() {
    let own = tunnel("a", "192.0.2.2", "routes = [\"192.0.2.0/25\"]");
    let ran = check(&own, false);
    ran.fails(
        2,
        &[
            "tunnel \"a\": the route 192.0.2.0/25 leads its far end 192.0.2.2 into tunnel \"a\": a -> a, which never ends (c.toml:",
            "prefix = \"192.0.2.2/32\"",
        ],
    );
    assert!(
        ran.stdout.contains("depth endless: a -> a\n") && ran.stdout.ends_with("1 wrong, 1 risky\n"),
        "{ran:?}"
    );

    let a = tunnel("a", "198.51.100.1", "routes = [\"203.0.113.0/24\"]");
    let b = tunnel("b", "203.0.113.1", "routes = [\"198.51.100.0/24\"]");
    let c = tunnel("c", "203.0.113.7", "");
    let ran = check(&format!("{a}{b}{c}"), false);
    ran.fails(2, &["tunnel \"a\": ", ": a -> b -> a, which never ends"]);
    ran.fails(2, &["tunnel \"b\": ", ": b -> a -> b, which never ends"]);
    ran.fails(2, &["tunnel \"c\": ", ": c -> a -> b -> a, which never ends"]);
    // However deep they may lie.
    let deep = |tunnel: &str| tunnel.replace("protect =", "max_depth = 4\nprotect =");
    check(&format!("{}{}", deep(&a), deep(&b)), false).fails(2, &[": a -> b -> a, which never ends"]);

    // One in another, which itself is fine; here by a [[route]].
    let inside = tunnel("inside", "203.0.113.1", "");
    let around = tunnel("around", "192.0.2.2", "");
    let route = "[[route]]\nprefix = \"203.0.113.1/32\"\ntunnel = \"around\"\n";
    let ran = check(&format!("{inside}{around}{route}"), true);
    ran.fails(
        2,
        &[
            "the route 203.0.113.1/32 leads its far end 203.0.113.1 into tunnel \"around\": inside -> around, 2 tunnels where \
             max_depth allows 1",
            "route 203.0.113.1/32 out of a port, not into tunnel \"around\"; if it is meant to lie in there, say max_depth = 2 \
             in tunnel \"inside\"",
        ],
    );
    let report = ran.json();
    assert_eq!(report["errors"].as_array().unwrap().len(), 1);
    let (inside, around) = (&report["tunnels"]["inside"], &report["tunnels"]["around"]);
    assert_eq!((&inside["depth"], &inside["nesting"]), (&2.into(), &serde_json::json!(["inside", "around"])));
    assert_eq!(around["depth"], 1);

    // By the tunnel's own inner network.
    let ran = check(&tunnel("t", "198.51.100.1", "inner = \"198.51.100.9/24\""), false);
    ran.fails(2, &["tunnel \"t\": ", "the inner network 198.51.100.0/24 leads", "t -> t, which"]);
}

#[test]
fn a_tunnel_that_may_lie_in_another_does() {
    let inside = tunnel("inside", "203.0.113.1", "max_depth = 2\nmtu = 1453");
    let around = tunnel("around", "192.0.2.2", "routes = [\"203.0.113.0/24\"]");
    let ran = check(&format!("{inside}{around}"), true);
    ran.succeeds();
    let report = &ran.json()["tunnels"]["inside"];
    assert_eq!((&report["depth"], &report["nesting"]), (&2.into(), &serde_json::json!(["inside", "around"])));
    assert_eq!((&report["path"]["port"], &report["path"]["next_hop"]), (&"wan".into(), &"192.0.2.2".into()));
    // 24 bytes for each of the two; a longer one would not fit the first, and is known not to.
    assert_eq!((&report["largest_mtu"], &report["mtu"]), (&1452.into(), &1452.into()));
    for (depth, why) in [("0", "1 to 4"), ("5", "1 to 4"), ("\"2\"", "number")] {
        let wrong = tunnel("t", "192.0.2.2", &format!("max_depth = {depth}"));
        check(&wrong, false).fails(2, &["tunnel \"t\", max_depth", why]);
    }
}

/// The classic: everything of a provider's network through the tunnel. A longer route keeps the tunnel's own packets out.
#[test]
fn a_longer_route_keeps_a_tunnel_out_of_itself() {
    let config = tunnel("t", "203.0.113.1", "routes = [\"203.0.113.0/24\"]");
    check(&config, false).fails(2, &["t -> t"]);
    let route = "[[route]]\nprefix = \"203.0.113.1/32\"\nport = \"wan\"\nvia = \"192.0.2.254\"\n";
    only_risk(
        &format!("{config}{route}"),
        "tunnel \"t\", routes",
        "203.0.113.0/24 covers the far end of \"t\": only a longer route",
        "[[route]] to each",
    );
}

#[test]
fn a_route_that_covers_many_ends_is_told_once() {
    let many: String = (2..12).map(|n| tunnel(&format!("t{n}"), &format!("192.0.2.{n}"), "")).collect();
    let known: String = (3..12)
        .map(|n| {
            format!(
                "[[neighbour]]\naddress = \"192.0.2.{n}\"\nport = \"wan\"\nmac = \"02:00:00:00:01:{n:02}\"\n"
            )
        })
        .collect();
    let all = "[[route]]\nprefix = \"0.0.0.0/0\"\ntunnel = \"t5\"\n";
    only_risk(
        &format!("{many}{known}{all}"),
        "tunnel \"t5\", routes",
        "0.0.0.0/0 covers the far end of \"t2\", \"t3\", \"t4\", 7 more",
        "[[route]] to each",
    );
}

#[test]
fn risks_are_told() {
    let risk = |lines: &str, what: &str, why: &str, remedy: &str| {
        only_risk(&tunnel("t", "192.0.2.2", lines), what, why, remedy);
    };
    risk("ttl = 31", "tunnel \"t\", ttl", "31 may be too few", "for 64");
    risk("mtu = 1477", "tunnel \"t\", mtu", "do not fit the path once wrapped; 1476 do", "give 1476 or less");
    risk(
        "routes = [\"10.1.0.0/24\"]",
        "tunnel \"t\", routes",
        "10.1.0.0/24 is the network of port \"lan\"",
        "a part",
    );
    let to = |remote: &str, what: &str, why: &str, remedy: &str| {
        only_risk(&tunnel("t", remote, ""), what, why, remedy)
    };
    to(
        "192.0.2.3",
        "tunnel \"t\", remote",
        "nothing gives 192.0.2.3 on port \"wan\" a MAC",
        "add a [[neighbour]]",
    );
    to("203.0.113.1", "tunnel \"t\", remote", "no route leads to the far end", "add a [[route]]");
    to("10.1.0.1", "tunnel \"t\", remote", "an address of this router", "correct `remote`");
    let lines = "payload = \"ethernet\"\nbridge = \"lan\"";
    only_risk(
        &tunnel("t", "192.0.2.2", lines),
        "tunnel \"t\", bridge",
        "nobody on it reaches them",
        "another port",
    );
    // Without the risk each of these is about.
    let fine = tunnel("t", "192.0.2.2", "ttl = 32\nmtu = 1476\nroutes = [\"10.1.0.0/25\"]");
    let ran = check(&fine, false);
    ran.succeeds();
    assert!(ran.stdout.ends_with("0 wrong, 1 risky\n"), "{ran:?}");
}

#[test]
fn small_windows_are_a_risk() {
    let sa = |direction: &str, key: &str| {
        format!(
            "[[tunnel.protect.manual]]\ndirection = \"{direction}\"\nspi = 256\nsuite = \"aes128gcm16\"\nkey = \"{}\"\n",
            key.repeat(20)
        )
    };
    let config = |window: u32| {
        let sas = sa("out", "a1") + &sa("in", "b2");
        let protect = format!("[tunnel.protect]\nreplay_window = {window}\n{sas}");
        tunnel("t", "192.0.2.2", "").replace("protect = \"none\"\n", "") + &protect
    };
    only_risk(
        &config(255),
        "tunnel \"t\", replay_window",
        "overtaken for more than 255 microseconds",
        "1024 or more",
    );
    let ran = check(&config(256), false);
    ran.succeeds();
    assert!(ran.stdout.ends_with("nothing wrong, nothing risky\n"), "{ran:?}");
}

#[test]
fn ipv6_inside_wants_1280_bytes() {
    let small = tunnel("t", "192.0.2.2", "routes = [\"2001:db8:2::/48\"]");
    let ports = PORTS.replace(", \"2001:db8::1/64\"", "").replacen(
        "device = \"pcap\"",
        "device = \"pcap\"\nmtu = 1300",
        1,
    );
    let folder = Folder::new();
    folder.write("c.toml", format!("{ports}{small}"));
    let ran = folder.culvert(["check", "-c", "c.toml"]);
    ran.succeeds();
    assert!(ran.stdout.contains("1276 bytes are too few for the IPv6 inside"), "{ran:?}");
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let config = tunnel("t", "192.0.2.2", "ttl = 0\ncolour = 1")
        + "[[neighbour]]\naddress = \"192.0.2.9\"\nport = \"moon\"\nmac = \"02:00:00:00:00:09\"\n";
    let ran = check(&config, true);
    ran.fails(2, &["culvert: tunnel \"t\", ttl: 0 is out of range (c.toml:"]);
    ran.fails(2, &["unknown key \"colour\""]);
    ran.fails(2, &["culvert: neighbour 192.0.2.9: there is no port \"moon\""]);
    let report = ran.json();
    assert_eq!((report["errors"].as_array().unwrap().len(), &report["tunnels"]), (3, &serde_json::json!({})));
    assert_eq!(report["errors"][0]["what"], "tunnel \"t\", ttl");
}

/// What the engine objects to comes back in the configuration's names.
#[test]
fn two_ways_to_one_place_are_told_by_name() {
    let a = tunnel("a", "192.0.2.2", "peer = \"172.16.0.1\"");
    let b = tunnel("b", "192.0.2.3", "routes = [\"172.16.0.1/32\"]");
    check(&format!("{a}{b}"), false)
        .fails(2, &["routes to 172.16.0.1/32 (tunnel \"a\", tunnel \"b\")", "c.toml:", "one way"]);
    let route = "[[route]]\nprefix = \"172.16.0.1/32\"\nport = \"wan\"\n";
    check(&format!("{a}{route}"), false).fails(2, &["routes to 172.16.0.1/32 (port \"wan\", tunnel \"a\")"]);
}

#[test]
fn a_configuration_that_is_not_there() {
    Folder::new().culvert(["check", "-c", "gone.toml"]).fails(2, &["culvert: gone.toml: cannot be read"]);
}
