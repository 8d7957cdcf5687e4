//! Lines of any content from charon's plugin: something is said, or why it is not understood. Whatever is said of an SA can be done.
#![no_main]

use culvert::config::Suite;
use culvert::keys::plugin::{self, Line};
use culvert::keys::sa::Change;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for line in text.split_inclusive('\n') {
        match plugin::parse(line) {
            Ok(Line::Say(Change::Added(sa) | Change::Found(sa))) => {
                assert!(sa.direction.is_some());
                assert_eq!(sa.key.expose().len(), sa.suite.key_len() + Suite::SALT_LEN);
                assert_eq!(sa.id.at, sa.ends.destination);
            }
            Ok(Line::Say(_) | Line::Query(_) | Line::Listen) => assert!(line.ends_with('\n')),
            Err(why) => assert!(!why.is_empty()),
        }
    }
});
