//! Why an AF_XDP port was not opened, with what to do about it.

use std::io;
use std::net::IpAddr;

use crate::ring::region::RegionError;

/// Why an AF_XDP port was not opened, or could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The region's buffers do not fit AF_XDP.
    #[error("AF_XDP takes buffers of 2048 or 4096 bytes, not of {size}")]
    BufferSize {
        /// Bytes in a buffer of the region.
        size: u32,
    },
    /// There is no interface of that name.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// The name.
        interface: String,
    },
    /// The interface has no Ethernet addresses.
    #[error("{interface} is not an Ethernet interface")]
    NotEthernet {
        /// The interface.
        interface: String,
    },
    /// Frames can be longer than a buffer has room for.
    #[error("the MTU of {interface} is {mtu}, and the buffers have room for {most}: lower it (ip link set {interface} mtu {most}){}", if *.most < 2048 { ", or use buffers of 4096 bytes" } else { "" })]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU, bytes.
        mtu: u32,
        /// The largest that fits.
        most: u32,
    },
    /// The interface spreads packets over another number of queues than were asked for.
    #[error(
        "{interface} receives on {has} queues, not {wanted}: open all of them, or set the number (ethtool -L {interface} combined {wanted})"
    )]
    Queues {
        /// The interface.
        interface: String,
        /// Queues it receives on.
        has: u32,
        /// Queues asked for.
        wanted: u32,
    },
    /// Another program holds the queue.
    #[error(
        "queue {queue} of {interface} is in use by another AF_XDP socket: stop the program that holds it"
    )]
    QueueBusy {
        /// The interface.
        interface: String,
        /// The queue, counted from 0.
        queue: u32,
    },
    /// Another XDP program is attached.
    #[error(
        "another XDP program is attached to {interface}: detach it first (ip link show {interface}; bpftool net)"
    )]
    ProgramAttached {
        /// The interface.
        interface: String,
    },
    /// The process may not do this.
    #[error("not permitted while {what}: run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF")]
    Permission {
        /// What was being done.
        what: &'static str,
    },
    /// The locked memory of the process is limited.
    #[error(
        "the buffers are more memory than may be locked: raise the limit (ulimit -l; LimitMEMLOCK= of the service)"
    )]
    LockedMemory,
    /// The kernel was built without AF_XDP.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)")]
    Unsupported,
    /// The kernel did not accept the program.
    #[error("the kernel refuses the steering program ({source}); its verifier says:\n{log}")]
    Program {
        /// The system's reason.
        source: io::Error,
        /// The verifier's log.
        log: String,
    },
    /// A prefix longer than its address.
    #[error("{address}/{length} is no prefix")]
    Prefix {
        /// The address.
        address: IpAddr,
        /// Bits.
        length: u8,
    },
    /// The region has too few rings or buffers left.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Anything else that the system refuses.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl XdpError {
    pub(super) fn system(what: &'static str, source: io::Error) -> XdpError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => XdpError::Permission { what },
            _ => XdpError::System { what, source },
        }
    }
}

/// What keeps a socket from a queue.
pub(super) fn of_socket(source: io::Error, interface: &str, queue: u32) -> XdpError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => XdpError::QueueBusy { interface: interface.to_owned(), queue },
        Some(libc::EAFNOSUPPORT) => XdpError::Unsupported,
        Some(libc::ENOBUFS) => XdpError::LockedMemory,
        Some(libc::ENODEV) => XdpError::NoInterface { interface: interface.to_owned() },
        _ => XdpError::system("opening an AF_XDP socket", source),
    }
}
