//! Offloads are put back as they were, whatever happens between; on a scripted card, and on a real interface where there is
//! one that may be changed.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::{Card, NAMES, OffloadGuard, Offloads, UnknownOffload};

#[derive(Default)]
struct State {
    on: u32,
    /// What the driver will not let go.
    fixed: u32,
    /// Fails once this many calls have been made.
    calls_left: Option<u32>,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<State>>);

impl Scripted {
    fn with(on: u32, fixed: u32) -> Scripted {
        Scripted(Arc::new(Mutex::new(State { on, fixed, calls_left: None })))
    }

    fn on(&self) -> u32 {
        self.0.lock().expect("not poisoned").on
    }

    fn call(&self) -> io::Result<std::sync::MutexGuard<'_, State>> {
        let mut state = self.0.lock().expect("not poisoned");
        match &mut state.calls_left {
            Some(0) => Err(io::Error::from_raw_os_error(libc::EPERM)),
            Some(left) => {
                *left -= 1;
                Ok(state)
            }
            None => Ok(state),
        }
    }
}

impl Card for Scripted {
    fn active(&self) -> io::Result<Offloads> {
        Ok(Offloads(self.call()?.on))
    }

    fn switch(&self, offloads: Offloads, on: bool) -> io::Result<()> {
        let mut state = self.call()?;
        let changed = offloads.0 & !state.fixed;
        state.on = if on { state.on | changed } else { state.on & !changed };
        Ok(())
    }
}

/// A guard that only says when it puts back.
struct Told<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Card for Told<F> {
    fn active(&self) -> io::Result<Offloads> {
        Ok(Offloads::all())
    }

    fn switch(&self, _: Offloads, on: bool) -> io::Result<()> {
        if on {
            (self.0)();
        }
        Ok(())
    }
}

impl OffloadGuard {
    /// For tests of what holds a guard: calls `restored` when it puts back.
    pub(in crate::ring) fn played(restored: impl Fn() + Send + Sync + 'static) -> OffloadGuard {
        let cleared = Offloads::all();
        OffloadGuard {
            card: Box::new(Told(restored)),
            cleared,
            stuck: Offloads::default(),
            given_up: AtomicBool::new(false),
        }
    }
}

fn bits(names: &str) -> u32 {
    names.parse::<Offloads>().expect("known names").0
}

#[test]
fn what_was_on_comes_back_and_nothing_else() {
    let [first, second, third, ..] = NAMES else { panic!("more names") };
    let foreign = 1 << 31;
    let card = Scripted::with(first.0 | third.0 | foreign, 0);
    let guard = OffloadGuard::clear_on(Box::new(card.clone()), Offloads::all()).expect("a card");
    assert_eq!(card.on(), foreign, "what we do not know is not ours");
    assert_eq!((guard.cleared().0, guard.stuck().0), (first.0 | third.0, 0));
    drop(guard);
    assert_eq!(card.on(), first.0 | third.0 | foreign);
    assert_eq!(card.on() & second.0, 0);
}

#[test]
fn what_the_driver_keeps_is_told() {
    let [first, second, ..] = NAMES else { panic!("more names") };
    let card = Scripted::with(first.0 | second.0, second.0);
    let guard = OffloadGuard::clear_on(Box::new(card.clone()), Offloads::all()).expect("a card");
    assert_eq!((guard.cleared().0, guard.stuck().0), (first.0, second.0));
    drop(guard);
    assert_eq!(card.on(), first.0 | second.0);
}

#[test]
fn a_failure_on_the_way_leaves_nothing_changed() {
    let [first, ..] = NAMES else { panic!("a name") };
    // Reads, switches off, and then cannot read what came of it.
    let card = Scripted::with(first.0, 0);
    card.0.lock().expect("not poisoned").calls_left = Some(2);
    let fails_once = FailsOnce(card.clone());
    assert!(OffloadGuard::clear_on(Box::new(fails_once), Offloads::all()).is_err());
    assert_eq!(card.on(), first.0);
}

/// After its failure the card works again.
struct FailsOnce(Scripted);

impl Card for FailsOnce {
    fn active(&self) -> io::Result<Offloads> {
        let result = self.0.active();
        if result.is_err() {
            self.0.0.lock().expect("not poisoned").calls_left = None;
        }
        result
    }

    fn switch(&self, offloads: Offloads, on: bool) -> io::Result<()> {
        self.0.switch(offloads, on)
    }
}

#[test]
fn the_text_form_survives_a_file() {
    for (bit, name) in NAMES {
        assert_eq!((bits(name), Offloads(*bit).to_string()), (*bit, (*name).to_owned()));
    }
    let all = Offloads::all();
    assert_eq!(all.to_string().parse(), Ok(all));
    assert_eq!("".parse(), Ok(Offloads::default()));
    assert_eq!("tso9".parse::<Offloads>(), Err(UnknownOffload("tso9".into())));
}

#[test]
fn no_such_interface_is_a_clear_error() {
    let error = OffloadGuard::clear("nothere0").err().expect("refused").to_string();
    assert!(error.starts_with("nothere0: cannot clear its offloads: "), "{error}");
    let error = super::restore("far-too-long-a-name", Offloads::default()).expect_err("refused").to_string();
    assert!(error.starts_with("far-too-long-a-name: cannot reach its offloads: "), "{error}");
}

/// On a real interface, in a network namespace of the test's own.
#[cfg(target_os = "linux")]
#[test]
fn a_veth_gets_its_offloads_back() {
    std::thread::spawn(|| {
        // SAFETY: takes no pointers; concerns this thread alone, which ends with the test.
        let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(status, 0, "a network namespace of its own takes root");
        ip("link add offl0 type veth peer name offl1");
        ip("link set lo up");
        let card = || super::Interface::open("offl0").expect("an interface");
        assert_eq!(card().driver().as_deref(), Some("veth"));
        let active = || card().active().expect("ethtool");
        let before = active();
        for name in ["tx", "tso", "gso"] {
            assert_ne!(before.0 & bits(name), 0, "a veth begins with {name}: {before}");
        }
        let guard = OffloadGuard::clear("offl0").expect("a veth");
        assert_eq!(active(), guard.stuck());
        assert_eq!(guard.cleared().0 | guard.stuck().0, before.0);
        assert_eq!(guard.cleared().0 & bits("tx,tso,gso"), bits("tx,tso,gso"));
        let written = guard.cleared().to_string();
        drop(guard);
        assert_eq!(active(), before);

        // As after a kill: nobody has put anything back, but there is what was written down.
        std::mem::forget(OffloadGuard::clear("offl0").expect("a veth"));
        super::restore("offl0", written.parse().expect("offloads")).expect("a veth");
        assert_eq!(active(), before);
    })
    .join()
    .expect("no panic");
}

#[cfg(target_os = "linux")]
fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status().expect("ip");
    assert!(status.success(), "ip {arguments}");
}
