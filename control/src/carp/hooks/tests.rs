//! Hooks that run, fail, hang and come too fast, by the helper that runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::config::Position;

const LONG: Duration = Duration::from_secs(20);

/// A folder for what hooks write, gone with the test.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Place {
    fn new(name: &str) -> Place {
        let place = Place(std::env::temp_dir().join(format!("culvert-hooks-{}-{name}", std::process::id())));
        fs::create_dir_all(&place.0).expect("a folder");
        place
    }

    /// A hook that is this script.
    fn hook(&self, name: &str, on: &[HookEvent], script: &str) -> CarpHook {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", self.0.display())).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
        CarpHook {
            on: on.to_vec(),
            command: vec![path.display().to_string(), "an argument".to_owned()],
            timeout: Duration::from_secs(10),
            at: Position::nowhere(),
        }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

/// With a helper in a thread.
fn start(hooks: &[CarpHook]) -> (Hooks, thread::JoinHandle<io::Result<()>>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let helper = thread::spawn(move || helper::serve(theirs));
    (Hooks::with(hooks, "first", Runner::with(programs(hooks), ours).expect("told")), helper)
}

fn occasion(event: HookEvent, vhid: u8) -> Occasion {
    let group = Group { vhid, interface: "vmx0".to_owned() };
    Occasion { event, group: Some((group, "203.0.113.230".parse().unwrap())) }
}

/// All reports until nothing runs any more.
fn reports(hooks: &mut Hooks) -> Vec<Report> {
    let (mut all, end) = (Vec::new(), Instant::now() + LONG);
    while !hooks.is_idle() {
        all.extend(hooks.reports());
        assert!(Instant::now() < end, "{all:?}");
        thread::sleep(Duration::from_millis(5));
    }
    all
}

#[test]
fn a_hook_is_told_what_it_is_for() {
    let place = Place::new("told");
    let script = "echo $1 $CULVERT_EVENT $CULVERT_ROUTER $CULVERT_GROUP $CULVERT_VHID $CULVERT_INTERFACE $CULVERT_ADDRESS >> log; echo done so; echo and more >&2";
    let hook = place.hook("hook", &[HookEvent::Master, HookEvent::Unready], script);
    let (mut hooks, helper) = start(&[hook]);
    hooks.happen(occasion(HookEvent::Master, 2));
    hooks.happen(occasion(HookEvent::Backup, 3));
    hooks.happen(Occasion { event: HookEvent::Unready, group: None });
    let all = reports(&mut hooks);
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|report| report.why.is_none() && report.output == "done so\nand more"), "{all:?}");
    let log = place.text("log");
    assert!(log.contains("an argument master first 2@vmx0 2 vmx0 203.0.113.230\n"), "{log}");
    assert!(log.contains("an argument unready first\n"), "{log}");
    assert_eq!(hooks.counts, (2, 0));
    drop(hooks);
    helper.join().expect("ended").expect("well");
}

#[test]
fn hooks_that_fail() {
    let place = Place::new("fail");
    let mut missing = place.hook("gone", &[HookEvent::Master], "");
    missing.command = vec!["/nonexistent/hook".to_owned()];
    let mut killed = place.hook("killed", &[HookEvent::Master], "kill -9 $$");
    killed.timeout = LONG;
    let much = place.hook("much", &[HookEvent::Master], "seq 1 100000; exit 3");
    let (mut hooks, _helper) = start(&[missing, killed, much]);
    hooks.happen(occasion(HookEvent::Master, 2));
    let all = reports(&mut hooks);
    let why = |number: usize| all[number].why.clone().unwrap_or_default();
    assert!(why(0).contains("cannot be run"), "{all:?}");
    assert!(why(1).contains("signal 9"), "{all:?}");
    assert!(why(2).contains("ended with 3") && all[2].output.ends_with("100000"), "{all:?}");
    assert!(all[2].output.len() <= 4096);
    assert_eq!(hooks.counts, (0, 3));
}

/// One that hangs is killed with all that it has started, and holds up its own group alone, as long as its time.
#[test]
fn a_hook_that_hangs() {
    let place = Place::new("hang");
    let mut hangs =
        place.hook("hangs", &[HookEvent::Master], "echo begun; (sleep 3; touch survived) & sleep 60");
    hangs.timeout = Duration::from_secs(1);
    let other = place.hook("other", &[HookEvent::Backup], "echo $CULVERT_GROUP >> log");
    let (mut hooks, _helper) = start(&[hangs, other]);
    let before = Instant::now();
    hooks.happen(occasion(HookEvent::Master, 1));
    hooks.happen(occasion(HookEvent::Backup, 1));
    hooks.happen(occasion(HookEvent::Backup, 2));
    assert!(before.elapsed() < Duration::from_millis(500), "nobody waits");
    let all = reports(&mut hooks);
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(place.text("log"), "2@vmx0\n1@vmx0\n");
    let hung = all.iter().find(|report| report.why.is_some()).expect("a report");
    assert!(
        hung.why.as_ref().unwrap().contains("did not end within 1s") && hung.output == "begun",
        "{hung:?}"
    );
    thread::sleep(Duration::from_millis(3500));
    assert!(!place.0.join("survived").exists(), "what it had started is gone too");
}

/// While a hook runs, the last of what happens counts.
#[test]
fn what_is_past_is_left_out() {
    let place = Place::new("past");
    let all = [HookEvent::Master, HookEvent::Backup, HookEvent::Init];
    let hook = place.hook("hook", &all, "echo $CULVERT_EVENT >> log; sleep 0.3");
    let (mut hooks, _helper) = start(&[hook]);
    for event in [HookEvent::Master, HookEvent::Backup, HookEvent::Master, HookEvent::Init, HookEvent::Backup]
    {
        hooks.happen(occasion(event, 1));
    }
    reports(&mut hooks);
    assert_eq!(place.text("log"), "master\nbackup\n");
    // What has no hook still ends what waits.
    let only = place.hook("only", &[HookEvent::Master], "echo only >> log; sleep 0.3");
    let (mut hooks, _helper) = start(&[only]);
    for event in [HookEvent::Master, HookEvent::Backup, HookEvent::Master, HookEvent::Backup] {
        hooks.happen(occasion(event, 1));
    }
    reports(&mut hooks);
    assert_eq!(place.text("log"), "master\nbackup\nonly\n");
}

#[test]
fn a_helper_that_is_gone() {
    let place = Place::new("gone");
    let hook = place.hook("hook", &[HookEvent::Master], "sleep 5");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let list = [hook];
    let mut hooks = Hooks::with(&list, "first", Runner::with(programs(&list), ours).expect("told"));
    hooks.happen(occasion(HookEvent::Master, 1));
    assert!(hooks.reports().is_empty());
    drop(theirs);
    for expected in [1, 2] {
        let all = reports(&mut hooks);
        assert!(all.len() == 1 && all[0].why.as_ref().unwrap().contains("restart culvert"), "{all:?}");
        assert_eq!(hooks.counts.1, expected);
        assert!(hooks.wait_fd().is_none());
        hooks.happen(occasion(HookEvent::Master, 1));
    }
}

#[test]
fn without_hooks_there_is_no_helper() {
    let mut hooks = Hooks::start(&[], "first").expect("nothing");
    hooks.happen(occasion(HookEvent::Master, 1));
    assert!(hooks.is_idle() && hooks.wait_fd().is_none() && hooks.reports().is_empty());
}
