//! Expressions, and what they say of packets. `tests/witness/test_match.py` holds them against tcpdump.

use culvert_engine::trace::{Facts, Headers};
use proptest::prelude::*;

use super::*;

struct Lab;

impl Names for Lab {
    fn tunnel(&self, name: &str) -> Result<u32, String> {
        ["oslo", "and"]
            .iter()
            .position(|known| *known == name)
            .map(|at| at as u32)
            .ok_or_else(|| "no tunnel".to_owned())
    }

    fn port(&self, name: &str) -> Result<u16, String> {
        if name == "wan" { Ok(1) } else { Err("no port".to_owned()) }
    }

    fn drops(&self) -> Result<(), String> {
        Ok(())
    }
}

fn facts_say(text: &str, facts: &Facts<'_>) -> bool {
    compile(text, &Lab).unwrap_or_else(|error| panic!("{error}")).takes(facts)
}

/// Of a packet from 10.1.0.5 port 1234 to 10.2.0.6 port 80, of 100 bytes.
fn says(text: &str) -> bool {
    let packet = Headers {
        len: 100,
        ethertype: 0x0800,
        ends: Some(([10, 1, 0, 5].into(), [10, 2, 0, 6].into())),
        protocol: Some(6),
        ports: Some((1234, 80)),
        ..Headers::default()
    };
    let facts = Facts { forms: &[packet], tunnels: &[0], ports: &[1], dropped: Some(Reason::NoRoute) };
    facts_say(text, &facts)
}

#[test]
fn words_mean_what_they_say() {
    for text in [
        "",
        "  ",
        "ip",
        "tcp",
        "host 10.1.0.5",
        "10.2.0.6",
        "src host 10.1.0.5",
        "src 10.1.0.5",
        "dst 10.2.0.6",
        "src or dst host 10.2.0.6",
        "dst or src net 10.1.0.0/16",
        "src and dst net 10.0.0.0/8",
        "net 10.2.0.0/16",
        "dst net 0.0.0.0/0",
        "port 80",
        "port 1234",
        "tcp port 80",
        "tcp dst port 80",
        "src portrange 1000-2000",
        "portrange 90-70",
        "src or dst portrange 80-80",
        "proto 6",
        "ip proto 6",
        "proto tcp",
        "proto \\tcp",
        "less 100",
        "greater 100",
        "not udp",
        "! udp",
        "!(udp or arp)",
        "not not tcp",
        "udp or tcp",
        "udp || tcp",
        "ip && tcp",
        "tunnel oslo",
        "tunnel \"oslo\"",
        "on wan",
        "drop",
        "drop no-route",
        "drop and tcp",
        "(drop)",
        "not (drop no-sa)",
        "host 1.2.3.4 or 10.1.0.5",
        "port 443 or 80",
        "tcp port 443 or 80",
        "dst port 443 or 80",
        "net 10.3.0.0/16 or 10.2.0.0/16",
        // As pcap-filter has it: the left first.
        "tcp or udp and port 80",
        "not udp and tcp",
        "udp and arp or tcp",
        "not host 1.2.3.4 and 10.1.0.5",
    ] {
        assert!(says(text), "{text}");
    }
    for text in [
        "ip6",
        "arp",
        "udp",
        "icmp",
        "esp",
        "gre",
        "host 10.1.0.6",
        "dst host 10.1.0.5",
        "src and dst host 10.1.0.5",
        "src and dst net 10.1.0.0/16",
        "udp port 80",
        "tcp src port 80",
        "port 81",
        "src portrange 1-1000",
        "proto 17",
        "ip6 proto 6",
        "less 99",
        "greater 101",
        "not tcp",
        "!tcp",
        "not (udp or tcp)",
        "tunnel and",
        "drop no-sa",
        "not drop",
        "tcp or udp and port 81",
        "dst port 443 or 1234",
        "host 2001:db8::1",
        "net ::/0",
    ] {
        assert!(!says(text), "{text}");
    }
}

/// A word takes a packet by any of its forms.
#[test]
fn a_traced_packet_is_taken_by_its_forms() {
    let outer = Headers {
        ethertype: 0x0800,
        ends: Some(([192, 0, 2, 1].into(), [192, 0, 2, 2].into())),
        protocol: Some(50),
        ..Headers::default()
    };
    let inner = Headers {
        ethertype: 0x0800,
        ends: Some(([10, 1, 0, 5].into(), [10, 2, 0, 6].into())),
        protocol: Some(17),
        ports: Some((1, 53)),
        ..Headers::default()
    };
    let facts = Facts { forms: &[outer, inner], ..Facts::default() };
    for text in ["esp", "udp port 53", "host 192.0.2.1 and dst port 53", "esp and not tcp"] {
        assert!(facts_say(text, &facts), "{text}");
    }
    for text in ["not esp", "not host 10.1.0.5", "tunnel oslo", "drop"] {
        assert!(!facts_say(text, &facts), "{text}");
    }
}

#[test]
fn errors_point_at_the_place() {
    for (text, mark, says) in [
        ("host 10.1.0.5 and tunnel osl", "                  ^^^^^^^^^^", "no tunnel"),
        ("tcp prot 80", "    ^^^^", "`and`, `or` or the end"),
        ("foo", "^^^", "no word of an expression"),
        ("tcp and", "       ^", "a question was expected at the end"),
        ("host", "    ^", "an address or number was expected at the end"),
        ("host example.com", "     ^^^^^^^^^^^", "names are not looked up"),
        ("host 10.0.0.0/8", "     ^^^^^^^^^^", "write `net`"),
        ("net 10.0.0.1/8", "    ^^^^^^^^^^", "10.0.0.0/8 was meant?"),
        ("net 10.0.0.0", "    ^^^^^^^^", "10.2.0.0/16"),
        ("port http", "     ^^^^", "from 0 to 65535"),
        ("port 65536", "     ^^^^^", "from 0 to 65535"),
        ("portrange 80", "          ^^", "1000-2000"),
        ("(tcp or udp", "^", "never closed"),
        ("tcp)", "   ^", "`and`, `or` or the end"),
        ("()", " ^", "no word"),
        ("tcp & udp", "    ^", "write `&&`"),
        ("tunnel \"os", "       ^^^", "no end"),
        ("drop too-long", "     ^^^^^^^^", "there is too-big"),
        ("drop xyz", "     ^^^", "README.md"),
        ("icmp port 80", "^^^^", "join two questions"),
        ("ip host 10.0.0.1", "^^", "join two questions"),
        ("src proto 6", "          ^", "no source or destination"),
        ("proto 256", "      ^^^", "0 to 255"),
        ("tcp or 80", "       ^^", "no word"),
        ("(port 80) or 443", "             ^^^", "no word"),
        ("less -1", "     ^^", "a number of bytes"),
        ("\"tcp\"", "^^^^^", "no word"),
        // Letters of several bytes.
        ("tunnel ö und", "^^^^^^^^", "no tunnel"),
    ] {
        let error = compile(text, &Lab).expect_err(text);
        let shown = error.to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1..], [text, mark], "{shown}");
        assert!(lines[0].contains(says), "{shown}");
        let failure = Failure::from(error);
        assert_eq!(failure.code(), 2);
        assert!(failure.lines().iter().all(|line| line.starts_with("--match: ")));
    }
}

#[test]
fn what_is_too_much_is_refused() {
    let many = |count: usize| vec!["tcp"; count].join(" or ");
    assert!(compile(&many(LONGEST / 2), &Lab).is_ok());
    assert!(compile(&many(LONGEST / 2 + 1), &Lab).is_err_and(|error| error.what.contains("questions")));
    let deep = |count: usize| format!("{}tcp{}", "(".repeat(count), ")".repeat(count));
    assert!(compile(&deep(DEEPEST), &Lab).is_ok());
    assert!(compile(&deep(DEEPEST + 1), &Lab).is_err_and(|error| error.what.contains("parentheses")));
    assert!(compile(&" ".repeat(LONGEST_TEXT + 1), &Lab).is_err());
    assert!(compile(&"not ".repeat(1000), &Lab).is_err());
}

#[test]
fn captures_are_asked_about_headers_alone() {
    assert!(compile("tcp and not gre", &HeadersAlone).is_ok());
    for text in ["tunnel oslo", "on wan", "drop"] {
        assert!(compile(text, &HeadersAlone).is_err_and(|error| error.what == OF_ONE), "{text}");
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => proptest::sample::select(
            &["and", "or", "not", "(", ")", "src", "dst", "host", "net", "port", "portrange", "proto", "tcp", "ip6", "arp",
            "10.0.0.1", "10.0.0.0/8", "::1", "80", "1-2", "tunnel", "oslo", "drop", "no-sa", "less", "!", "&&", "on", "wan"][..]
        ).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn any_text_is_an_expression_or_an_error_within_it(words in proptest::collection::vec(word(), 0..20)) {
        let text = words.join(" ");
        if let Err(error) = compile(&text, &Lab) {
            let (before, marked) = error.at;
            prop_assert!(before + marked <= text.chars().count(), "{}", error);
            prop_assert_eq!(Failure::from(error).lines().len(), 3);
        }
    }
}
