//! What can come between two links: networks that lose connections, partners that are slow, and strangers.

use std::net::TcpListener;

use super::*;

/// Passes connections to `first` on, each as far as it is told; all on one address.
struct Relay {
    /// Bytes that each direction of the next connection carries; then both are cut.
    limit: Arc<AtomicU64>,
    /// Connections that stand when it changes carry nothing any more, and stay open.
    frozen: Arc<AtomicU64>,
    at: SocketAddr,
}

impl Relay {
    fn to(first: SocketAddr) -> Relay {
        let listener = TcpListener::bind((first.ip(), 0)).expect("a relay");
        let at = listener.local_addr().expect("its address");
        let (limit, frozen) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
        let of_connections = (Arc::clone(&limit), Arc::clone(&frozen));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(here) = stream else { continue };
                let there = connect(first);
                let limit = of_connections.0.load(Ordering::Relaxed);
                let frozen = Arc::clone(&of_connections.1);
                thread::spawn(move || carry(&here, &there, limit, &frozen));
            }
        });
        Relay { limit, frozen, at }
    }
}

fn carry(here: &TcpStream, there: &TcpStream, limit: u64, frozen: &AtomicU64) {
    let born = frozen.load(Ordering::Relaxed);
    let mut left = [limit; 2];
    loop {
        let fds = [here, there].map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN));
        let mut fds = fds;
        let _ = poll(&mut fds, PollTimeout::from(50_u16));
        if frozen.load(Ordering::Relaxed) != born {
            thread::sleep(Duration::from_millis(50));
            continue;
        }
        let ready = [0, 1].map(|end: usize| fds[end].any() == Some(true));
        for (end, (mut from, mut to)) in [(here, there), (there, here)].into_iter().enumerate() {
            if !ready[end] {
                continue;
            }
            let mut bytes = [0; 4096];
            let most = left[end].min(4096) as usize;
            let length = from.read(&mut bytes[..most]).unwrap_or(0);
            left[end] -= length as u64;
            let written = to.write_all(&bytes[..length]);
            if length == 0 || left[end] == 0 || written.is_err() {
                let _ = here.shutdown(Shutdown::Both);
                let _ = there.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// Both on one address, `second` through a relay.
fn relayed(dead: [Duration; 2]) -> (End, End, Relay) {
    let (one, _) = addresses();
    let mut other = one;
    other.set_port(one.port() + 1);
    let relay = Relay::to(one);
    let mut of_first = settings(one, other, secret(SECRET));
    let mut of_second = settings(other, relay.at, secret(SECRET));
    (of_first.dead, of_second.dead) = (dead[0], dead[1]);
    let first = End::start(&of_first, Router::First);
    (first, End::start(&of_second, Router::Second), relay)
}

/// Wherever a connection is cut, what has arrived is what was sent, from its beginning and in order; and it goes on.
#[test]
fn cut_in_the_middle() {
    let (first, second, relay) = relayed([Duration::from_secs(3); 2]);
    let mut sessions = 0;
    for limit in (1500..20_000).step_by(811) {
        relay.limit.store(limit, Ordering::Relaxed);
        second.up();
        let sent = (0..50_u8).take_while(|number| {
            let frame = vec![*number; 100 + usize::from(*number) * 13];
            second.link.send(Zeroizing::new(frame)).is_ok()
        });
        let sent = sent.count();
        first.up();
        let (frames, _) = first.rest();
        second.rest();
        assert!(frames.len() < 50, "all of it came through {limit} bytes");
        assert!(frames.len() <= sent);
        for (frame, number) in frames.iter().zip(0_u8..) {
            let whole = frame.len() == 100 + usize::from(number) * 13;
            assert!(whole && frame.iter().all(|byte| *byte == number), "{limit}: {number}");
        }
        sessions += 1;
    }
    assert!(sessions > 20);
    relay.limit.store(u64::MAX, Ordering::Relaxed);
    both_up(&first, &second);
    first.send(b"on");
    assert_eq!(second.frame()[..], *b"on");
}

/// Cut while the two still prove who they are: nothing is told of it, and the next connection is as good as any.
#[test]
fn cut_in_the_handshake() {
    let (first, second, relay) = relayed([Duration::from_secs(3); 2]);
    // The first connection may stand already.
    both_up(&first, &second);
    for limit in [1, 5, 60, 200, 250, 300, 350, 400] {
        relay.limit.store(limit, Ordering::Relaxed);
        relay.frozen.fetch_add(1, Ordering::Relaxed);
        first.rest();
        second.rest();
        thread::sleep(Duration::from_millis(400));
        assert!(first.link.next().is_none() && second.link.next().is_none(), "{limit} bytes are no session");
        relay.limit.store(u64::MAX, Ordering::Relaxed);
        both_up(&first, &second);
    }
}

#[test]
fn silence_is_noticed() {
    let (first, second, relay) = relayed([Duration::from_millis(1500); 2]);
    both_up(&first, &second);
    // Heartbeats keep it.
    thread::sleep(Duration::from_secs(3));
    assert_eq!((first.link.status().sessions, second.link.status().sessions), (1, 1));
    assert!(first.link.status().up.is_some() && second.link.status().up.is_some());
    let before = Instant::now();
    relay.frozen.fetch_add(1, Ordering::Relaxed);
    for end in [&first, &second] {
        let why = end.down();
        assert!(why.contains("1.5s") || why.contains("anew"), "{why}");
    }
    let took = before.elapsed();
    assert!(took > Duration::from_millis(1200) && took < Duration::from_secs(5), "{took:?}");
    both_up(&first, &second);
}

/// One side has noticed, the other has not: the new connection counts.
#[test]
fn half_open() {
    let (first, second, relay) = relayed([Duration::from_secs(60), Duration::from_millis(300)]);
    both_up(&first, &second);
    relay.frozen.fetch_add(1, Ordering::Relaxed);
    assert!(second.down().contains("nothing was heard"));
    assert!(first.down().contains("begun anew"));
    both_up(&first, &second);
    second.send(b"new");
    assert_eq!(first.frame()[..], *b"new");
}

/// A partner that takes nothing loses the session; what it got is a beginning of what was sent.
#[test]
fn a_slow_partner() {
    let (first, second) = pair();
    let (mut sent, mut slowest) = (0_u32, Duration::ZERO);
    let end = Instant::now() + LONG * 3;
    loop {
        let mut frame = vec![0; LONGEST];
        frame[..4].copy_from_slice(&sent.to_be_bytes());
        let before = Instant::now();
        let outcome = first.link.send(Zeroizing::new(frame));
        slowest = slowest.max(before.elapsed());
        match outcome {
            Ok(()) => sent += 1,
            Err(Unsent::Full) => break,
            Err(other) => panic!("{other} after {sent} frames"),
        }
        let waiting = second.link.status().waiting.1;
        assert!(waiting < QUEUE + 2 * (LONGEST + OVERHEAD), "{waiting} bytes wait to be taken out");
        assert!(Instant::now() < end, "never full");
        if first.link.status().waiting.0 > QUEUE / 2 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(sent as usize * LONGEST > QUEUE, "{sent}");
    assert!(slowest < Duration::from_millis(200), "{slowest:?}");
    assert!(first.down().contains("does not take"));
    let (frames, _) = second.rest();
    assert!(frames.len() <= sent as usize);
    for (frame, number) in frames.iter().zip(0_u32..) {
        assert_eq!(frame[..4], number.to_be_bytes());
    }
    both_up(&first, &second);
    first.send(b"again");
    assert_eq!(second.frame()[..], *b"again");
}

/// Strangers at the partner's address (or what looks like it), and at another.
#[test]
fn scans_and_garbage() {
    let (one, other) = addresses();
    let same = SocketAddr::new(one.ip(), other.port() + 1);
    let first = End::start(&settings(one, same, secret(SECRET)), Router::First);
    let second = End::start(&settings(same, one, secret(SECRET)), Router::Second);
    both_up(&first, &second);
    let mut random = 1_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    };
    let mut hello = vec![0x16, 3, 1, 0x7f, 0xff, 1];
    hello.extend(noise(3000));
    let openings: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        vec![0; 5000],
        noise(5000),
        hello,
        vec![0x16, 3, 3, 0, 0],
        super::super::frame::Message::Bye("away".to_owned()).to_bytes().to_vec(),
    ];
    let mut open = Vec::new();
    for round in 0..160 {
        let stream = connect(one);
        stream.set_read_timeout(Some(LONG)).expect("a limit");
        let _ = (&stream).write_all(&openings[round % openings.len()]);
        // Some leave at once, others wait to see.
        if round % 3 > 0 {
            open.push(stream);
        }
        if round % 10 == 0 {
            second.send(&[round as u8]);
            assert_eq!(first.frame()[..], [round as u8]);
        }
    }
    for mut stream in open {
        let mut answer = Vec::new();
        // An alert, or nothing, and the end of it.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
        assert!(answer.len() < 100, "{answer:?}");
    }
    let status = first.link.status();
    assert!(status.up.is_some() && status.sessions == 1, "{status:?}");
    assert!(status.refused >= 160, "{status:?}");
}

/// From an address that is not the partner's, nothing is even read.
#[test]
fn another_address() {
    let (one, other) = addresses();
    let first = End::start(&settings(one, other, secret(SECRET)), Router::First);
    let stranger = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), 1);
    let mut of_stranger = settings(stranger, one, secret(SECRET));
    of_stranger.listen.set_port(one.port() + 3);
    let second = End::start(&of_stranger, Router::Second);
    second.says("closed the connection");
    assert!(first.link.status().refused > 0 && first.link.next().is_none());
}
