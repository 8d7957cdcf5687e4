//! A disk that loses power at any step, and files that are damaged in any place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;

/// Names and contents as running programs see them, and as the disk has them.
#[derive(Default, Clone)]
struct Disk {
    seen: BTreeMap<String, Vec<u8>>,
    /// Changes of names that a loss of power may still undo, oldest first: what the disk had before each.
    unsynced: Vec<BTreeMap<String, Vec<u8>>>,
    steps: usize,
    /// The power goes before that step.
    ends: usize,
}

#[derive(Clone, Default)]
pub(in crate::transaction) struct Played(Rc<RefCell<Disk>>);

impl Played {
    /// An empty disk that has power for so many steps.
    pub(in crate::transaction) fn with_power(steps: usize) -> Played {
        let played = Played::default();
        played.0.borrow_mut().ends = steps;
        played
    }

    /// The power is back, and does not go again.
    pub(in crate::transaction) fn restore_power(&self) {
        self.0.borrow_mut().ends = usize::MAX;
    }

    fn step(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        if disk.steps >= disk.ends {
            return Err(io::Error::other("no power"));
        }
        disk.steps += 1;
        let before = disk.seen.clone();
        disk.unsynced.push(before);
        change(&mut disk.seen);
        Ok(())
    }
}

impl Files for Played {
    fn read(&self, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.0.borrow().seen.get(name).cloned().map(Zeroizing::new))
    }
    fn write(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        // Torn in two, were the power to go between.
        let half = content.get(..content.len() / 2).expect("half").to_vec();
        self.step(|names| drop(names.insert(name.to_owned(), half)))?;
        self.step(|names| drop(names.insert(name.to_owned(), content.to_vec())))
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step(|names| {
            let content = names.remove(from).expect("a file");
            names.insert(to.to_owned(), content);
        })
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step(|names| drop(names.remove(name)))
    }
    fn sync(&mut self) -> io::Result<()> {
        self.step(|_| {})?;
        self.0.borrow_mut().unsynced.clear();
        Ok(())
    }
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().seen.keys().cloned().collect())
    }
}

fn sources(text: &str) -> Sources {
    let text = format!(
        "{{\"top\":\"c.toml\",\"files\":{{\"c.toml\":{{\"mode\":384,\"content\":{{\"text\":\"{text}\"}}}}}},\"lists\":{{}},\"again\":[]}}"
    );
    Sources::from_bytes(text.as_bytes()).expect("sources")
}

fn state(running: &str, previous: Option<&str>, pending: bool) -> State {
    State {
        file: "c.toml".into(),
        file_digest: "d".to_owned(),
        running: sources(running),
        previous: previous.map(sources),
        pending,
    }
}

/// Every step at which the power may go, and of what had not been synchronised, the disk has any part.
#[test]
fn the_old_state_or_the_new_one_is_found() {
    let states = [
        state("one", None, false),
        state("two", Some("one"), true),
        state("two", Some("one"), false),
        state("three", Some("two"), true),
        state("two", Some("one"), false),
    ];
    let mut crashes = 0;
    for (old, new) in states.iter().zip(&states[1..]) {
        let played = Played::with_power(usize::MAX);
        Store::new(played.clone()).commit(old).expect("kept");
        let start = played.0.borrow().clone();
        for step in 0.. {
            *played.0.borrow_mut() = Disk { steps: 0, ends: step, ..start.clone() };
            let done = Store::new(played.clone()).commit(new).is_ok();
            let after = played.0.borrow().clone();
            for found in after.unsynced.iter().chain([&after.seen]) {
                let disk = Disk { seen: found.clone(), ends: usize::MAX, ..Disk::default() };
                let mut store = Store::new(Played(Rc::new(RefCell::new(disk))));
                let found = store.load().expect("whole").expect("something");
                assert!(found == *old && !done || found == *new, "step {step} of {new:?}: {found:?}");
                // And the next change is made in it.
                store.commit(&states[0]).expect("kept");
                assert_eq!(store.load(), Ok(Some(states[0].clone())));
                crashes += 1;
            }
            if done && after.steps < step {
                break;
            }
        }
    }
    assert!(crashes > 60, "{crashes}");
}

#[test]
fn what_is_damaged_is_set_aside_and_not_trusted() {
    let played = Played::with_power(usize::MAX);
    let mut store = Store::new(played.clone());
    assert_eq!(store.load(), Ok(None));
    let kept = state("two", Some("one"), true);
    store.commit(&kept).expect("kept");
    let start = played.0.borrow().seen.clone();
    assert_eq!(start.len(), 3);
    for (name, content) in &start {
        for place in 0..content.len() {
            for damage in 0..3 {
                let mut damaged = content.clone();
                match damage {
                    0 => damaged.truncate(place),
                    1 => damaged[place] ^= 1,
                    _ => damaged.insert(place, b' '),
                }
                played.0.borrow_mut().seen = start.clone();
                played.0.borrow_mut().seen.insert(name.clone(), damaged);
                let why = store.load().expect_err("damaged");
                assert!(!why.is_empty());
                assert_eq!(store.load(), Ok(None), "{name} is used again");
                assert!(played.0.borrow().seen.contains_key(DAMAGED));
            }
        }
    }
    // A configuration that is damaged while it is in use is written again.
    store.commit(&kept).expect("kept");
    assert_eq!(store.load(), Ok(Some(kept)));
}

#[test]
fn a_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("culvert-store-{}", std::process::id()));
    let mut store = Store::new(Folder::new(path.clone()));
    assert_eq!(store.load(), Ok(None));
    assert!(!path.exists());
    let kept = state("two", Some("one"), true);
    store.commit(&state("one", None, false)).expect("kept");
    store.commit(&kept).expect("kept");
    store.commit(&state("two", None, false)).expect("kept");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let names = store.files().list().expect("a folder");
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| mode(&path.join(name)) == 0o600));
    assert_eq!(store.load(), Ok(Some(state("two", None, false))));
    fs::remove_dir_all(&path).expect("ours");
}
