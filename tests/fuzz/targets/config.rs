//! Configuration files of any content: a configuration or errors, never a panic, and never a key in a message.
#![no_main]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use culvert::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("culvert-fuzz-config-{}.toml", std::process::id()));
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.unwrap().write_all(bytes).unwrap();
    match Config::load(&path) {
        Ok((config, warnings)) => drop(format!("{config:?} {}", warnings.len())),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
