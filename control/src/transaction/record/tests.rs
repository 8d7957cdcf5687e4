use std::sync::Arc;

use culvert_engine::esp::OutboundSa;
use zeroize::Zeroizing;

use super::super::store::tests::Played;
use super::*;
use crate::config::{Direction, ManualSa, Position, Router, Secret, Suite};

fn disk() -> Played {
    Played::with_power(usize::MAX)
}

fn set(mut disk: Played, content: &[u8]) {
    disk.write(NUMBERS, content).expect("power");
}

fn get(disk: &Played) -> Vec<u8> {
    disk.read(NUMBERS).expect("a disk").expect("a file").to_vec()
}

/// A process with SAs of these keys: the record, the ledger, the SAs.
fn process(disk: &Played, keys: &[u8]) -> (Record<Played>, Ledger, Vec<Arc<OutboundSa>>) {
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
    let (disk, now) = (disk(), Instant::now());
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
    let (disk, now) = (disk(), Instant::now());
    let (mut record, ledger, sas) = process(&disk, &[1]);
    record.keep_ahead(&ledger, now).expect("a disk");
    let first = get(&disk);
    take(&sas[0], AHEAD / 2 - 1);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_eq!((get(&disk), sas[0].last()), (first.clone(), AHEAD));
    take(&sas[0], 1);
    record.keep_ahead(&ledger, now).expect("a disk");
    assert_ne!(get(&disk), first);
    assert_eq!(sas[0].last(), AHEAD + AHEAD / 2);
}

#[test]
fn an_sa_comes_to_its_end() {
    let (disk, now) = (disk(), Instant::now());
    let last = u64::from(u32::MAX);
    let name = process(&disk, &[1]).1.recorded().next().expect("an SA").0;
    set(disk.clone(), store::seal(MAGIC, &format!("{name} {}\n", last - 3)).as_bytes());
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
    // Written in two steps, renamed, synchronised.
    for steps in 0..4 {
        let disk = Played::with_power(steps);
        let (mut record, ledger, sas) = process(&disk, &[1]);
        assert_eq!(record.keep_ahead(&ledger, now), Err("no power".to_owned()), "{steps}");
        assert_eq!(take(&sas[0], 1), 1);
        disk.restore_power();
        take(&sas[0], AHEAD / 2);
        record.keep_ahead(&ledger, now).expect("a disk");
        let (_, ledger, _) = process(&disk, &[1]);
        assert!(ledger.recorded().all(|(_, sa)| sa.numbers().start > AHEAD / 2));
    }
}

#[test]
fn an_sa_that_is_forgotten_goes_on_beyond() {
    let (disk, now) = (disk(), Instant::now());
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
    let disk = disk();
    let (mut record, ledger, _) = process(&disk, &[1, 2]);
    record.keep_ahead(&ledger, Instant::now()).expect("a disk");
    let whole = get(&disk);
    let refused = |content: &[u8]| {
        set(disk.clone(), content);
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
