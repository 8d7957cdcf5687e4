use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use culvert_engine::esp::OutboundSa;
use zeroize::Zeroizing;

use super::*;
use crate::config::{Direction, ManualSa, Position, Router, Secret, Suite};

/// Files by their names.
type Names = BTreeMap<String, Vec<u8>>;

/// Files, which fail after so many steps.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<(Names, usize)>>);

impl Disk {
    fn good() -> Disk {
        let disk = Disk::default();
        disk.0.borrow_mut().1 = usize::MAX;
        disk
    }

    fn step(&self, change: impl FnOnce(&mut Names)) -> io::Result<()> {
        let (files, steps) = &mut *self.0.borrow_mut();
        *steps = steps.checked_sub(1).ok_or_else(|| io::Error::other("the disk is full"))?;
        change(files);
        Ok(())
    }

    fn set(&self, content: &[u8]) {
        self.0.borrow_mut().0.insert(NUMBERS.to_owned(), content.to_vec());
    }

    fn get(&self) -> Vec<u8> {
        self.0.borrow().0.get(NUMBERS).cloned().unwrap_or_default()
    }
}

impl Files for Disk {
    fn read(&self, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.0.borrow().0.get(name).cloned().map(Zeroizing::new))
    }
    fn write(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.step(|files| drop(files.insert(name.to_owned(), content.to_vec())))
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step(|files| {
            let content = files.remove(from).expect("a file");
            files.insert(to.to_owned(), content);
        })
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step(|files| drop(files.remove(name)))
    }
    fn sync(&mut self) -> io::Result<()> {
        self.step(|_| {})
    }
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().0.keys().cloned().collect())
    }
}

/// A process with SAs of these keys: the record, the ledger, the SAs.
fn process(disk: &Disk, keys: &[u8]) -> (Record<Disk>, Ledger, Vec<Arc<OutboundSa>>) {
    let (record, trouble) = Record::open(disk.clone());
    assert_eq!(trouble, None);
    let mut ledger = Ledger::beyond(Router::First, record.marks().clone());
    let sas = keys.iter().map(|key| ledger.outbound(&sa(*key, false)).expect("an SA")).collect();
    (record, ledger, sas)
}

fn sa(key: u8, esn: bool) -> ManualSa {
    ManualSa {
        direction: Direction::Out,
        spi: 0x1001,
        suite: Suite::Aes128Gcm16,
        esn,
        key: Secret::new(Zeroizing::new(vec![key; 20])),
        udp_encap: None,
        replay_window: 64,
        at: Position::nowhere(),
    }
}

fn take(sa: &OutboundSa, count: u64) -> u64 {
    sa.take(count).expect("numbers").first
}

#[test]
fn a_process_begins_beyond_what_the_one_before_may_have_used() {
    let (disk, now) = (Disk::good(), Instant::now());
    let (mut record, ledger, sas) = process(&disk, &[1, 2]);
    assert_eq!(record.due(), None);
    assert!(sas[0].take(1).is_err(), "nothing is recorded");
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!(record.due(), Some(now + EVERY));
    assert_eq!((take(&sas[0], 10), take(&sas[0], 1)), (1, 11));
    // Killed.
    let (mut record, ledger, sas) = process(&disk, &[1, 2, 3]);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!(sas.iter().map(|sa| take(sa, 5)).collect::<Vec<_>>(), [AHEAD + 1, AHEAD + 1, 1]);
    // Ended well, with one of them in use.
    record.settle(&ledger).expect("a disk");
    let (mut record, ledger, sas) = process(&disk, &[3, 1]);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!(sas.iter().map(|sa| take(sa, 1)).collect::<Vec<_>>(), [6, AHEAD + 6]);
    // One that is not configured for a while is not forgotten.
    record.settle(&ledger).expect("a disk");
    let (mut record, ledger, sas) = process(&disk, &[2]);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!(take(&sas[0], 1), AHEAD + 6);
}

#[test]
fn it_is_written_when_half_is_used() {
    let (disk, now) = (Disk::good(), Instant::now());
    let (mut record, ledger, sas) = process(&disk, &[1]);
    record.keep_ahead(&ledger, now).expect("a disk");
    let first = disk.get();
    take(&sas[0], AHEAD / 2 - 1);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!((disk.get(), sas[0].last()), (first.clone(), AHEAD));
    take(&sas[0], 1);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_ne!(disk.get(), first);
    assert_eq!(sas[0].last(), AHEAD + AHEAD / 2);
}

#[test]
fn an_sa_comes_to_its_end() {
    let (disk, now) = (Disk::good(), Instant::now());
    let last = u64::from(u32::MAX);
    let name = process(&disk, &[1]).1.recorded().next().expect("an SA").0;
    disk.set(store::seal(MAGIC, &format!("{name} {}\n", last - 3)).as_bytes());
    let (mut record, ledger, sas) = process(&disk, &[1]);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!((take(&sas[0], 9), sas[0].take(1).is_err(), sas[0].until_end()), (last - 2, true, 0));
    drop((record, ledger, sas));
    let (mut record, ledger, sas) = process(&disk, &[1]);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert!(sas[0].take(1).is_err());
}

#[test]
fn without_a_disk_it_sends_all_the_same() {
    let now = Instant::now();
    for steps in 0..3 {
        let disk = Disk::default();
        disk.0.borrow_mut().1 = steps;
        let (mut record, ledger, sas) = process(&disk, &[1]);
        assert_eq!(record.keep_ahead(&ledger, now), Err("the disk is full".to_owned()), "{steps}");
        assert_eq!(take(&sas[0], 1), 1);
        // Somebody has made room.
        disk.0.borrow_mut().1 = usize::MAX;
        take(&sas[0], AHEAD / 2);
        record.keep_ahead(&ledger, now).expect("a disk");
        let (_, ledger, _) = process(&disk, &[1]);
        assert!(ledger.recorded().all(|(_, sa)| sa.numbers().start > AHEAD / 2));
    }
}

#[test]
fn an_sa_that_is_forgotten_goes_on_beyond() {
    let (disk, now) = (Disk::good(), Instant::now());
    let (mut record, mut ledger, sas) = process(&disk, &[1]);
    record.keep_ahead(&ledger, now).expect("a disk");
    take(&sas[0], 7);
    drop(sas);
    ledger.forget_beyond(0);
    assert_eq!(ledger.recorded().count(), 0);
    let back = ledger.outbound(&sa(1, false)).expect("an SA");
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!(take(&back, 1), AHEAD + 1);
}

/// With ESN, another suite or key, the numbers are others.
#[test]
fn sas_are_told_apart() {
    let mut ledger = Ledger::beyond(Router::First, Marks::new());
    let of = |esn, suite, length: usize| ManualSa {
        suite,
        key: Secret::new(Zeroizing::new(vec![1; length])),
        ..sa(1, esn)
    };
    for wanted in [
        of(false, Suite::Aes128Gcm16, 20),
        of(true, Suite::Aes128Gcm16, 20),
        of(false, Suite::Aes256Gcm16, 36),
        of(false, Suite::ChaCha20Poly1305, 36),
    ] {
        ledger.outbound(&wanted).expect("an SA");
    }
    let names: HashSet<Digest> = ledger.recorded().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn what_is_damaged_is_not_used() {
    let disk = Disk::good();
    let (mut record, ledger, _) = process(&disk, &[1, 2]);
    record.keep_ahead(&ledger, Instant::now()).expect("a disk");
    let whole = disk.get();
    let refused = |content: &[u8]| {
        disk.set(content);
        let (record, trouble) = Record::open(disk.clone());
        assert!(trouble.is_some() && record.marks().is_empty(), "{content:?}");
    };
    (0..whole.len()).for_each(|end| refused(&whole[..end]));
    for place in 0..whole.len() {
        let mut content = whole.clone();
        content[place] ^= 0x11;
        refused(&content);
    }
    for body in ["x", "00 1\n", &format!("{} \n", "0".repeat(64)), &format!("{} -1\n", "0".repeat(64))] {
        refused(store::seal(MAGIC, body).as_bytes());
    }
}
