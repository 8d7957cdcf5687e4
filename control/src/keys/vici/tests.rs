//! The connection against a charon of the test's own, which says what it is told to.

use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Where a test's charon listens; the file goes with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("culvert-vici-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Place(std::env::temp_dir().join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn read_packet(mut stream: &UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut packet).ok()?;
    Some((packet.remove(0), packet))
}

fn write_packet(mut stream: &UnixStream, kind: u8, name: Option<&str>, message: &Message) {
    let mut packet = vec![kind];
    if let Some(name) = name {
        packet.push(name.len() as u8);
        packet.extend_from_slice(name.as_bytes());
    }
    message.encode(&mut packet).expect("short");
    let length = (packet.len() as u32).to_be_bytes();
    // The client may have had enough.
    let _ = stream.write_all(&length).and_then(|()| stream.write_all(&packet));
}

/// A charon that has taken all registrations.
fn charon(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().expect("a client");
    for event in EVENTS {
        let (kind, name) = read_packet(&stream).expect("a registration");
        assert_eq!((kind, name.get(1..)), (REGISTER, Some(event.as_bytes())));
        write_packet(
            &stream,
            if event == "ike-update" { EVENT_UNKNOWN } else { CONFIRMED },
            None,
            &Message::new(),
        );
    }
    stream
}

fn told(vici: &Vici) -> Told {
    vici.told.recv_timeout(Duration::from_secs(10)).expect("to be told")
}

fn connected(vici: &Vici) {
    loop {
        match told(vici) {
            Told::Connected => return,
            Told::Lost(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn answer(vici: &Vici) -> Answer {
    match told(vici) {
        Told::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_answered_in_their_order_and_events_come_between() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.0).expect("a socket");
    let mut vici = Vici::start(&place.0, || ()).expect("a thread");
    let charon = charon(&listener);
    connected(&vici);
    let first = vici.ask("load-conn", Message::new().with("version", "2"));
    let second = vici.ask("list-sas", Message::new());
    let (kind, packet) = read_packet(&charon).expect("a request");
    assert_eq!((kind, &packet[..10]), (REQUEST, &b"\x09load-conn"[..]));
    assert!(
        Message::decode(&packet[10..]).expect("a message").text("version") == Some("2"),
        "what was asked arrives"
    );
    write_packet(&charon, EVENT, Some("ike-updown"), &Message::new().with("up", "yes"));
    let refused = Message::new().with("success", "no").with("errmsg", "unknown proposal");
    write_packet(&charon, RESPONSE, None, &refused);
    assert!(
        matches!(told(&vici), Told::Event(name, message) if name == "ike-updown" && message.is_yes("up"))
    );
    let one = answer(&vici);
    assert_eq!((one.number, one.outcome()), (first, Err("unknown proposal".to_owned())));

    assert_eq!(&read_packet(&charon).expect("the next").1[..9], b"\x08list-sas");
    for name in ["a", "b"] {
        let sa = Message::new().with_section(name, Message::new());
        write_packet(&charon, EVENT, Some("list-sa"), &sa);
    }
    write_packet(&charon, RESPONSE, None, &Message::new());
    let two = answer(&vici);
    assert_eq!((two.number, two.outcome(), two.listed.len()), (second, Ok(()), 2));

    vici.ask("fly", Message::new());
    read_packet(&charon).expect("the request");
    write_packet(&charon, REQUEST_UNKNOWN, None, &Message::new());
    assert!(answer(&vici).outcome().is_err_and(|why| why.contains("does not know")));
}

#[test]
fn a_charon_that_goes_is_told_once_and_found_again() {
    let place = Place::new();
    let mut vici = Vici::start(&place.0, || ()).expect("a thread");
    assert!(matches!(told(&vici), Told::Lost(why) if why.contains("No such file")), "none is there yet");
    vici.ask("version", Message::new());
    assert!(answer(&vici).outcome().is_err());
    let listener = UnixListener::bind(&place.0).expect("a socket");
    for _ in 0..3 {
        let charon = charon(&listener);
        connected(&vici);
        let number = vici.ask("version", Message::new());
        read_packet(&charon).expect("the request");
        drop(charon);
        let unanswered = answer(&vici);
        assert_eq!(
            (unanswered.number, unanswered.outcome()),
            (number, Err("strongSwan has ended".to_owned()))
        );
        assert!(matches!(told(&vici), Told::Lost(why) if why == "strongSwan has ended"));
    }
}

/// Whatever listens there instead of charon: it is told, tried again, and nothing else happens.
#[test]
fn what_is_no_charon_is_left() {
    for nonsense in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\0\0\0\0", b"\0\0\0\x03\x07\x09x"] {
        let place = Place::new();
        let listener = UnixListener::bind(&place.0).expect("a socket");
        let vici = Vici::start(&place.0, || ()).expect("a thread");
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(nonsense).expect("to be heard");
        assert!(matches!(told(&vici), Told::Lost(_)), "{nonsense:?}");
        listener.accept().expect("it tries again");
    }
}

/// A packet that comes in pieces is one packet.
#[test]
fn packets_may_come_in_pieces() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.0).expect("a socket");
    let vici = Vici::start(&place.0, || ()).expect("a thread");
    let mut charon = charon(&listener);
    connected(&vici);
    let mut packet = vec![EVENT, 12];
    packet.extend_from_slice(b"child-updown");
    Message::new().with("up", "yes").encode(&mut packet).expect("short");
    let mut bytes = (packet.len() as u32).to_be_bytes().to_vec();
    bytes.extend(packet);
    for byte in bytes.repeat(2) {
        charon.write_all(&[byte]).expect("to be heard");
    }
    for _ in 0..2 {
        assert!(matches!(told(&vici), Told::Event(name, _) if name == "child-updown"));
    }
}

#[test]
fn the_thread_ends_with_its_owner() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.0).expect("a socket");
    let vici = Vici::start(&place.0, || ()).expect("a thread");
    let charon = charon(&listener);
    connected(&vici);
    drop(vici);
    assert_eq!(read_packet(&charon), None, "the connection is closed");
}
