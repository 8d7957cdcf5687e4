//! strongSwan's structures, as far as they are touched here: methods are function pointers at the head of an object.
//!
//! They are those of strongSwan 5.9.6 to 6.0.1 (`src/libcharon/kernel/kernel_ipsec.h`, `src/libstrongswan/plugins/plugin.h`,
//! `plugin_feature.h`, `networking/host.h`, `ipsec/ipsec_types.h`): the offsets are equal in all of these. 5.9.6 numbers the
//! kinds of features anew, 6.0.2 puts fields into [`AddSa`], and from 6.0.3 on charon itself refuses a plugin that was not
//! made for its very version.

use std::ffi::{CStr, c_char, c_int, c_void};

/// What a method returns: `SUCCESS`, `FAILED`, `NOT_SUPPORTED` and `NOT_FOUND` of `status_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum Status {
    /// Done.
    Success = 0,
    /// Not done.
    Failed = 1,
    /// Never done.
    NotSupported = 4,
    /// There is no such thing.
    NotFound = 6,
}

/// `KERNEL_ESP_V3_TFC`: padding for traffic flow confidentiality is understood. Nothing else is promised; above all not
/// `KERNEL_POLICY_SPI`, so that a responder's outbound SA comes when it is time to send with it.
pub const ESP_V3_TFC: c_int = 1;

/// `plugin_t`.
#[repr(C)]
pub struct Plugin {
    /// The plugin's name.
    pub get_name: extern "C" fn(*mut Plugin) -> *const c_char,
    /// Its features; returns how many.
    pub get_features: extern "C" fn(*mut Plugin, *mut *mut Feature) -> c_int,
    /// Reads its settings again.
    pub reload: extern "C" fn(*mut Plugin) -> bool,
    /// Ends it.
    pub destroy: extern "C" fn(*mut Plugin),
}

/// `plugin_feature_t`: a kind, a type, and a union of which two pointers are the largest member.
#[repr(C)]
pub struct Feature {
    kind: c_int,
    of: c_int,
    argument: [*mut c_void; 2],
}

/// `FEATURE_PROVIDE`, `FEATURE_CALLBACK`; `FEATURE_NONE` and `FEATURE_CUSTOM` since 5.9.6.
const PROVIDE: c_int = 0;
const CALLBACK: c_int = 4;
const NONE: c_int = 0;
const CUSTOM: c_int = 30;

impl Feature {
    /// The features that follow are registered by `function`, which is given `data`.
    pub fn callback(function: *mut c_void, data: *mut c_void) -> Feature {
        Feature { kind: CALLBACK, of: NONE, argument: [function, data] }
    }

    /// A feature that is known by its name.
    pub fn provide_custom(name: *const c_char) -> Feature {
        Feature { kind: PROVIDE, of: CUSTOM, argument: [name.cast_mut().cast(), std::ptr::null_mut()] }
    }
}

/// `host_t`: an address and a port.
#[repr(C)]
pub struct Host {
    clone: *const c_void,
    /// The address as the system has it; never null.
    pub get_sockaddr: extern "C" fn(*mut Host) -> *const libc::sockaddr,
    others: [*const c_void; 8],
    /// Ends it.
    pub destroy: extern "C" fn(*mut Host),
}

/// `job_t`: something to be done by charon, once.
#[repr(C)]
pub struct Job {
    status: c_int,
    /// Does it.
    pub execute: extern "C" fn(*mut Job) -> Requeue,
    others: [*const c_void; 2],
    /// Ends it.
    pub destroy: extern "C" fn(*mut Job),
}

/// `job_requeue_t`: whether to do it again, and when.
#[repr(C)]
pub struct Requeue {
    kind: c_int,
    schedule: c_int,
    time: libc::timeval,
}

/// `PROTO_ESP`.
pub const PROTOCOL_ESP: c_int = 3;

/// `host_create_from_sockaddr`.
pub type HostFromSockaddr = extern "C" fn(*const libc::sockaddr) -> *mut Host;
/// `update_sa_job_create`: for the SA of that protocol and SPI (network byte order) at that host, whose far end is at the other host now.
/// What a kernel's IPsec has charon do when it tells of a NAT's new mapping. The hosts stay the caller's.
pub type UpdateSaJob = extern "C" fn(c_int, u32, *mut Host, *mut Host) -> *mut Job;

/// `chunk_t`.
#[repr(C)]
pub struct Chunk {
    /// Where the bytes are.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

/// `mark_t`.
#[repr(C)]
pub struct Mark {
    value: u32,
    mask: u32,
}

/// One limit of `lifetime_cfg_t`; 0 for none.
#[repr(C)]
pub struct Limit {
    /// The SA ends.
    pub life: u64,
    /// It is time for a rekey.
    pub rekey: u64,
    /// Up to so much earlier.
    pub jitter: u64,
}

/// `lifetime_cfg_t`.
#[repr(C)]
pub struct Lifetime {
    /// Seconds.
    pub time: Limit,
    /// Bytes.
    pub bytes: Limit,
    /// Packets.
    pub packets: Limit,
}

/// `kernel_ipsec_sa_id_t`.
#[repr(C)]
pub struct SaId {
    /// Where its packets come from.
    pub src: *mut Host,
    /// Where they go.
    pub dst: *mut Host,
    /// In network byte order.
    pub spi: u32,
    /// 50 for ESP.
    pub proto: u8,
    mark: Mark,
    if_id: u32,
}

/// `kernel_ipsec_add_sa_t`.
#[repr(C)]
pub struct AddSa {
    /// The number that the configuration gives SAs that belong together.
    pub reqid: u32,
    /// 1 for transport, 2 for tunnel mode.
    pub mode: c_int,
    src_ts: *const c_void,
    dst_ts: *const c_void,
    interface: *const c_char,
    /// Its limits; may be null.
    pub lifetime: *const Lifetime,
    /// By its number in IKE.
    pub enc_alg: u16,
    /// The cipher key, with the salt behind it.
    pub enc_key: Chunk,
    /// By its number in IKE; 0 or 1024 beside an AEAD.
    pub int_alg: u16,
    int_key: Chunk,
    /// In packets.
    pub replay_window: u32,
    tfc: u32,
    /// 0 for none.
    pub ipcomp: u16,
    cpi: u16,
    /// Its packets go in UDP, between the ports of the two hosts.
    pub encap: bool,
    hw_offload: c_int,
    mark: Mark,
    label: *const c_void,
    /// Its sequence numbers have 64 bits.
    pub esn: bool,
    copy_df: bool,
    copy_ecn: bool,
    copy_dscp: c_int,
    /// We began the exchange that it is from.
    pub initiator: bool,
    /// Its packets come to us.
    pub inbound: bool,
    /// Its SPI is one that `get_spi` gave.
    pub update: bool,
}

/// `kernel_ipsec_update_sa_t`.
#[repr(C)]
pub struct UpdateSa {
    cpi: u16,
    /// Where its packets come from now.
    pub new_src: *mut Host,
    /// Where they go now.
    pub new_dst: *mut Host,
    encap: bool,
    /// They go in UDP now.
    pub new_encap: bool,
    new_reqid: u32,
}

/// `kernel_ipsec_t`.
#[repr(C)]
pub struct KernelIpsec {
    /// What it can do.
    pub get_features: extern "C" fn(*mut KernelIpsec) -> c_int,
    /// A new SPI, in network byte order.
    pub get_spi: extern "C" fn(*mut KernelIpsec, *mut Host, *mut Host, u8, *mut u32) -> Status,
    /// A new CPI, for compression.
    pub get_cpi: extern "C" fn(*mut KernelIpsec, *mut Host, *mut Host, *mut u16) -> Status,
    /// Installs an SA.
    pub add_sa: extern "C" fn(*mut KernelIpsec, *const SaId, *const AddSa) -> Status,
    /// The ends of an SA have changed.
    pub update_sa: extern "C" fn(*mut KernelIpsec, *const SaId, *const UpdateSa) -> Status,
    /// Bytes, packets, and the monotonic time in seconds of the last.
    pub query_sa: extern "C" fn(
        *mut KernelIpsec,
        *const SaId,
        *const c_void,
        *mut u64,
        *mut u64,
        *mut libc::time_t,
    ) -> Status,
    /// Takes an SA away.
    pub del_sa: extern "C" fn(*mut KernelIpsec, *const SaId, *const c_void) -> Status,
    /// Takes all away.
    pub flush_sas: extern "C" fn(*mut KernelIpsec) -> Status,
    /// Installs a policy.
    pub add_policy: extern "C" fn(*mut KernelIpsec, *const c_void, *const c_void) -> Status,
    /// When a policy was last used.
    pub query_policy:
        extern "C" fn(*mut KernelIpsec, *const c_void, *const c_void, *mut libc::time_t) -> Status,
    /// Takes a policy away.
    pub del_policy: extern "C" fn(*mut KernelIpsec, *const c_void, *const c_void) -> Status,
    /// Takes all away.
    pub flush_policies: extern "C" fn(*mut KernelIpsec) -> Status,
    /// IKE's socket is to pass in clear.
    pub bypass_socket: extern "C" fn(*mut KernelIpsec, c_int, c_int) -> bool,
    /// ESP in UDP to this socket is to be taken out of it.
    pub enable_udp_decap: extern "C" fn(*mut KernelIpsec, c_int, c_int, u16) -> bool,
    /// Ends it.
    pub destroy: extern "C" fn(*mut KernelIpsec),
}

/// Something that charon or a library of it exports.
pub fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `name` ends with a NUL; looking for a symbol changes nothing.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// Are the structures of the strongSwan around us those of this module? Its version cannot be asked for, but each change left
/// its mark among the symbols.
///
/// # Errors
/// They are not, in words.
pub fn is_known() -> Result<(), &'static str> {
    if symbol(c"key_derivation_function_names").is_none() {
        return Err("this strongSwan is older than 5.9.6");
    }
    if symbol(c"kernel_acquire_data_clone").is_some() {
        return Err("this strongSwan is newer than 6.0.1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// As a C compiler lays them out on x86-64, from the headers of 5.9.8 and of 6.0.1.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn layouts() {
        assert_eq!(size_of::<Feature>(), 24);
        assert_eq!((offset_of!(SaId, spi), offset_of!(SaId, proto), size_of::<SaId>()), (16, 20, 40));
        assert_eq!(offset_of!(AddSa, lifetime), 32);
        assert_eq!(offset_of!(AddSa, enc_alg), 40);
        assert_eq!(offset_of!(AddSa, enc_key), 48);
        assert_eq!(offset_of!(AddSa, int_alg), 64);
        assert_eq!(offset_of!(AddSa, replay_window), 88);
        assert_eq!(offset_of!(AddSa, ipcomp), 96);
        assert_eq!(offset_of!(AddSa, encap), 100);
        assert_eq!(offset_of!(AddSa, esn), 128);
        assert_eq!(offset_of!(AddSa, initiator), 136);
        assert_eq!(offset_of!(AddSa, update), 138);
        assert_eq!(size_of::<AddSa>(), 144);
        assert_eq!((offset_of!(Host, destroy), size_of::<Requeue>()), (80, 24));
        assert_eq!((offset_of!(Job, execute), offset_of!(Job, destroy)), (8, 32));
        assert_eq!((offset_of!(UpdateSa, new_src), offset_of!(UpdateSa, new_encap)), (8, 25));
        assert_eq!(size_of::<KernelIpsec>(), 15 * 8);
        assert_eq!(size_of::<Lifetime>(), 72);
    }

    #[test]
    fn outside_charon_it_declines() {
        assert!(is_known().is_err());
        assert!(crate::culvert_plugin_create().is_null());
    }
}
