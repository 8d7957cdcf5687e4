//! Bytes of any content from charon: a message or an error, and what is a message is the same when written and read again.
#![no_main]

use culvert::keys::vici::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    let mut written = Vec::new();
    message.encode(&mut written).unwrap();
    assert_eq!(Message::decode(&written), Ok(message.clone()));
    // What we show and look for, of whatever there is.
    let _ = (
        message.to_swanctl(),
        message.text("version"),
        message.is_yes("success"),
        message.number("bytes-in"),
    );
    for (name, section) in message.sections() {
        assert!(message.section(name).is_some());
        let _ = (section.hex("spi-in"), section.address("local-host"), section.list("local-ts").count());
    }
});
