//! The files that start Culvert on a system: held against the tools of those systems, and against the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_tests::{Folder, binary};

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/dist").join(name)
}

/// The arguments that `text` gives to the binary at `path`, for each time that it names it at the start of a command.
fn calls<'t>(text: &'t str, path: &'t str) -> impl Iterator<Item = Vec<&'t str>> {
    text.match_indices(path).map(move |(at, _)| {
        let rest = text.get(at + path.len()..).unwrap_or_default();
        rest.lines().next().unwrap_or_default().split_whitespace().collect()
    })
}

/// systemd(1) reads it, finds every setting known, and the order free of circles.
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let folder = Folder::new();
    let text = fs::read_to_string(dist("culvert.service")).unwrap();
    let installed = "/usr/local/bin/culvert";
    let here = binary().canonicalize().unwrap();
    let unit = folder.write("culvert.service", text.replace(installed, here.to_str().unwrap()));
    let ran = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
    let ran = ran.expect("systemd-analyze, of Debian's package systemd");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && !said.contains("culvert.service:"), "{said}");
    for before in ["strongswan.service", "frr.service"] {
        assert!(text.lines().any(|line| line.starts_with("Before=") && line.contains(before)), "{before}");
    }
    // Its commands are commands: what is wrong is the file that is not there, and not the arguments.
    let calls: Vec<_> = calls(&text, installed).collect();
    assert_eq!(calls.len(), 2);
    for words in calls {
        let words = words.into_iter().map(|word| word.replace("/etc/culvert/culvert.toml", "missing.toml"));
        folder.culvert(words).fails(2, &["missing.toml: cannot be read"]);
    }
}

#[test]
fn the_rc_script_is_a_clean_shell_script() {
    let script = dist("culvert.rc");
    let ran = Command::new("shellcheck").args(["-s", "sh"]).arg(&script).output();
    let ran = ran.expect("shellcheck, of Debian's package shellcheck");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    let text = fs::read_to_string(&script).unwrap();
    let order = text.lines().find_map(|line| line.strip_prefix("# BEFORE: ")).unwrap();
    assert!(["routing", "strongswan", "frr"].iter().all(|other| order.split(' ').any(|word| word == *other)));
}

/// Run with a stand-in for rc.subr that does as rc.subr(8) says: it checks, starts by daemon(8)'s arguments, and waits.
#[test]
fn the_rc_script_starts_what_it_says() {
    let folder = Folder::new();
    folder.write(
        "rc.subr",
        "load_rc_config() { culvert_wait=2; }\nwarn() { echo \"warned: $*\"; }\n\
         run_rc_command() { $start_precmd || { echo refused; return 1; }; echo \"$command $command_args\"; $start_postcmd; }\n",
    );
    let stand_in =
        folder.write("culvert", "#!/bin/sh\necho \"$*\" >>calls\n[ -e \"no-$1\" ] && exit 2\nexit 0\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&stand_in, mode).unwrap();
    let script = fs::read_to_string(dist("culvert.rc")).unwrap();
    let script = script.replace("/etc/rc.subr", "./rc.subr").replace("/usr/local/bin/culvert", "./culvert");
    let script = folder.write("script", script);
    let run = || {
        let mut command = Command::new("sh");
        command.arg(&script).arg("start").current_dir(folder.path("")).stdin(Stdio::null());
        let out = command.output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (well, said) = run();
    let config = "/usr/local/etc/culvert/culvert.toml";
    let daemon = "/usr/sbin/daemon -f -S -T culvert -p /var/run/culvert.pid";
    assert!(well && said.trim() == format!("{daemon} ./culvert run -c {config}"), "{said}");
    let calls = fs::read_to_string(folder.path("calls")).unwrap();
    assert_eq!(calls, format!("check -c {config}\nshow workers\n"));
    folder.write("no-show", "");
    let (well, said) = run();
    assert!(!well && said.contains("warned: it is not ready after 2 seconds"), "{said}");
    folder.write("no-check", "");
    let (well, said) = run();
    assert!(!well && said == "refused\n", "{said}");
}
