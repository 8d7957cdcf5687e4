//! The command line as its user sees it on 80 columns: what it prints, what it refuses and why, and its exit codes, held against
//! `tests/fixtures/cli` (`CULVERT_BLESS=1` writes what there is now, to be looked at). Where a command asks a daemon, one stands
//! in for it that always says the same.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use culvert_tests::{Folder, fixture, same};
use serde_json::{Value, json};

/// What the commands print, one after the other, as on a terminal: exit codes other than 0 in brackets. Nothing but messages is
/// longer than a line.
fn transcript(folder: &Folder, lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        // Quotes hold words together, as in a shell.
        let quoted = line.split('\'').enumerate();
        let words = quoted.flat_map(|(part, text)| match part % 2 {
            0 => text.split_whitespace().collect(),
            _ => vec![text],
        });
        let ran = folder.culvert(words);
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        // JSON is not read on a terminal, nor is a configuration.
        let for_eyes = |printed: &&str| !printed.starts_with('{') && !line.starts_with("import ");
        for printed in ran.stdout.lines().filter(for_eyes) {
            assert!(printed.chars().count() <= 80, "{line}: {printed}");
        }
        text += &format!("$ culvert {line}\n{}{}", ran.stdout, ran.stderr);
        if ran.code != Some(0) {
            text += &format!("[{}]\n", ran.code.expect("it was not killed"));
        }
        text += "\n";
    }
    text
}

/// The daemon's stand-in, at `daemon.sock`.
fn stand_in(folder: &Folder) {
    let answers = fs::read(fixture("cli/answers.json")).unwrap();
    let answers: Value = serde_json::from_slice(&answers).unwrap();
    let listener = UnixListener::bind(folder.path("daemon.sock")).unwrap();
    thread::spawn(move || listener.incoming().for_each(|client| answer(&client.unwrap(), &answers)));
}

/// Answers one request (`docs/api.md`).
fn answer(client: &UnixStream, answers: &Value) {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let request: Value = serde_json::from_str(&line).unwrap();
    let length = request["length"].as_u64().unwrap_or_default();
    let mut files = Vec::new();
    reader.take(length).read_to_end(&mut files).unwrap();
    let again = String::from_utf8(files).unwrap().contains("second");
    let text = |name: &str| request[name].as_str().unwrap().to_owned();
    let failed = |code: u8, error: &Value| json!({"ok": false, "error": error, "code": code});
    let done = |result: Value| json!({"ok": true, "result": result});
    let mut more = Vec::new();
    let reply = match text("command").as_str() {
        "show" => done(json!({text("what"): answers["show"][text("what")]})),
        "explain" => done(answers["explain"][text("address")].clone()),
        "diff" | "apply" if again => failed(2, &answers["refused"]),
        "diff" => done(answers["diff"].clone()),
        "apply" => {
            let mut changes = answers["diff"].clone();
            changes["confirm_within"] = request["confirm"].clone();
            done(changes)
        }
        "confirm" => failed(1, &json!("nothing waits to be confirmed")),
        "trace" => {
            more.extend(answers["trace"].as_array().unwrap().iter().map(|record| json!({"record": record})));
            more.push(json!({"end": "2 packets"}));
            json!({"ok": true, "stream": true})
        }
        other => panic!("{other}: the stand-in has no answer to that"),
    };
    let lines = [reply].into_iter().chain(more).map(|line| format!("{line}\n"));
    // A client that has seen enough leaves.
    let _ = (&mut &*client).write_all(lines.collect::<String>().as_bytes());
}

/// A folder with the configurations of `tests/config`.
fn examples() -> Folder {
    let folder = Folder::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for entry in fs::read_dir(examples).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        folder.write(entry.file_name().to_str().unwrap(), fs::read(entry.path()).unwrap());
    }
    folder
}

/// Every command has a page of its own, which says what it takes.
#[test]
fn help() {
    let folder = Folder::new();
    let whole = transcript(&folder, &["--help"]);
    assert!(whole.contains("Exit codes: 0 done; 1 it failed; 2 the arguments"), "{whole}");
    let (_, commands) = whole.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    let names: Vec<&str> = names.map(|(name, _)| name).filter(|name| !["", "help"].contains(name)).collect();
    assert!(names.len() >= 19 && names.contains(&"run") && names.contains(&"import"), "{names:?}");
    for name in names {
        let page = transcript(&folder, &[&format!("{name} --help")]);
        assert!(page.contains(&format!("Usage: culvert {name}")) && !page.contains("\n["), "{page}");
    }
}

/// Wrong arguments: what is wrong, and what would be right.
#[test]
fn arguments() {
    let folder = Folder::new();
    let lines = [
        "shwo ports",
        "check",
        "check --config",
        "apply f --confirm 1w",
        "run -c f --user u --unlimited",
        "trace --count 0",
    ];
    same("cli/arguments.txt", &transcript(&folder, &lines));
}

/// What there is to say about files, with where it stands and what to do.
#[test]
fn files() {
    let folder = examples();
    let ports = "[[port]]\nname = \"wan\"\ndevice = \"pcap\"\naddresses = [\"192.0.2.1/24\"]\n\n";
    let tunnel =
        |name: &str, ends: &str| format!("[[tunnel]]\nname = \"{name}\"\n{ends}\nprotect = \"none\"\n\n");
    let oslo = tunnel(
        "oslo",
        "local = \"192.0.2.1\"\nremote = \"192.0.2.9\"\ninner = \"172.27.27.1/32\"\npeer = \"172.27.27.2\"",
    );
    let second = tunnel("second", "local = \"172.27.27.1\"\nremote = \"172.27.27.2\"");
    folder.write("nested.toml", format!("{ports}{oslo}{second}"));
    folder.write("unknown.toml", format!("{ports}{}", oslo.replace("inner", "iner")));
    folder.write("broken.toml", format!("{ports}[[tunnel]\n"));
    folder.write(
        "mistakes.toml",
        format!("{ports}{}", oslo.replace("192.0.2.9", "192.0.2").replace("\"none\"", "\"nothing\"")),
    );
    folder.write("rc.conf", "cloned_interfaces=\"gre0\"\nifconfig_gre0=\"inet 10.0.0.1 10.0.0.2 tunnel 192.0.2.1 192.0.2.9 frob\"\n");
    folder.write("broken.conf", "a=1\nb=\"open\n");
    let lines = [
        "check -c manual.toml",
        "check -c nested.toml",
        "check -c unknown.toml",
        "check -c broken.toml",
        "check -c mistakes.toml",
        "check -c missing.toml",
        "check -c nested.toml --json",
        "explain -c manual.toml 10.2.0.5",
        "explain -c manual.toml 10.2.0.5 --json",
        "explain -c missing.toml 10.2.0.5",
        "explain 10.2.0",
        "import rc.conf",
        "import broken.conf",
        "import missing.conf",
        "replay -c manual.toml --in none=missing.pcap",
    ];
    same("cli/files.txt", &transcript(&folder, &lines));
}

/// What a daemon says.
#[test]
fn daemon() {
    let folder = examples();
    stand_in(&folder);
    folder.write(
        "second.toml",
        "[[tunnel]]\nname = \"second\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.2\"\nprotect = \"none\"\n",
    );
    let shown = ["ports", "workers", "tunnels", "sas", "routes", "neighbours", "drops", "privileges"];
    let mut lines: Vec<String> = shown.iter().map(|what| format!("show {what}")).collect();
    lines.extend(
        [
            "show drops --json",
            "explain 10.2.0.5",
            "explain 10.1.0.5",
            "diff manual.toml",
            "diff second.toml",
            "apply manual.toml --confirm 60s",
            "apply second.toml",
            "confirm",
            "trace --count 2 --match 'icmp or drop'",
        ]
        .map(str::to_owned),
    );
    let lines: Vec<String> = lines
        .into_iter()
        .map(|line| format!("{line} --socket daemon.sock"))
        .chain(["show ports --socket nobody.sock".to_owned()])
        .collect();
    same("cli/daemon.txt", &transcript(&folder, &lines.iter().map(String::as_str).collect::<Vec<_>>()));
}
