//! What is written is what is read, whatever it is.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn what() -> impl Strategy<Value = What> {
    proptest::sample::select(<What as clap::ValueEnum>::value_variants().to_vec())
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        what().prop_map(|what| Command::Show { what }),
        (any::<u64>(), any::<Option<u64>>(), proptest::collection::vec(any::<std::net::IpAddr>(), 0..4))
            .prop_map(|(length, confirm, watch)| Command::Apply { length, confirm, watch }),
        Just(Command::Metrics {}),
        Just(Command::CarpReady {}),
        any::<bool>().prop_map(|force| Command::CarpYield { force }),
        Just(Command::CarpResume {}),
        (any::<String>(), proptest::sample::select(vec![Role::Init, Role::Backup, Role::Master]))
            .prop_map(|(group, role)| Command::CarpNotify { group, role }),
        (proptest::collection::vec(what(), 0..9), any::<u64>())
            .prop_map(|(what, every)| Command::Watch { what, every }),
        (
            any::<std::net::IpAddr>(),
            any::<Option<std::net::IpAddr>>(),
            any::<Option<u8>>(),
            any::<[Option<u16>; 2]>()
        )
            .prop_map(|(address, from, protocol, [source_port, port])| {
                Command::Explain(Question { address, from, protocol, source_port, port })
            }),
        (any::<String>(), any::<u64>()).prop_map(|(matching, count)| Command::Trace { matching, count }),
        (any::<[String; 2]>(), any::<bool>(), any::<[Option<u64>; 2]>(), any::<Option<u32>>()).prop_map(
            |([target, matching], decrypted, [count, seconds], snap)| {
                Command::Capture(CaptureOf { target, decrypted, matching, count, seconds, snap })
            }
        ),
    ]
}

/// JSON that may stand in a reply.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(command in command()) {
        let line = command.to_line();
        prop_assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        prop_assert_eq!(Command::read(&line), Ok(command));
    }

    #[test]
    fn any_bytes_are_a_request_or_an_error_that_says_so(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(failure) = Command::read(&bytes) {
            prop_assert_eq!(failure.code(), 2);
            prop_assert!(failure.lines().iter().all(|line| line.starts_with("request: ")));
        }
    }

    /// A request with a byte that is another is never taken for something that cannot be written.
    #[test]
    fn a_damaged_request_is_one_or_an_error(command in command(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut line = command.to_line();
        let place = place.index(line.len());
        line[place] = byte;
        if let Ok(other) = Command::read(&line) {
            prop_assert_eq!(Command::read(&other.to_line()), Ok(other));
        }
    }

    #[test]
    fn a_reply_is_one_line_and_read_as_it_was_written(
        result in value(), error in proptest::collection::vec("[^\n\r]{1,20}", 1..4), code in 1_u8..3
    ) {
        for outcome in [Ok(result), Err(Failure::reported(code, error))] {
            let text = line(&Reply::from(outcome.clone()));
            prop_assert_eq!(text.iter().position(|byte| *byte == b'\n'), Some(text.len() - 1));
            let reply: Reply = serde_json::from_slice(&text).expect("a reply");
            prop_assert_eq!(reply.into_outcome(), outcome.map(Some));
        }
    }
}

#[test]
fn what_stands_in_requests_stays_as_it_is() {
    let written = |command: Command| String::from_utf8(command.to_line()).expect("text");
    assert_eq!(
        written(Command::Show { what: What::Ports }),
        "{\"version\":1,\"command\":\"show\",\"what\":\"ports\"}\n"
    );
    let watch = Command::read(br#"{"version":1,"command":"watch","what":["drops","sas"]}"#);
    assert_eq!(watch, Ok(Command::Watch { what: vec![What::Drops, What::Sas], every: 1000 }));
}

#[test]
fn a_daemon_that_gives_no_reason_is_an_error_all_the_same() {
    for reply in [json!({"ok": false}), json!({"ok": false, "result": 1, "code": 0})] {
        let reply: Reply = serde_json::from_value(reply).expect("a reply");
        assert_eq!(reply.into_outcome().expect_err("no result").code(), 1);
    }
}
