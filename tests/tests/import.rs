//! `culvert import` from outside: a hub's tree of rc files becomes the expected configuration, `culvert check` accepts it, and the
//! report says what was left out, what is risky, and nobody's password.

use std::fs;
use std::path::Path;

use culvert_tests::{Folder, fixture, same};
use serde_json::Value;

/// The fixture under a name that is the same everywhere.
fn tree() -> Folder {
    fn copy(from: &Path, to: &Path, folder: &Folder) {
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                copy(&from, &to, folder);
            } else {
                fs::create_dir_all(folder.path(to.parent().unwrap().to_str().unwrap())).unwrap();
                folder.write(to.to_str().unwrap(), fs::read(from).unwrap());
            }
        }
    }
    let folder = Folder::new();
    copy(&fixture("rc"), Path::new("rc"), &folder);
    folder
}

#[test]
fn a_hub_becomes_the_expected_configuration_and_report() {
    let folder = tree();
    let ran = folder.culvert(["import", "rc"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    same("rc-imported.toml", &ran.stdout);
    same("rc-imported.report", &ran.stderr);
    folder.write("made.toml", &ran.stdout);
    folder.culvert(["check", "-c", "made.toml"]).succeeds();
    for secret in ["correcthorse", "batterystaple"] {
        assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{secret}");
    }
}

#[test]
fn json_says_the_same() {
    let folder = tree();
    let text = folder.culvert(["import", "rc"]);
    let ran = folder.culvert(["import", "rc", "--json"]);
    ran.succeeds();
    assert_eq!(ran.stderr, "");
    let report = ran.json();
    assert_eq!(report["configuration"].as_str(), Some(text.stdout.as_str()));
    for (list, start) in [("carried", "carried over: "), ("left", "left out: "), ("risks", "risk: ")] {
        let entries = report[list].as_array().unwrap();
        let start = format!("culvert: {start}");
        let lines: Vec<_> = text.stderr.lines().filter_map(|line| line.strip_prefix(&start)).collect();
        assert_eq!(lines.len(), entries.len(), "{list}");
        for (line, entry) in lines.iter().zip(entries) {
            assert!(line.starts_with(entry["what"].as_str().unwrap()), "{line}: {entry}");
        }
    }
    let files: Vec<&str> = report["files"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(files.first(), Some(&"rc/etc/defaults/rc.conf"));
    assert!(!ran.stdout.contains("correcthorse") && !ran.stdout.contains("batterystaple"));
}

/// Exit codes of the contract: 1, nothing to carry over; 2, it cannot be read; and nothing on standard output then.
#[test]
fn what_cannot_be_imported_is_told() {
    let folder = Folder::new();
    folder.write("rc.conf", "sshd_enable=YES\n");
    let ran = folder.culvert(["import", "rc.conf"]);
    ran.fails(1, &["no gre interface was carried over"]);
    assert_eq!(ran.stdout, "");
    folder.write("rc.conf", "a=1\nb=\"open\n");
    folder.culvert(["import", "rc.conf"]).fails(2, &["rc.conf:2", "double quote"]);
    folder.culvert(["import", "missing"]).fails(2, &["missing: cannot be read"]);
}
