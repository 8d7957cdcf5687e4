//! The `culvert` binary: runs the command, shows what went wrong, and ends with the exit code that goes with it.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use culvert_engine::ring::HugePages;

/// What packets look at lies in huge pages, as far as there are any.
#[global_allocator]
static ALLOCATOR: HugePages = HugePages;

fn main() -> ExitCode {
    match culvert::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where standard error is closed as well, nobody is left to be told.
            drop(failure.write(&mut io::stderr().lock()));
            ExitCode::from(failure.code())
        }
    }
}
