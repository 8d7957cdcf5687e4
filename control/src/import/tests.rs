//! The reader against a real sh(1), and what it makes of files against `check`'s own parts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::shell::Shell;
use super::text::Lines;
use super::{Imported, import};
use crate::config::Config;
use crate::plan;

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("culvert-import-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(&path, text).expect("a new file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn read(files: &[&str]) -> Result<Shell, String> {
    let mut shell = Shell::default();
    for (order, text) in (0..).zip(files) {
        let lines = Lines::new(Path::new("rc.conf"), order, text);
        shell.read(text, &lines).map_err(|fault| format!("{} ({})", fault.why, fault.at))?;
    }
    Ok(shell)
}

/// What sh(1) makes of the variables; `None` where it cannot read the files.
fn sh(files: &[&str], names: &[String]) -> Option<Vec<Option<String>>> {
    let folder = Folder::new();
    let mut script = String::new();
    for (number, text) in files.iter().enumerate() {
        script += &format!(". {} >/dev/null\n", folder.write(&format!("{number}.conf"), text).display());
    }
    for name in names {
        script += &format!("if [ \"${{{name}+set}}\" ]; then printf '=%s' \"${name}\"; fi; printf '\\0'\n");
    }
    script += "printf 'whole'\n";
    let command = Command::new("/bin/sh")
        .arg("-c")
        .arg(&script)
        .env_clear()
        .current_dir(&folder.0)
        .stderr(Stdio::null())
        .output();
    let output = String::from_utf8(command.expect("sh").stdout).expect("text");
    let values: Vec<&str> = output.split('\0').collect();
    let (whole, values) = values.split_last()?;
    // What the files print themselves would stand before the first.
    (*whole == "whole" && values.len() == names.len())
        .then(|| values.iter().map(|value| value.strip_prefix('=').map(str::to_owned)).collect())
}

/// The same variables with the same values as sh(1) has, wherever the reader is sure of them.
///
/// Files that sh(1) refuses, rc cannot use: it is all the same what is made of them, unless `refused` asks for an error.
fn agrees(files: &[&str], refused: bool) {
    let text = files.join("\n");
    let mut names: Vec<String> = text
        .split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
        .filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase()) && *name != "names")
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    let theirs = sh(files, &names);
    match (read(files), theirs) {
        (Err(_), None) => {}
        (Ok(shell), Some(theirs)) => {
            for (name, theirs) in names.iter().zip(theirs) {
                let ours = shell.get(name);
                if ours.is_none_or(|variable| variable.doubt.is_none()) {
                    assert_eq!(ours.map(|variable| variable.value.clone()), theirs, "{name} in {files:?}");
                }
            }
        }
        (Ok(shell), None) => assert!(!refused || !shell.commands().is_empty(), "sh cannot read {files:?}"),
        (Err(why), Some(_)) => panic!("{why}: {files:?}"),
    }
}

#[test]
fn values_are_those_of_sh() {
    for file in [
        "a=1 b='two words' c=\"three $a\"; d=4 # e=5\nf=$a$b\"$c\"'$d'\n",
        "a=\"one \\\n\ttwo\"; b=three\\\nfour\n",
        "a='it'\\''s'; b=\"it's\"; c=\"a\\\"b\\$c\\`d\\\\e\\f\"\n",
        "cloned_interfaces=\"$cloned_interfaces gre0\"\ncloned_interfaces=\"${cloned_interfaces} gre1\"",
        "a=${u:-x y} b=\"${u-'x'}\" c=${u:+never}; d=${c+set}${c:+full} e=\"${f:=new}$f\"",
        "a=\"${u:-\"in  quotes\"}\"; b=${u:-'}'}; c=${u:-a\\}b}; d=\"${u:-a\\}b}\"; e=${u:-\"}\"}",
        "a=${u:-${v:-${w:-deep}}} b=\"${a:+${a}}\"",
        "export a=1 b=2; readonly c=\"$a\"; unset a; : ${d:=e} \"${f=g}\"\n",
        "a=b#c d=#e\nf= g=\"\"; h=i=j\n",
        "a=$ b=\"$\" c=$% d=\"$.\" e='$x' f=\\$x\n",
        "# only a comment \\\na=1\n#b=2\n\n;",
        "a=1;; b=2\n",
        "a='never ends\n",
        "a=\"never ends\n",
        "a=${never",
        "fi\n",
        "if true; then a=1\n",
        "a=1 : ; b=2 true\nc=3 >/dev/null; 2>/dev/null d=4\n",
        "if false; then a=1; else b=2; fi; c=3\n",
        "case x in x) a=1;; (y|z) b=2;; esac; c=3\n",
        "for a in 1 2; do b=$a; done; c=4\n",
        "f() { a=1; }\ng() (\n b=2\n)\nc=3\n",
        "a=1 && b=2; c=3 || d=4; e=5\n",
        "cat >/dev/null <<EOF\na='1\nEOF\nb=2\n",
        "a=`echo ')'` b=$(echo \")\" '(' \\) $(echo x)) c=$((1+(2*3))) d=e\n",
        "a=1\nreturn 0\na=2 '\n",
        "a=\r\nb=c\r\n",
        "\ta=1 \t b=2\t\n",
        "a=caf\u{e9} b=\"\u{201c}x\u{201d}\"\n",
    ] {
        agrees(&[file], true);
    }
    agrees(&["a=1 b=x\n", "b=\"$b y\"; c=$a\n", "unset a\nd=${a-gone}"], true);
}

/// What is not run leaves a doubt behind, which goes where the value goes and ends with the next plain assignment.
#[test]
fn doubts_spread_and_end() {
    let shell = read(&[
        "a=$(cat x)\nb=\"$a gre0\"\na=sure\nc=$a\nif [ -f y ]; then c=2; d=3; fi\ne=${c:-f}\ng=$HOME\n",
    ])
    .unwrap();
    let doubted =
        |name: &str| shell.get(name).unwrap().doubt.as_ref().map(|doubt| (doubt.why, doubt.at.line()));
    assert_eq!(doubted("a"), None);
    assert_eq!(doubted("b"), Some(("`$(..)`", 1)));
    assert_eq!(shell.get("b").unwrap().value, " gre0");
    assert_eq!(doubted("c"), Some(("`if`", 5)));
    assert_eq!(doubted("d"), Some(("`if`", 5)));
    assert_eq!(doubted("e"), Some(("`if`", 5)));
    assert_eq!(doubted("g"), Some(("a variable of the environment", 7)));
    let commands: Vec<_> = shell.commands().iter().map(|command| (command.name, command.at.line())).collect();
    assert_eq!(commands, [("`if`", 5)]);
}

#[test]
fn words_know_the_line_that_brought_them() {
    let shell = read(&["a=\"x y\"\n", "\na=\"$a z\"\na=\"$a  w v\"\n"]).unwrap();
    let words: Vec<_> =
        shell.get("a").unwrap().words().map(|(word, at)| (word.to_owned(), at.line())).collect();
    let expected = [("x", 1), ("y", 1), ("z", 2), ("w", 3), ("v", 3)];
    assert_eq!(words, expected.map(|(word, line)| (word.to_owned(), line)));
}

#[test]
fn what_grows_without_end_is_refused() {
    let doubling = "a=xxxxxxxx\n".to_owned() + &"a=$a$a\n".repeat(40);
    assert!(read(&[&doubling]).unwrap_err().contains("bytes"));
    let many: String = (0..2000).map(|number| format!("b{number}=$a\n")).collect();
    let full = format!("a={}\n{many}", "x".repeat(60_000));
    assert!(read(&[&full]).unwrap_err().contains("together"));
    for (open, close) in [("${a:-", "}"), ("$(", ")"), ("\"${a:-", "}\""), ("if x; then ", "; fi")] {
        let deep = format!("b={}{}", open.repeat(50_000), close.repeat(50_000));
        drop(read(&[&deep]));
    }
}

/// Pieces of which files are made, right and wrong.
fn piece() -> impl Strategy<Value = String> {
    const FIXED: &[&str] = &[
        "a=",
        "b=",
        "c=",
        "$a",
        "${b}",
        "${c:-",
        "${a+",
        "\"",
        "\"",
        "'",
        "\\",
        "\n",
        "\n",
        " ",
        " ",
        ";",
        "}",
        "#",
        "x",
        "y z",
        "export ",
        ": ",
        "unset ",
        "$",
        "{",
        "=",
        "gre0",
        "10.0.0.1/24",
        "\t",
        "\\\n",
        "&& ",
        "if true; then ",
        "fi\n",
        "~",
        ":",
    ];
    proptest::sample::select(FIXED).prop_map(str::to_owned)
}

/// Whole assignments, as rc.conf has them.
fn assignment() -> impl Strategy<Value = String> {
    let name = || proptest::sample::select(&["a", "b", "c", "d"][..]);
    let part = prop_oneof![
        "[a-z0-9./:]{0,6}".prop_map(|text| text),
        name().prop_map(|name| format!("${name}")),
        name().prop_map(|name| format!("${{{name}}}")),
        (name(), proptest::sample::select(&[":-", "-", ":+", "+", "=", ":="][..]), "[a-z ]{0,4}")
            .prop_map(|(name, operator, word)| format!("${{{name}{operator}{word}}}")),
        "[a-z $\"#]{0,5}".prop_map(|text| format!("'{text}'")),
        proptest::sample::select(&["\\\n", "\\$", "\\\"", "\\\\", "\\'"][..]).prop_map(str::to_owned),
    ];
    let plain = proptest::collection::vec(part.clone(), 0..4).prop_map(|parts| parts.concat());
    let quoted = proptest::collection::vec(
        prop_oneof![
            part.prop_filter("its quotes would be text", |part| !part.starts_with('\'')),
            Just(" ".to_owned())
        ],
        0..5,
    )
    .prop_map(|parts| format!("\"{}\"", parts.concat()));
    let value = prop_oneof![plain, quoted];
    let end = proptest::sample::select(&["\n", "; ", " # more\n", "\n\n"][..]);
    (name(), value, end).prop_map(|(name, value, end)| format!("{name}={value}{end}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn files_of_assignments_are_those_of_sh(files in proptest::collection::vec(proptest::collection::vec(assignment(), 0..6), 1..3)) {
        let files: Vec<String> = files.into_iter().map(|lines| lines.concat()).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        assert!(read(&files).is_ok(), "{files:?}");
        agrees(&files, true);
    }

    #[test]
    fn files_of_anything_are_those_of_sh(pieces in proptest::collection::vec(piece(), 0..16)) {
        agrees(&[&pieces.concat()], false);
    }
}

/// Loads what an import made, as `culvert check` does, and says what is wrong with it.
fn wrong(imported: &Imported) -> Vec<String> {
    let folder = Folder::new();
    let path = folder.write("made.toml", &imported.configuration);
    let config = match Config::load(&path) {
        Ok((config, _)) => config,
        Err(errors) => return vec![errors.to_string()],
    };
    match plan::preview(&config) {
        Ok(tables) => plan::nested(&config, &tables).iter().map(ToString::to_string).collect(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

fn made_of(text: &str) -> Imported {
    let folder = Folder::new();
    import(&[folder.write("rc.conf", text)]).unwrap_or_else(|failure| panic!("{:?}", failure.lines()))
}

fn says(imported: &Imported, what: &str, why: &str) {
    let all = imported.left.iter().chain(&imported.risks);
    let found = all
        .clone()
        .any(|problem| problem.what.contains(what) && problem.why.contains(why) && problem.at.is_some());
    assert!(found, "{what}, {why}: {:#?}", all.map(ToString::to_string).collect::<Vec<_>>());
}

#[test]
fn a_default_route_into_a_tunnel_keeps_its_far_end_out() {
    let imported = made_of(
        "ifconfig_em0=\"192.0.2.1/24\"\ncloned_interfaces=gre0\n\
         ifconfig_gre0=\"inet 10.0.0.1 10.0.0.2 netmask 255.255.255.252 tunnel 192.0.2.1 203.0.113.9\"\n\
         static_routes=far\nroute_far=\"-host 203.0.113.9 192.0.2.254\"\ndefaultrouter=10.0.0.2\n",
    );
    assert_eq!(wrong(&imported), [""; 0]);
    let text = &imported.configuration;
    assert!(text.contains("routes = [\"0.0.0.0/0\"]") && text.contains("inner = \"10.0.0.1/30\""), "{text}");
    assert!(text.contains("prefix = \"203.0.113.9/32\"\nport = \"em0\"\nvia = \"192.0.2.254\"\n"), "{text}");
}

#[test]
fn a_default_route_that_takes_the_far_end_along_is_left_out() {
    let imported = made_of(
        "ifconfig_em0=DHCP\ncloned_interfaces=gre0\n\
         ifconfig_gre0=\"inet 10.0.0.1 10.0.0.2 tunnel 192.0.2.1 203.0.113.9\"\ndefaultrouter=10.0.0.2\n",
    );
    assert_eq!(wrong(&imported), [""; 0]);
    assert!(!imported.configuration.contains("0.0.0.0/0"), "{}", imported.configuration);
    says(
        &imported,
        "tunnel gre0, routes",
        "0.0.0.0/0 would lead the far end of tunnel gre0 into tunnel gre0",
    );
}

#[test]
fn tunnels_that_collide_are_told_apart_or_left_out() {
    let imported = made_of(
        "cloned_interfaces=\"gre0 gre1 gre2 gre3 gre4\"\n\
         ifconfig_gre0=\"10.0.0.1 10.0.0.2 tunnel 192.0.2.1 192.0.2.2\"\n\
         ifconfig_gre1=\"10.0.0.5 10.0.0.6 tunnel 192.0.2.1 192.0.2.2\"\n\
         ifconfig_gre2=\"10.0.0.9 10.0.0.2 tunnel 192.0.2.1 192.0.2.2 grekey 7\"\n\
         ifconfig_gre3=\"10.0.0.13 10.0.0.14 tunnel hub.example.net 192.0.2.3 frobnicate s3cret\"\n\
         ifconfig_gre4=\"10.0.0.17 10.0.0.18 tunnel 192.0.2.1 192.0.2.5 mtu 99999\"\n\
         static_routes=\"a b none\"; route_a=\"10.1.0.0/16 10.0.0.2\" route_b=\"10.1 -netmask 0xffff0000 -interface gre2\"\n",
    );
    assert_eq!(wrong(&imported), [""; 0]);
    says(&imported, "tunnel gre1", "same ends and key");
    says(&imported, "tunnel gre2, peer", "tunnel gre0");
    says(&imported, "tunnel gre3", "`tunnel` cannot be read");
    says(&imported, "tunnel gre3", "a word is not known");
    says(&imported, "tunnel gre4, mtu", "99999");
    says(&imported, "static_routes", "no variable describes");
    let all = serde_json::to_string(&imported).unwrap();
    assert!(!all.contains("s3cret"), "{all}");
}

/// Words of interfaces as they are and as nobody writes them.
fn word() -> impl Strategy<Value = String> {
    const FIXED: &[&str] = &[
        "inet",
        "inet6",
        "tunnel",
        "netmask",
        "255.255.255.0",
        "0xffffffff",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.1/24",
        "10.0.1.0/30",
        "192.0.2.1",
        "192.0.2.2",
        "198.51.100.7",
        "2001:db8::1",
        "2001:db8::2/64",
        "grekey",
        "42",
        "mtu",
        "1400",
        "0",
        "vhid",
        "3",
        "pass",
        "s3cret",
        "advskew",
        "alias",
        "name",
        "oslo",
        "host",
        "enable_csum",
        "enable_seq",
        "udpencap",
        "descr",
        "'a b'",
        "10.0.0.1-9/24",
        "peer",
        "up",
        "DHCP",
        "-alias",
        "fib",
        "192.0.2.1 192.0.2.2",
        "tunnel 192.0.2.1 198.51.100.7",
        "tunnel 10.0.0.1 10.0.0.2",
        "tunnel 2001:db8::1 2001:db8::9",
        "prefixlen",
        "64",
    ];
    proptest::sample::select(FIXED).prop_map(str::to_owned)
}

fn lines() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(
        &[
            "ifconfig_em0",
            "ifconfig_em1",
            "ifconfig_gre0",
            "ifconfig_gre1",
            "ifconfig_gre2",
            "ifconfig_gre0_alias0",
            "ifconfig_gre1_ipv6",
            "ifconfig_em0_alias0",
            "create_args_gre0",
            "create_args_gre1",
            "ifconfig_gre2_name",
            "ifconfig_em0_aliases",
            "ifconfig_oslo",
            "ipv4_addrs_em1",
            "ifconfig_gre0_descr",
        ][..],
    );
    let interface = (name, proptest::collection::vec(word(), 0..9))
        .prop_map(|(name, words)| format!("{name}=\"{}\"\n", words.join(" ")));
    let gateway = proptest::sample::select(
        &[
            "10.0.0.2",
            "192.0.2.254",
            "-interface gre0",
            "-interface gre1",
            "-interface em0",
            "2001:db8::2",
            "-reject",
            "",
        ][..],
    );
    let to = proptest::sample::select(
        &[
            "default",
            "10.2.0.0/16",
            "-net 198.51.100.0/24",
            "-host 192.0.2.2",
            "192.0.2.0/24",
            "2001:db8::/32",
            "0.0.0.0/1",
            "10.2",
        ][..],
    );
    let name = proptest::sample::select(&["route_a", "route_b", "ipv6_route_a"][..]);
    let route = (name, to, gateway).prop_map(|(name, to, gateway)| format!("{name}=\"{to} {gateway}\"\n"));
    let other = proptest::sample::select(
        &[
            "defaultrouter=10.0.0.2\n",
            "defaultrouter=192.0.2.254\n",
            "ipv6_defaultrouter=2001:db8::2\n",
            "cloned_interfaces=\"$cloned_interfaces gre0 gif0\"\n",
            "cloned_interfaces=\"$cloned_interfaces gre1 gre2\"\n",
            "static_routes=\"$static_routes a\"\n",
            "static_routes=\"b $static_routes\"\n",
            "ipv6_static_routes=a\n",
            "pf_enable=yes\n",
        ][..],
    );
    prop_oneof![4 => interface, 2 => route, 2 => other.prop_map(str::to_owned)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever stands in rc.conf: what comes out is a configuration without an error, and nobody's password.
    #[test]
    fn check_accepts_what_is_made(lines in proptest::collection::vec(lines(), 0..16)) {
        let text = lines.concat();
        let imported = made_of(&text);
        prop_assert_eq!(wrong(&imported), [""; 0], "{}\n{}", text, imported.configuration);
        let all = serde_json::to_string(&imported).unwrap();
        // Descriptions and names are no secrets.
        let told = ["descr s3cret", "_descr=\"", "name s3cret", "_name=\""].iter().any(|word| text.contains(word));
        prop_assert!(told || !all.contains("s3cret"), "{}\n{}", text, all);
    }
}

/// rc's order: a file of one's own beside the folder's, services by their names, and what rc does not read is told.
#[test]
fn folders_are_read_as_rc_reads_them() {
    let folder = Folder::new();
    folder.write("etc/rc.conf", "a=conf b=conf c=conf\n");
    folder.write("etc/rc.conf.local", "b=local c=local; l=\"$a\"\n");
    folder.write("etc/rc.conf.d/network", "c=network\n");
    folder.write("etc/rc.conf.d/netif/20", "c=netif20 o=\"$o 20\"\n");
    folder.write("etc/rc.conf.d/netif/10", "o=10\n");
    folder.write("etc/rc.conf.d/netif/.swp", "o='\n");
    folder.write("etc/rc.conf.d/sshd", "sshd_enable=YES\n");
    folder.write("etc/rc.conf.d/jail", "ifconfig_gre0=x\n");
    folder.write("usr/local/etc/rc.conf.d/routing", "r=local\n");
    let named = |root: &Path| {
        let mut files = super::files::Files::default();
        files.read(root).unwrap();
        let value =
            |name: &str| files.shell.get(name).map(|variable| variable.value.clone()).unwrap_or_default();
        (["a", "b", "c", "l", "o", "r"].map(value).join(" "), files.elsewhere)
    };
    let jail = vec![folder.0.join("etc/rc.conf.d/jail")];
    assert_eq!(named(&folder.0), ("conf local network conf 10 20 local".to_owned(), jail.clone()));
    assert_eq!(
        named(&folder.0.join("etc")),
        ("conf local network conf 10 20 local".to_owned(), jail.clone())
    );
    assert_eq!(named(&folder.0.join("etc/rc.conf.d")), ("  network  10 20 ".to_owned(), jail));
    assert_eq!(named(&folder.0.join("etc/rc.conf.d/netif")), ("  netif20  10 20 ".to_owned(), Vec::new()));
    let mut files = super::files::Files::default();
    let failure = files.read(&folder.0.join("usr")).unwrap_err();
    assert!(failure.code() == 2 && failure.lines()[0].contains("holds no rc.conf"), "{failure:?}");
    let broken = folder.write("broken.conf", "a=1\n\nb=\"open\n");
    let failure = files.read(&broken).unwrap_err();
    assert!(failure.code() == 2 && failure.lines()[0].contains("broken.conf:3"), "{failure:?}");
}
