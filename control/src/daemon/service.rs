//! The daemon as the system's service: the signals that end it, and word to the service manager that it is ready.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::bell::Bell;
use super::log;

/// Signals that end the daemon, held back from all threads.
pub(super) struct Signals(SigSet);

impl Signals {
    /// Holds them back from this thread, and from those that it starts from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn hold() -> io::Result<Signals> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        Ok(Signals(signals))
    }

    /// From here on, each of them sets `stop` and rings; SIGHUP sets `reload`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn deliver(
        self,
        stop: Arc<AtomicBool>,
        reload: Arc<AtomicBool>,
        bell: Arc<Bell>,
    ) -> io::Result<()> {
        let wait = move || {
            loop {
                let signal = self.0.wait();
                match &signal {
                    Ok(Signal::SIGHUP) => {}
                    Ok(signal) => log::info(format_args!("ends, on {signal}")),
                    Err(error) => log::info(format_args!("ends, as signals cannot be waited for: {error}")),
                }
                let flag = if signal == Ok(Signal::SIGHUP) { &reload } else { &stop };
                flag.store(true, Ordering::Relaxed);
                bell.ring();
                if signal.is_err() {
                    return;
                }
            }
        };
        // It waits as long as the process lives; the process does not wait for it.
        thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
    }
}

/// Tells the service manager that the daemon is ready, where one asked for it (sd_notify(3), `NOTIFY_SOCKET`).
pub(super) fn notify_ready() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = notify(&name) {
        log::warn(format_args!("the service manager cannot be told: {}: {error}", name.to_string_lossy()));
    }
}

fn notify(name: &std::ffi::OsStr) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let message = b"READY=1\n";
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(name).strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return socket.send_to_addr(message, &address).map(drop);
    }
    socket.send_to(message, name).map(drop)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn the_service_manager_is_told() {
        let path = std::env::temp_dir().join(format!("culvert-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).expect("a socket");
        notify(path.as_os_str()).expect("it is there");
        let mut told = [0; 16];
        let length = manager.recv(&mut told).expect("a message");
        std::fs::remove_file(&path).expect("ours");
        assert_eq!(told[..length], *b"READY=1\n");
        assert!(notify(OsStr::new("/nonexistent/notify")).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_service_manager_without_a_file_is_told() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("culvert-notify-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        notify(OsStr::new(&format!("@{name}"))).expect("it is there");
        let mut told = [0; 16];
        assert_eq!(manager.recv(&mut told).expect("a message"), 8);
    }
}
