//! Two links over loopback, and what can come between them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::config::{Secret, SyncProof};

mod certificates;
mod trouble;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Two addresses that no other test has, in this process and, as far as possible, in others.
fn addresses() -> (SocketAddr, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    let port = 20_000 + u16::try_from(process % 10_000).unwrap();
    let net = 64 + u8::try_from(process / 10_000 % 64).unwrap();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let at = |host| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, net, number, host)), port);
    (at(1), at(2))
}

/// A connection to `to` from its own address.
fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::from(connection::begin(to.ip(), to).expect("a connection"));
    let mut waited = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    poll(&mut waited, PollTimeout::from(5000_u16)).expect("poll");
    stream.set_nonblocking(false).expect("blocking");
    stream
}

fn secret(text: &str) -> SyncProof {
    SyncProof::Secret(Secret::new(Zeroizing::new(text.as_bytes().to_vec())))
}

fn settings(listen: SocketAddr, partner: SocketAddr, proof: SyncProof) -> Sync {
    let (heartbeat, dead) = (Duration::from_millis(100), Duration::from_millis(1500));
    Sync { listen, partner, proof, heartbeat, dead, at: crate::config::Position::nowhere() }
}

/// A link, and who waits for it.
struct End {
    link: Link,
    woken: Receiver<()>,
}

impl End {
    fn start(settings: &Sync, router: Router) -> End {
        End::speaking(VERSIONS, settings, router)
    }

    fn speaking(versions: (u16, u16), settings: &Sync, router: Router) -> End {
        let (wake, woken) = channel();
        let wake = Box::new(move || wake.send(()).unwrap_or_default());
        End { link: Link::speaking(versions, settings, router, wake).expect("a link"), woken }
    }

    /// What happens next. A wake-up that does not come is an error.
    fn event(&self) -> Event {
        let end = Instant::now() + LONG;
        loop {
            if let Some(event) = self.link.next() {
                return event;
            }
            let left = end.saturating_duration_since(Instant::now());
            self.woken
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("nothing happens: {:?}", self.link.status()));
        }
    }

    fn up(&self) -> u16 {
        match self.event() {
            Event::Up { version, .. } => version,
            other => panic!("{}", named(&other)),
        }
    }

    fn frame(&self) -> Frame {
        match self.event() {
            Event::Frame(frame) => frame,
            other => panic!("{}", named(&other)),
        }
    }

    fn down(&self) -> String {
        match self.event() {
            Event::Down { why } => why,
            other => panic!("{}", named(&other)),
        }
    }

    /// Frames of what is left of a session, and why it ended.
    fn rest(&self) -> (Vec<Frame>, String) {
        let mut frames = Vec::new();
        loop {
            match self.event() {
                Event::Frame(frame) => frames.push(frame),
                Event::Down { why } => return (frames, why),
                other => panic!("{}", named(&other)),
            }
        }
    }

    fn send(&self, bytes: &[u8]) {
        self.link.send(Zeroizing::new(bytes.to_vec())).expect("sent");
    }

    /// Waits until the link says why it is down, with these words.
    fn says(&self, words: &str) {
        let end = Instant::now() + LONG;
        loop {
            let status = self.link.status();
            assert!(status.up.is_none(), "{status:?}");
            if status.why.as_ref().is_some_and(|why| why.contains(words)) {
                return;
            }
            assert!(Instant::now() < end, "{words:?} is not said: {status:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn named(event: &Event) -> String {
    match event {
        Event::Frame(frame) => format!("a frame of {} bytes", frame.len()),
        other => format!("{other:?}"),
    }
}

fn ends(proofs: [SyncProof; 2], routers: [Router; 2]) -> (End, End) {
    let (one, other) = addresses();
    let [first, second] = proofs;
    let first = End::start(&settings(one, other, first), routers[0]);
    (first, End::start(&settings(other, one, second), routers[1]))
}

const PAIR: [Router; 2] = [Router::First, Router::Second];
const SECRET: &str = "5f0c4e2a9d7b1386c0ffee00c0ffee00";

fn pair() -> (End, End) {
    let (first, second) = ends([secret(SECRET), secret(SECRET)], PAIR);
    assert_eq!((first.up(), second.up()), (VERSIONS.1, VERSIONS.1));
    (first, second)
}

fn both_up(first: &End, second: &End) {
    first.up();
    second.up();
}

#[test]
fn frames_both_ways() {
    let (first, second) = pair();
    let (partner, version) = first.link.status().up.expect("up");
    assert_eq!((partner.router, version), (Router::Second, VERSIONS.1));
    assert_eq!(partner.program, PROGRAM);
    let length = |number: usize| number * number % (LONGEST + 1);
    for number in 0..700 {
        let bytes = vec![number as u8; length(number)];
        first.send(&bytes);
        second.send(&bytes);
    }
    first.send(&vec![7; LONGEST]);
    for end in [&second, &first] {
        for number in 0..700 {
            let frame = end.frame();
            assert!(
                frame.len() == length(number) && frame.iter().all(|byte| *byte == number as u8),
                "{number}"
            );
        }
    }
    assert_eq!(second.frame().len(), LONGEST);
    assert_eq!(first.link.send(Zeroizing::new(vec![0; LONGEST + 1])), Err(Unsent::Long));
    let status = second.link.status();
    assert_eq!((status.frames, status.waiting.1, status.sessions), ((700, 701), 0, 1));
}

#[test]
fn a_secret_that_is_another() {
    let (first, second) = ends([secret(SECRET), secret("another secret of enough characters")], PAIR);
    second.says("another secret");
    first.says("another secret");
    assert!(first.link.status().refused > 0);
    assert!(first.link.next().is_none() && second.link.next().is_none());
}

/// Also what looks like the partner and is ourselves: a relay could send back what comes.
#[test]
fn the_same_router_twice() {
    for router in PAIR {
        let (one, other) = ends([secret(SECRET), secret(SECRET)], [router; 2]);
        let words = format!("both routers are `{}`", router.name());
        one.says(&words);
        other.says(&words);
        assert!(one.link.next().is_none() && other.link.next().is_none());
    }
}

#[test]
fn versions() {
    let between = |ours, theirs| {
        let (one, other) = addresses();
        let first = End::speaking(ours, &settings(one, other, secret(SECRET)), Router::First);
        let second = End::speaking(theirs, &settings(other, one, secret(SECRET)), Router::Second);
        (first, second)
    };
    for (ours, theirs, both) in [((1, 3), (2, 5), 3), ((2, 5), (1, 3), 3), ((4, 4), (1, 9), 4)] {
        let (first, second) = between(ours, theirs);
        assert_eq!((first.up(), second.up()), (both, both));
    }
    // One that does not know of readiness yet.
    let (first, second) = between(VERSIONS, (1, 1));
    assert_eq!((first.up(), second.up()), (1, 1));
    let (first, second) = between((1, 2), (3, 4));
    for end in [&first, &second] {
        end.says("speaks versions 1 to 2");
        end.says("speaks versions 3 to 4");
    }
}

/// Only who has heard that a session has begun can send in it.
#[test]
fn sessions_are_told_apart() {
    let (one, other) = addresses();
    let first = End::start(&settings(one, other, secret(SECRET)), Router::First);
    let unsent = |end: &End| end.link.send(Zeroizing::new(vec![1]));
    assert_eq!(unsent(&first), Err(Unsent::Down));
    let second = End::start(&settings(other, one, secret(SECRET)), Router::Second);
    second.up();
    let end = Instant::now() + LONG;
    while first.link.status().up.is_none() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(unsent(&first), Err(Unsent::Down));
    first.up();
    assert_eq!(unsent(&first), Ok(()));
    assert_eq!(second.frame()[..], [1]);
}

#[test]
fn a_partner_that_ends_and_comes_back() {
    let (one, other) = addresses();
    let first = End::start(&settings(one, other, secret(SECRET)), Router::First);
    for round in 0..5 {
        let second = End::start(&settings(other, one, secret(SECRET)), Router::Second);
        both_up(&first, &second);
        second.send(b"bye");
        assert_eq!(first.frame()[..], *b"bye");
        let before = Instant::now();
        drop(second);
        assert!(before.elapsed() < Duration::from_secs(1));
        assert!(first.down().contains("the daemon ends"), "{round}");
    }
    assert_eq!(first.link.status().sessions, 5);
}

/// Where nobody gets through to `first`, it connects itself.
#[test]
fn the_other_way_round() {
    let (one, other) = addresses();
    let mut to_nobody = settings(other, one, secret(SECRET));
    to_nobody.partner.set_port(1);
    let second = End::start(&to_nobody, Router::Second);
    second.says("refused");
    let first = End::start(&settings(one, other, secret(SECRET)), Router::First);
    both_up(&first, &second);
}

/// An address that this router does not have yet.
#[test]
fn an_address_that_is_not_here() {
    let (one, _) = addresses();
    let gone = "192.0.2.77:4790".parse().unwrap();
    let second = End::start(&settings(gone, one, secret(SECRET)), Router::Second);
    second.says("192.0.2.77");
}

#[test]
fn debug_shows_no_secret() {
    let (one, other) = addresses();
    let shown = format!("{:?}", settings(one, other, secret(SECRET)));
    assert!(!shown.contains(SECRET) && shown.contains("hidden"), "{shown}");
}
