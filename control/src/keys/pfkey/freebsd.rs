//! The kernel's own PF_KEY socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use netmap_sys::{make_room, open_key_socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{KeySocket, PfKeySource};
use crate::keys::source::Ear;

/// The PF_KEY socket of the kernel that the program runs on.
struct KernelSocket(File);

/// Follows the kernel's SAs from now on, in a thread of its own, as long as somebody listens.
///
/// # Errors
/// The kernel has no PF_KEY yet, or not for us, and it is tried again from time to time; or there is no thread.
pub fn follow(ear: Ear) -> io::Result<()> {
    let open = || open_key_socket().map(|socket| KernelSocket(File::from(socket)));
    let (source, failure) = match open().and_then(|socket| PfKeySource::new(socket, Instant::now())) {
        Ok(source) => (Some(source), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let follow = move || {
        let mut source = source.unwrap_or_else(|| PfKeySource::persist(open, thread::sleep));
        while source.step(Instant::now).into_iter().all(|change| ear.say(change)) {}
    };
    thread::Builder::new().name("keys-pfkey".to_owned()).spawn(follow)?;
    failure
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

    fn make_room(&mut self) {
        make_room(&self.0);
    }
}
