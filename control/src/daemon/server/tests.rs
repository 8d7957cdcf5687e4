//! A daemon that is played, and its clients.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crossbeam::channel::{Receiver, unbounded};
use serde_json::json;

use super::*;
use crate::api::client::{self, Stream};
use crate::daemon::What;
use crate::daemon::stream::{Subscriber, channel};

fn place(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("culvert-api-{}-{name}", std::process::id()))
}

/// A daemon whose control thread answers with what it is asked for, and hands on those who watch.
fn daemon_with_streams(path: &Path) -> (Endpoint, Receiver<Subscriber>) {
    let endpoint = Endpoint::bind(path).expect("a socket");
    let (queries, asked): (_, Receiver<Query>) = unbounded();
    endpoint.serve(queries, Arc::new(Bell::new().expect("a bell"))).expect("a thread");
    let (watchers, watching) = unbounded();
    thread::spawn(move || {
        for query in asked {
            let answer = match query.command {
                Command::Show { what: What::Sas } => Err(Failure::usage("no SAs\nnor keys".to_owned())),
                Command::Show { what } => Ok(Answer::Once(json!({ what.name(): {} }))),
                Command::Watch { .. } => {
                    let (subscriber, records) = channel(WAITING);
                    drop(watchers.send(subscriber));
                    Ok(Answer::Stream(records))
                }
                other => Err(Failure::usage(format!("{other:?} is not for this daemon"))),
            };
            drop(query.answer.send(answer));
        }
    });
    (endpoint, watching)
}

const WAITING: usize = 4;
const PORTS: Command = Command::Show { what: What::Ports };

fn daemon(path: &Path) -> Endpoint {
    daemon_with_streams(path).0
}

fn watch(path: &Path) -> Result<Stream, Failure> {
    Stream::open(path, &Command::Watch { what: vec![What::Drops], every: 1000 })
}

/// What a stream gives next.
fn next(stream: &mut Stream) -> Line {
    stream.next(Some(Duration::from_secs(5))).expect("a stream").expect("in time")
}

/// What is answered to these bytes.
fn tell(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("a daemon");
    stream.write_all(bytes).expect("to be heard");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    line
}

#[test]
fn requests_are_answered() {
    let path = place("answers");
    let endpoint = daemon(&path);
    assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
    assert_eq!(client::call(&path, &PORTS), Ok(json!({"ports": {}})));
    let failure = client::call(&path, &Command::Show { what: What::Sas }).expect_err("none");
    assert_eq!((failure.code(), failure.lines().join("|")), (2, "no SAs|nor keys".to_owned()));
    drop(endpoint);
    assert!(!path.exists());
}

#[test]
fn nonsense_is_refused_and_said_so() {
    let path = place("nonsense");
    let _endpoint = daemon(&path);
    for (request, says) in [
        (&b"\n"[..], "request: EOF"),
        (b"{\"version\":1}\n", "missing field `command`"),
        (b"{\"command\":\"show\",\"what\":\"ports\"}\n", "missing field `version`"),
        (b"{\"version\":1,\"command\":\"show\",\"what\":\"ports\",\"more\":1}\n", "unknown field `more`"),
        (b"[1]\n", "request: invalid type"),
        (b"{\"version\":2,\"command\":\"show\",\"what\":\"ports\"}\n", "version 2 is not spoken"),
        (b"{\"version\":1,\"command\":\"show\",\"what\":\"keys\"}\n", "unknown variant `keys`"),
        (b"{\"version\":1,\"command\":\"stop\",\"what\":\"ports\"}\n", "unknown variant `stop`"),
        (b"\xff\xfe\n", "request: "),
        (&[b'['; 70_000], "at most 65536 bytes"),
    ] {
        let answer = tell(&path, request);
        assert!(answer.starts_with("{\"ok\":false,") && answer.contains(says), "{says}: {answer}");
    }
    // Several in one go are answered in their order.
    let two = "{\"version\":1,\"command\":\"show\",\"what\":\"ports\"}\n".repeat(2);
    assert_eq!(tell(&path, two.as_bytes()), "{\"ok\":true,\"result\":{\"ports\":{}}}\n");
}

#[test]
fn clients_are_bounded() {
    let path = place("bounded");
    let _endpoint = daemon(&path);
    let request = b"{\"version\":1,\"command\":\"show\",\"what\":\"ports\"}\n";
    let waiting: Vec<UnixStream> = (0..CLIENTS)
        .map(|_| {
            // Once answered, it is known to have a place.
            let mut stream = UnixStream::connect(&path).expect("a daemon");
            stream.write_all(request).expect("to be heard");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("an answer");
            stream
        })
        .collect();
    assert!(client::call(&path, &PORTS).is_err_and(|why| why.lines().join("").contains("too many")));
    drop(waiting);
    let end = std::time::Instant::now() + Duration::from_secs(2);
    while client::call(&path, &PORTS).is_err() {
        assert!(std::time::Instant::now() < end, "places are not given back");
    }
}

#[test]
fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_living_one_is_not() {
    let path = place("stale");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let endpoint = daemon(&path);
    let refused = Endpoint::bind(&path).err().expect("one is there");
    assert!(refused.contains("another daemon listens there"), "{refused}");
    assert!(client::call(&path, &PORTS).is_ok());
    drop(endpoint);

    fs::write(&path, "precious").expect("a file");
    let refused = Endpoint::bind(&path).err().expect("no socket");
    assert!(refused.contains("no socket"), "{refused}");
    assert_eq!(fs::read_to_string(&path).expect("untouched"), "precious");
    fs::remove_file(&path).expect("ours");
}

#[test]
fn without_a_daemon_there_is_a_hint() {
    let why = client::call(&place("none"), &PORTS).expect_err("nobody").lines().join("");
    assert!(why.contains("start `culvert run`"), "{why}");
}

#[test]
fn requests_may_come_in_pieces_and_answers_do_not_wait_for_the_rest() {
    let path = place("pieces");
    let _endpoint = daemon(&path);
    let mut stream = UnixStream::connect(&path).expect("a daemon");
    let mut answers = BufReader::new(stream.try_clone().expect("the same"));
    let request = PORTS.to_line();
    let mut said = Vec::new();
    for _ in 0..3 {
        said.extend_from_slice(&request);
    }
    for (number, piece) in said.chunks(request.len() - 1).enumerate() {
        stream.write_all(piece).expect("to be heard");
        if number > 0 {
            let mut line = String::new();
            answers.read_line(&mut line).expect("an answer");
            assert_eq!(line, "{\"ok\":true,\"result\":{\"ports\":{}}}\n");
        }
        if number == 3 {
            break;
        }
    }
}

#[test]
fn a_stream_goes_on_until_the_daemon_has_no_more() {
    let path = place("stream");
    let (_endpoint, watching) = daemon_with_streams(&path);
    let mut stream = watch(&path).expect("a stream");
    let mut subscriber = watching.recv().expect("a subscriber");
    assert_eq!(stream.next(Some(Duration::from_millis(20))), Ok(None));
    subscriber.offer(json!(1)).expect("it is there");
    subscriber.offer(json!(2)).expect("it is there");
    assert_eq!((next(&mut stream), next(&mut stream)), (Line::Record(json!(1)), Line::Record(json!(2))));
    drop(subscriber);
    assert!(matches!(next(&mut stream), Line::End(why) if why.contains("no more")));
    assert!(matches!(next(&mut stream), Line::End(_)));
}

/// One that does not read holds up nobody: it loses what there is no room for, and is told how much.
#[test]
fn a_slow_client_loses_records_and_learns_how_many() {
    let path = place("slow");
    let (_endpoint, watching) = daemon_with_streams(&path);
    let mut stream = watch(&path).expect("a stream");
    let mut subscriber = watching.recv().expect("a subscriber");
    // More than the system keeps for a socket.
    let long = "x".repeat(100_000);
    for number in 0..100 {
        let before = Instant::now();
        subscriber.offer(json!([number, long])).expect("it is there");
        assert!(before.elapsed() < Duration::from_secs(1));
    }
    let (mut had, mut lost) = (0, 0);
    while had + lost < 100 {
        match stream.next(Some(Duration::from_millis(500))).expect("a stream") {
            Some(Line::Record(record)) => {
                assert_eq!(record[0], json!(had + lost));
                had += 1;
            }
            Some(Line::Lost(count)) => lost += count,
            Some(Line::End(why)) => panic!("{why}"),
            // What is still to be told comes with the next record.
            None => subscriber.offer(json!([100, ""])).expect("it is there"),
        }
    }
    assert!(had > 0 && lost > 0, "{had} {lost}");
}

#[test]
fn a_client_that_leaves_a_silent_stream_is_missed() {
    let path = place("left");
    let (_endpoint, watching) = daemon_with_streams(&path);
    let stream = watch(&path).expect("a stream");
    let mut subscriber = watching.recv().expect("a subscriber");
    subscriber.offer(json!(1)).expect("it is there");
    drop(stream);
    let end = Instant::now() + Duration::from_secs(5);
    while subscriber.offer(json!(2)).is_ok() {
        assert!(Instant::now() < end, "nobody has noticed");
        thread::sleep(Duration::from_millis(10));
    }
}

/// `printf .. | nc -N`: a client that only says that it asks no more.
#[test]
fn a_client_that_says_no_more_still_listens() {
    let path = place("half");
    let (_endpoint, watching) = daemon_with_streams(&path);
    let mut stream = UnixStream::connect(&path).expect("a daemon");
    stream
        .write_all(&Command::Watch { what: vec![What::Drops], every: 1000 }.to_line())
        .expect("to be heard");
    stream.shutdown(std::net::Shutdown::Write).expect("one half");
    let mut subscriber = watching.recv().expect("a subscriber");
    thread::sleep(LOOK * 3);
    subscriber.offer(json!(1)).expect("it is there");
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "{\"ok\":true,\"stream\":true}");
    assert_eq!(lines.next().expect("a line").expect("text"), "{\"record\":1}");
}

#[test]
fn streams_leave_room_for_others() {
    let path = place("streams");
    let (_endpoint, watching) = daemon_with_streams(&path);
    let streams: Vec<(Stream, Subscriber)> = (0..STREAMS)
        .map(|_| (watch(&path).expect("a stream"), watching.recv().expect("a subscriber")))
        .collect();
    assert!(watch(&path).is_err_and(|why| why.lines().join("").contains("too many streams")));
    assert!(client::call(&path, &PORTS).is_ok());
    drop(streams);
    let end = Instant::now() + Duration::from_secs(5);
    while watch(&path).is_err() {
        assert!(Instant::now() < end, "places are not given back");
    }
}

#[test]
fn what_was_not_begun_is_not_done_later_and_what_was_is_told_of() {
    let (queries, asked) = unbounded();
    let bell = Arc::new(Bell::new().expect("a bell"));
    let patience = Duration::from_millis(50);
    let desk = Desk { queries, bell, patience, clients: Arc::default(), streams: Arc::default() };
    let failure = ask(Command::Rollback, None, &desk).err().expect("busy");
    assert!(failure.lines().iter().all(|line| line.contains("nothing was done")), "{failure:?}");
    assert!(!asked.recv().expect("the query").take());
    let slow = thread::spawn(move || {
        let query: Query = asked.recv().expect("the query");
        assert!(query.take());
        thread::sleep(5 * patience);
        drop(query.answer.send(Ok(Answer::Once(json!(7)))));
    });
    assert!(matches!(ask(Command::Rollback, None, &desk), Ok(Answer::Once(value)) if value == 7));
    slow.join().expect("the control thread");
}
