//! Expressions of `--match` of any content, and frames of any content that they are asked about: an expression or an error whose mark
//! lies within it, and an answer.
#![no_main]

use culvert::Failure;
use culvert::filter::{Names, compile};
use culvert_engine::drops::Reason;
use culvert_engine::trace::{Facts, Headers};
use libfuzzer_sys::fuzz_target;

/// Every name is one.
struct Any;

impl Names for Any {
    fn tunnel(&self, name: &str) -> Result<u32, String> {
        Ok(name.len() as u32)
    }

    fn port(&self, name: &str) -> Result<u16, String> {
        if name == "none" { Err("none".to_owned()) } else { Ok(name.len() as u16) }
    }

    fn drops(&self) -> Result<(), String> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, rest) = bytes.split_at(end);
    let text = String::from_utf8_lossy(text);
    match compile(&text, &Any) {
        Ok(program) => {
            let frame = rest.get(1..).unwrap_or_default();
            let forms = [Headers::of_frame(frame, frame.len()), Headers::of_packet(frame)];
            let facts = Facts { forms: &forms, tunnels: &[4], ports: &[3], dropped: Some(Reason::NoRoute) };
            program.takes(&facts);
        }
        Err(error) => {
            let shown = error.to_string();
            let [.., text, mark] = shown.lines().collect::<Vec<_>>()[..] else { panic!("{shown}") };
            assert!(mark.chars().count() <= text.chars().count() + 1);
            assert_eq!(Failure::from(error).code(), 2);
        }
    }
});
