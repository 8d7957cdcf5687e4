//! Interfaces of the kernel's, each test in a network namespace of its own, which takes root; and what is said to FreeBSD's
//! `ifconfig`, by a script in its place.

use std::net::IpAddr;

use super::freebsd;
use super::{Inner, Present};

fn inner(local: &str, prefix_len: u8, peer: Option<&str>) -> Inner {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    Inner { local: ip(local), prefix_len, peer: peer.map(ip) }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::process::Command;

    use super::super::{ConfigureError, HostInterfaces};
    use super::*;

    /// Runs a test in a network namespace of its own: this program, started again by `unshare`.
    fn in_namespace(name: &str, test: impl FnOnce()) {
        const INSIDE: &str = "CULVERT_INTERFACE_NAMESPACE";
        if std::env::var_os(INSIDE).is_some() {
            return test();
        }
        let mut command = Command::new("unshare");
        command.arg("--net").arg(std::env::current_exe().expect("a program")).env(INSIDE, "1");
        let output = command.args(["--exact", &format!("interface::tests::linux::{name}")]).output();
        let output = output.expect("unshare, of util-linux");
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("1 passed"), "(this test needs root)\n{told}");
    }

    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip, of iproute2");
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn tun() -> HostInterfaces {
        ip("tuntap add dev t mode tun");
        HostInterfaces::open().expect("a socket")
    }

    /// Without those that the kernel gives to each interface.
    fn read(host: &mut HostInterfaces) -> Present {
        let mut present = host.read("t").expect("it is there");
        present.addresses.retain(|inner| !inner.local.to_string().starts_with("fe80:"));
        present
    }

    #[test]
    fn routes_lead_into_the_interface_as_long_as_they_are_wanted() {
        in_namespace("routes_lead_into_the_interface_as_long_as_they_are_wanted", || {
            let mut host = tun();
            host.configure("t", 1400, &[]).expect("root");
            ip("link set lo up");
            ip("route add 10.3.0.0/16 dev lo");
            let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().expect(text)).collect();
            let routes = || ip("-o route show dev t scope link") + &ip("-6 -o route show dev t proto static");
            host.set_routes("t", &prefixes(&["10.2.0.0/16", "10.3.0.0/16", "2001:db8:20::/64"]))
                .expect("root");
            assert!(
                routes().contains("10.2.0.0/16") && routes().contains("2001:db8:20::/64"),
                "{}",
                routes()
            );
            assert!(!routes().contains("10.3.0.0/16"), "somebody else's");
            // What the host has lost since is no matter.
            ip("route del 10.2.0.0/16 dev t");
            host.set_routes("t", &prefixes(&["0.0.0.0/0"])).expect("root");
            assert!(routes().starts_with("default") && !routes().contains("2001:db8:20::"), "{}", routes());
            let error = host.set_routes("none", &prefixes(&["10.2.0.0/16"])).expect_err("there is none");
            assert!(error.to_string().starts_with("interface none: cannot add the route to 10.2.0.0/16: "));
        });
    }

    #[test]
    fn an_interface_is_made_what_it_should_be() {
        in_namespace("an_interface_is_made_what_it_should_be", || {
            let mut host = tun();
            assert_eq!(read(&mut host), Present { mtu: 1500, up: false, addresses: BTreeSet::new() });
            let wanted = [
                inner("172.27.27.252", 32, Some("172.27.27.33")),
                inner("10.1.2.3", 24, None),
                inner("2001:db8::1", 128, Some("2001:db8::2")),
                inner("2001:db8:1::1", 64, None),
            ];
            host.configure("t", 1412, &wanted).expect("root");
            assert_eq!(read(&mut host), Present { mtu: 1412, up: true, addresses: wanted.into() });
            let shown = ip("address show dev t");
            for text in [
                "mtu 1412",
                "inet 172.27.27.252 peer 172.27.27.33/32",
                "inet 10.1.2.3/24",
                "inet6 2001:db8::1 peer 2001:db8::2/128",
                "inet6 2001:db8:1::1/64",
            ] {
                assert!(shown.contains(text), "{text}: {shown}");
            }
            assert!(ip("route show").contains("172.27.27.33 dev t"));
        });
    }

    #[test]
    fn what_is_right_is_not_touched() {
        in_namespace("what_is_right_is_not_touched", || {
            let mut host = tun();
            let kept = inner("172.27.27.252", 32, Some("172.27.27.33"));
            host.configure("t", 1412, &[kept, inner("10.1.2.3", 24, None)]).expect("root");
            // They hang on the address and on the interface being up, and would go with either.
            ip("route add 10.99.0.0/16 via 172.27.27.33 src 172.27.27.252");
            ip("address add 10.5.5.5/32 dev t");
            host.configure("t", 1400, &[kept, inner("10.1.2.4", 24, None)]).expect("root");
            host.configure("t", 1400, &[kept, inner("10.1.2.4", 24, None)]).expect("root");
            assert!(ip("route show").contains("10.99.0.0/16 via 172.27.27.33"));
            let addresses = [kept, inner("10.1.2.4", 24, None), inner("10.5.5.5", 32, None)];
            assert_eq!(read(&mut host), Present { mtu: 1400, up: true, addresses: addresses.into() });
        });
    }

    #[test]
    fn another_peer_and_what_somebody_took_away() {
        in_namespace("another_peer_and_what_somebody_took_away", || {
            let mut host = tun();
            for peer in ["172.27.27.33", "172.27.27.34", "172.27.27.33"] {
                let wanted =
                    [inner("172.27.27.252", 32, Some(peer)), inner("2001:db8::1", 128, Some("2001:db8::2"))];
                host.configure("t", 1412, &wanted).expect("root");
                assert_eq!(read(&mut host).addresses, wanted.into());
                ip("address flush dev t");
                ip("link set dev t down mtu 1300");
                host.configure("t", 1412, &wanted).expect("root");
                assert_eq!(read(&mut host), Present { mtu: 1412, up: true, addresses: wanted.into() });
            }
            // Ours itself as the peer is none.
            host.configure("t", 1412, &[inner("10.0.0.1", 32, Some("10.0.0.1"))]).expect("root");
            assert_eq!(read(&mut host).addresses, [inner("10.0.0.1", 32, None)].into());
        });
    }

    #[test]
    fn what_cannot_be_is_said() {
        in_namespace("what_cannot_be_is_said", || {
            let mut host = tun();
            assert!(matches!(host.read("nobody"), Err(ConfigureError::Missing(_))));
            let error = host.configure("nobody", 1400, &[]).expect_err("none").to_string();
            assert_eq!(error, "interface nobody: there is none");
            let error = host.configure("t", 10, &[]).expect_err("too small").to_string();
            assert!(error.starts_with("interface t: cannot bring it up with an MTU of 10: "), "{error}");
            let error =
                host.configure("t", 1400, &[inner("10.0.0.1", 33, None)]).expect_err("too long").to_string();
            assert!(error.starts_with("interface t: cannot add address 10.0.0.1/33: "), "{error}");
            host.configure("t", 1400, &[inner("10.0.0.1", 32, None)]).expect("goes on");
        });
    }

    #[test]
    fn many_are_deleted_together() {
        in_namespace("many_are_deleted_together", || {
            let mut host = tun();
            let names: Vec<String> = (0..50).map(|n| format!("t{n}")).collect();
            names.iter().for_each(|name| drop(ip(&format!("tuntap add dev {name} mode tun"))));
            let all: Vec<&str> = names.iter().map(String::as_str).chain(["nobody"]).collect();
            host.delete_all(&all).expect("root");
            assert!(names.iter().all(|name| host.read(name).is_err()));
            assert!(host.read("t").is_ok(), "nobody asked");
            host.delete_all(&all).expect("nothing to do");
        });
    }
}

/// An `ifconfig` that writes down its arguments, and answers with a file.
#[test]
fn what_ifconfig_is_told() {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    let folder = std::env::temp_dir().join(format!("culvert-ifconfig-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("ifconfig");
    let script = "#!/bin/sh\nfor word; do printf '%s|' \"$word\"; done >>\"$0.told\"\necho >>\"$0.told\"\n\
                  case $1 in wrong) echo 'ifconfig: interface wrong does not exist' >&2; exit 1;;\n\
                  bad) echo 'ifconfig: BAD: permission denied' >&2; exit 1;; esac\ncat \"$0.says\"\n";
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("to be run");
    let says = "paris-oslo: flags=1008051<UP,POINTOPOINT,RUNNING,MULTICAST,LOWER_UP> metric 0 mtu 1412\n\
                \toptions=80000<LINKSTATE>\n\
                \tinet 172.27.27.252 --> 172.27.27.33 netmask 0xffffffff\n\
                \tinet 10.1.2.3 --> 10.1.2.3 netmask 0xffffff00\n\
                \tinet6 fe80::1%paris-oslo prefixlen 64 tentative scopeid 0x5\n\
                \tinet6 2001:db8::1 --> 2001:db8::2 prefixlen 128\n\
                \tgroups: tun\n\tnd6 options=21<PERFORMNUD,AUTO_LINKLOCAL>\n\tOpened by PID 812\n";
    fs::write(folder.join("ifconfig.says"), says).expect("its words");

    let program = program.to_str().expect("a path");
    let mut system = freebsd::System::with(program, program);
    let present = system.read("paris-oslo").expect("it answers");
    let addresses = [
        inner("172.27.27.252", 32, Some("172.27.27.33")),
        inner("10.1.2.3", 24, None),
        inner("fe80::1", 64, None),
        inner("2001:db8::1", 128, Some("2001:db8::2")),
    ];
    assert_eq!(present, Some(Present { mtu: 1412, up: true, addresses: addresses.into() }));
    assert_eq!(system.read("wrong").expect("it answers"), None);
    assert_eq!(system.read("bad").expect_err("it fails").to_string(), "ifconfig: BAD: permission denied");
    system.set_link("t", 1400).expect("done");
    for address in addresses {
        system.add_address("t", address).expect("done");
    }
    system.remove_address("t", inner("10.1.2.3", 24, None)).expect("done");
    system.remove_address("t", inner("2001:db8::1", 128, None)).expect("done");
    assert!(system.add_address("bad", inner("10.1.2.3", 0, None)).is_err());
    system.add_route("t", "10.2.0.0/16".parse().expect("a prefix")).expect("done");
    system.remove_route("t", "2001:db8:20::/64".parse().expect("a prefix")).expect("done");
    let told = fs::read_to_string(folder.join("ifconfig.told")).expect("its arguments");
    fs::remove_dir_all(&folder).expect("ours");
    let expected = [
        "paris-oslo|",
        "wrong|",
        "bad|",
        "t|mtu|1400|up|",
        "t|inet|172.27.27.252|172.27.27.33|netmask|0xffffffff|alias|",
        "t|inet|10.1.2.3|10.1.2.3|netmask|0xffffff00|alias|",
        "t|inet6|fe80::1|prefixlen|64|alias|",
        "t|inet6|2001:db8::1|2001:db8::2|prefixlen|128|alias|",
        "t|inet|10.1.2.3|-alias|",
        "t|inet6|2001:db8::1|-alias|",
        "bad|inet|10.1.2.3|10.1.2.3|netmask|0x00000000|alias|",
        "-n|add|-inet|-net|10.2.0.0/16|-interface|t|",
        "-n|delete|-inet6|-net|2001:db8:20::/64|-interface|t|",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    let none = freebsd::System::with("/nonexistent/ifconfig", "").read("t").expect_err("none").to_string();
    assert!(none.starts_with("/nonexistent/ifconfig: "), "{none}");
}
