//! The methods that charon calls in place of a kernel's. Policies are none of Culvert's concern: it protects what goes into its
//! tunnels, and nothing else.

use std::ffi::{c_int, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::slice;

use std::sync::{Mutex, PoisonError};

use crate::abi::{self, AddSa, Host, HostFromSockaddr, KernelIpsec, SaId, Status, UpdateSa, UpdateSaJob};
use crate::engine::engine;
use crate::record::{Id, Sa};

/// ESP's protocol number, and IKE's numbers of the ciphers that Culvert has: AES-GCM with a 16-byte ICV, ChaCha20-Poly1305.
const ESP: u8 = 50;
const CIPHERS: [u16; 2] = [20, 28];
/// The SPIs that charon wants, in host byte order.
const SPIS: std::ops::RangeInclusive<u32> = 0xc000_0000..=0xcfff_ffff;

/// Does charon take what it is told of its SAs? Not before it has made a kernel interface of this, nor when it is about to end, which
/// waits for what is being told.
static TAKES: Mutex<bool> = Mutex::new(false);

fn set_takes(takes: bool) {
    *TAKES.lock().unwrap_or_else(PoisonError::into_inner) = takes;
}

/// The far end of the SA `id`, which comes to us, sends from `source` now. charon moves that end of its SAs, where it is behind a NAT.
pub(crate) fn mapping((spi, at): Id, source: SocketAddr) {
    let guard = TAKES.lock().unwrap_or_else(PoisonError::into_inner);
    let symbols = (abi::symbol(c"host_create_from_sockaddr"), abi::symbol(c"update_sa_job_create"));
    // An SA that charon has let go of is none that it could move; when it ends, it lets go of all before its own objects go.
    let takes = *guard && engine().is_used(spi);
    let (true, (Some(host), Some(job))) = (takes, symbols) else { return };
    // SAFETY: charon's functions of those names are of these types, in the versions that the plugin is loaded by.
    let (host, job) = unsafe {
        (
            std::mem::transmute::<*mut c_void, HostFromSockaddr>(host),
            std::mem::transmute::<*mut c_void, UpdateSaJob>(job),
        )
    };
    let [at, source] = [SocketAddr::new(at, 0), source].map(|address| made(host, address));
    // SAFETY: hosts that charon has just made, or null, each destroyed once; a job that charon has made, executed and destroyed once,
    // as a worker of its own does it. Its objects are there as long as it takes anything.
    unsafe {
        if !at.is_null() && !source.is_null() {
            let job = job(abi::PROTOCOL_ESP, spi.to_be(), at, source);
            if let Some(made) = job.as_ref() {
                (made.execute)(job);
                (made.destroy)(job);
            }
        }
        for host in [at, source] {
            if let Some(made) = host.as_ref() {
                (made.destroy)(host);
            }
        }
    }
}

/// One of charon's hosts.
fn made(make: HostFromSockaddr, address: SocketAddr) -> *mut Host {
    // SAFETY: all bytes 0 is an address of no family.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { std::mem::zeroed() };
    match address.ip() {
        IpAddr::V4(ip) => {
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = ip.to_bits().to_be();
            make(std::ptr::from_ref(&v4).cast())
        }
        IpAddr::V6(ip) => {
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = address.port().to_be();
            v6.sin6_addr.s6_addr = ip.octets();
            make(std::ptr::from_ref(&v6).cast())
        }
    }
}

/// charon's constructor of the kernel interface.
pub(crate) extern "C" fn create() -> *mut KernelIpsec {
    set_takes(true);
    Box::into_raw(Box::new(KernelIpsec {
        get_features,
        get_spi,
        get_cpi,
        add_sa,
        update_sa,
        query_sa,
        del_sa,
        flush_sas,
        add_policy,
        query_policy,
        del_policy,
        flush_policies,
        bypass_socket,
        enable_udp_decap,
        destroy,
    }))
}

extern "C" fn get_features(_this: *mut KernelIpsec) -> c_int {
    abi::ESP_V3_TFC
}

/// Without Culvert there is no SPI: an exchange that would end in an SA that nobody uses does not begin.
extern "C" fn get_spi(
    _this: *mut KernelIpsec,
    _src: *mut Host,
    _dst: *mut Host,
    _protocol: u8,
    spi: *mut u32,
) -> Status {
    if !engine().comes() {
        eprintln!("culvert plugin: Culvert is not running");
        return Status::Failed;
    }
    for _ in 0..100 {
        let mut random = [0; 4];
        // SAFETY: the buffer has as many bytes.
        if unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) } != 4 {
            break;
        }
        let candidate = SPIS.start() | (u32::from_ne_bytes(random) & (SPIS.end() - SPIS.start()));
        if !engine().is_used(candidate) {
            // SAFETY: charon passes a place for an SPI.
            unsafe { *spi = candidate.to_be() };
            return Status::Success;
        }
    }
    Status::Failed
}

extern "C" fn get_cpi(_this: *mut KernelIpsec, _src: *mut Host, _dst: *mut Host, _cpi: *mut u16) -> Status {
    Status::NotSupported
}

extern "C" fn add_sa(_this: *mut KernelIpsec, id: *const SaId, data: *const AddSa) -> Status {
    // SAFETY: charon passes both, valid for the length of the call.
    let (id, data) = unsafe { (&*id, &*data) };
    if id.proto != ESP || !CIPHERS.contains(&data.enc_alg) || data.ipcomp != 0 {
        eprintln!("culvert plugin: cipher {} (or AH, or compression) is none of Culvert's", data.enc_alg);
        return Status::NotSupported;
    }
    let (Some(src), Some(dst)) = (address(id.src), address(id.dst)) else { return Status::Failed };
    // SAFETY: charon's chunk, valid for the length of the call.
    let key = unsafe { bytes(&data.enc_key) };
    // SAFETY: null, or valid for the length of the call.
    let limits = unsafe { data.lifetime.as_ref() }.map_or([(0, 0); 3], |lifetime| {
        [&lifetime.time, &lifetime.bytes, &lifetime.packets].map(|limit| {
            // What is up to chance, charon has drawn already.
            (limit.life, limit.rekey)
        })
    });
    let added = engine().add(Sa {
        spi: u32::from_be(id.spi),
        src,
        dst,
        encap: data.encap,
        inbound: data.inbound,
        initiator: data.initiator,
        reqid: data.reqid,
        mode: u32::try_from(data.mode).unwrap_or(0),
        cipher: data.enc_alg,
        key: key.to_vec().into(),
        window: data.replay_window,
        esn: data.esn,
        limits,
    });
    if added { Status::Success } else { Status::Failed }
}

extern "C" fn update_sa(_this: *mut KernelIpsec, id: *const SaId, data: *const UpdateSa) -> Status {
    // SAFETY: charon passes both, valid for the length of the call.
    let (id, data) = unsafe { (&*id, &*data) };
    let (Some(at), Some(src), Some(dst)) = (address(id.dst), address(data.new_src), address(data.new_dst))
    else {
        return Status::Failed;
    };
    let known = engine().update((u32::from_be(id.spi), at.ip()), |sa| {
        (sa.src, sa.dst, sa.encap) = (src, dst, data.new_encap);
    });
    if known { Status::Success } else { Status::NotFound }
}

extern "C" fn query_sa(
    _this: *mut KernelIpsec,
    id: *const SaId,
    _data: *const c_void,
    bytes: *mut u64,
    packets: *mut u64,
    time: *mut libc::time_t,
) -> Status {
    // SAFETY: charon passes it, valid for the length of the call.
    let id = unsafe { &*id };
    let Some(at) = address(id.dst) else { return Status::Failed };
    let Some(found) = engine().query((u32::from_be(id.spi), at.ip())) else { return Status::NotFound };
    let last = found
        .idle
        .map_or(0, |idle| libc::time_t::try_from(idle).map_or(0, |idle| monotonic().saturating_sub(idle)));
    // SAFETY: charon passes places for what it wants to know, and null for the rest.
    unsafe {
        if let Some(bytes) = bytes.as_mut() {
            *bytes = found.bytes;
        }
        if let Some(packets) = packets.as_mut() {
            *packets = found.packets;
        }
        if let Some(time) = time.as_mut() {
            *time = last;
        }
    }
    Status::Success
}

extern "C" fn del_sa(_this: *mut KernelIpsec, id: *const SaId, _data: *const c_void) -> Status {
    // SAFETY: charon passes it, valid for the length of the call.
    let id = unsafe { &*id };
    let Some(at) = address(id.dst) else { return Status::Failed };
    if engine().remove(u32::from_be(id.spi), at.ip()) { Status::Success } else { Status::NotFound }
}

extern "C" fn flush_sas(_this: *mut KernelIpsec) -> Status {
    engine().flush();
    Status::Success
}

extern "C" fn add_policy(_this: *mut KernelIpsec, _id: *const c_void, _data: *const c_void) -> Status {
    Status::Success
}

extern "C" fn query_policy(
    _this: *mut KernelIpsec,
    _id: *const c_void,
    _data: *const c_void,
    _time: *mut libc::time_t,
) -> Status {
    Status::NotSupported
}

extern "C" fn del_policy(_this: *mut KernelIpsec, _id: *const c_void, _data: *const c_void) -> Status {
    Status::Success
}

extern "C" fn flush_policies(_this: *mut KernelIpsec) -> Status {
    Status::Success
}

extern "C" fn bypass_socket(_this: *mut KernelIpsec, _fd: c_int, _family: c_int) -> bool {
    true
}

/// Culvert takes ESP in UDP before charon's socket sees it.
extern "C" fn enable_udp_decap(_this: *mut KernelIpsec, _fd: c_int, _family: c_int, _port: u16) -> bool {
    true
}

extern "C" fn destroy(this: *mut KernelIpsec) {
    set_takes(false);
    // SAFETY: charon destroys once what `create` made of a box.
    drop(unsafe { Box::from_raw(this) });
}

/// The address and port of one of charon's hosts; `None` for one without an IP address.
fn address(host: *mut Host) -> Option<SocketAddr> {
    // SAFETY: null, or one of charon's objects, whose method returns a socket address of its family's size.
    unsafe {
        let get = host.as_ref()?.get_sockaddr;
        let address = get(host);
        match c_int::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let v4 = &*address.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                let v6 = &*address.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddr::new(IpAddr::V6(ip), u16::from_be(v6.sin6_port)))
            }
            _ => None,
        }
    }
}

/// The bytes of a chunk.
///
/// # Safety
/// The chunk is charon's, and lives as long as what is returned.
unsafe fn bytes(chunk: &abi::Chunk) -> &[u8] {
    if chunk.ptr.is_null() {
        return &[];
    }
    // SAFETY: a chunk's pointer and length belong together.
    unsafe { slice::from_raw_parts(chunk.ptr, chunk.len) }
}

/// Monotonic time in seconds, as charon counts it.
fn monotonic() -> libc::time_t {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec
}
