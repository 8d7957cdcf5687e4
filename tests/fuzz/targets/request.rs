//! Requests to the daemon of any content: a command or an error, and what is a command is the same when written and read again.
#![no_main]

use culvert::api::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match Command::read(bytes) {
    Ok(command) => {
        let line = command.to_line();
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        assert_eq!(Command::read(&line), Ok(command));
    }
    Err(failure) => {
        assert_eq!(failure.code(), 2);
        assert!(failure.lines().iter().all(|line| line.starts_with("request: ")));
    }
});
