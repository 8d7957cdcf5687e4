//! The kernel's own PF_KEY socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use netmap_sys::open_key_socket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{KeySocket, PfKeySource};
use crate::keys::source::Ear;

/// Bytes of room for messages that wait, in place of the 8192 that are given otherwise; `kern.ipc.maxsockbuf` allows 2 MiB by default.
const RECEIVE_BUFFER: i32 = 1 << 20;

/// The PF_KEY socket of the kernel that the program runs on.
struct KernelSocket(File);

/// Follows the kernel's SAs from now on, in a thread of its own, as long as somebody listens.
///
/// # Errors
/// The kernel has no PF_KEY, or not for us; or there is no thread.
pub fn follow(ear: Ear) -> io::Result<()> {
    let socket = KernelSocket(File::from(open_key_socket(RECEIVE_BUFFER)?));
    let mut source = PfKeySource::new(socket, Instant::now())?;
    let follow = move || while source.step(Instant::now).into_iter().all(|change| ear.say(change)) {};
    thread::Builder::new().name("keys-pfkey".to_owned()).spawn(follow).map(drop)
}

impl KeySocket for KernelSocket {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.0.write_all(message)
    }

    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        let mut waited = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // Rounded up, so as not to look in vain.
        let patience =
            PollTimeout::try_from(patience + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        // Whatever it says: what there is is looked for.
        let _ = poll(&mut waited, patience);
        self.0.read(buffer)
    }
}
