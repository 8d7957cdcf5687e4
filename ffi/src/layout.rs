//! Every structure of this crate with the numbers that C gives it, and every constant: the one list behind two
//! comparisons. The compiler refuses to build where a Rust structure differs from the list, and the example
//! `layout-assertions` prints the list as C assertions, which a C compiler compares with the real headers.

use core::mem::offset_of;

use crate::{carp, interface, ioctl, option, pfkey, request, ring, route, xfrm};

/// A structure as C lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// Its name in C, after `struct`.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Bytes.
    pub align: usize,
    /// All fields but those that only spell out C's padding.
    pub fields: &'static [Field],
}

/// A field of a structure.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in C.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
}

/// A constant: a macro or an enumerator in C.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Its name in C.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
}

/// An ioctl number, which depends on the system.
#[derive(Clone, Copy, Debug)]
pub struct Ioctl {
    /// Its name in C.
    pub name: &'static str,
    /// Its value on FreeBSD.
    pub freebsd: u32,
    /// Its value on Linux, in the encoding of `<asm-generic/ioctl.h>`.
    pub linux: u32,
}

/// Every constant, by the module that defines it.
pub const CONSTANTS: &[&[Constant]] = &[ring::CONSTANTS, request::CONSTANTS, option::CONSTANTS];

/// Every constant that FreeBSD alone has.
pub const FREEBSD_CONSTANTS: &[&[Constant]] =
    &[route::CONSTANTS, interface::freebsd::CONSTANTS, pfkey::CONSTANTS, carp::CONSTANTS];

/// Every constant that Linux alone has.
pub const LINUX_CONSTANTS: &[&[Constant]] = &[interface::linux::CONSTANTS, xfrm::CONSTANTS];

/// Every ioctl number.
pub const IOCTLS: &[Ioctl] = ioctl::IOCTLS;

/// Every ioctl number that FreeBSD alone has, by the module that defines it.
pub const FREEBSD_IOCTLS: &[&[Ioctl]] = &[interface::FREEBSD_IOCTLS, carp::FREEBSD_IOCTLS];

/// First the name of the list. Then `struct NAME: SIZE, align ALIGN { FIELD: START..END, .. }`, then `padding { .. }` for fields that C does not name. Asserts the
/// numbers, and that no field is missing from the list.
macro_rules! structs {
    ($(#[$attribute:meta])* $list:ident: $(struct $name:ident: $size:literal, align $align:literal {
        $($field:ident: $start:literal..$end:literal),+ $(,)?
    } $(padding { $($pad:ident: $pad_start:literal..$pad_end:literal),+ $(,)? })?)+) => {
        $(#[$attribute])*
        pub const $list: &[Struct] = &[$(Struct {
            name: stringify!($name),
            size: $size,
            align: $align,
            fields: &[$(Field { name: stringify!($field), offset: $start, size: $end - $start }),+],
        }),+];

        $(const _: () = {
            use crate::$name;
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == $align);
            structs!(@fields $name $($field: $start..$end),+ $(, $($pad: $pad_start..$pad_end),+)?);
        };)+
    };
    (@fields $name:ident $($field:ident: $start:literal..$end:literal),+) => {
        $(assert!(offset_of!($name, $field) == $start);
        assert!(size_of_field(|it: &$name| &it.$field) == $end - $start);)+
        let _: fn(&$name) = |$name { $($field: _),+ }| ();
    };
}

/// Bytes of the field that the accessor returns; the accessor is not called.
const fn size_of_field<S, F>(_accessor: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

structs! {
    /// Every structure that both systems have.
    STRUCTS:
    struct netmap_slot: 16, align 8 {
        buf_idx: 0..4,
        len: 4..6,
        flags: 6..8,
        ptr: 8..16,
    }
    struct timeval: 16, align 8 {
        tv_sec: 0..8,
        tv_usec: 8..16,
    }
    struct netmap_ring: 256, align 128 {
        buf_ofs: 0..8,
        num_slots: 8..12,
        nr_buf_size: 12..16,
        ringid: 16..18,
        dir: 18..20,
        head: 20..24,
        cur: 24..28,
        tail: 28..32,
        flags: 32..36,
        ts: 40..56,
        offset_mask: 56..64,
        buf_align: 64..72,
        sem: 128..256,
        slot: 256..256,
    } padding {
        pad0: 36..40,
        pad1: 72..128,
    }
    struct netmap_if: 56, align 8 {
        ni_name: 0..16,
        ni_version: 16..20,
        ni_flags: 20..24,
        ni_tx_rings: 24..28,
        ni_rx_rings: 28..32,
        ni_bufs_head: 32..36,
        ni_host_tx_rings: 36..40,
        ni_host_rx_rings: 40..44,
        ni_spare1: 44..56,
        ring_ofs: 56..56,
    }
    struct nmreq_header: 88, align 8 {
        nr_version: 0..2,
        nr_reqtype: 2..4,
        nr_reserved: 4..8,
        nr_name: 8..72,
        nr_options: 72..80,
        nr_body: 80..88,
    }
    struct nmreq_register: 56, align 8 {
        nr_offset: 0..8,
        nr_memsize: 8..16,
        nr_tx_slots: 16..20,
        nr_rx_slots: 20..24,
        nr_tx_rings: 24..26,
        nr_rx_rings: 26..28,
        nr_host_tx_rings: 28..30,
        nr_host_rx_rings: 30..32,
        nr_mem_id: 32..34,
        nr_ringid: 34..36,
        nr_mode: 36..40,
        nr_extra_bufs: 40..44,
        nr_flags: 48..56,
    } padding {
        pad0: 44..48,
    }
    struct nmreq_port_info_get: 32, align 8 {
        nr_memsize: 0..8,
        nr_tx_slots: 8..12,
        nr_rx_slots: 12..16,
        nr_tx_rings: 16..18,
        nr_rx_rings: 18..20,
        nr_host_tx_rings: 20..22,
        nr_host_rx_rings: 22..24,
        nr_mem_id: 24..26,
        pad: 26..32,
    }
    struct nmreq_pools_info: 64, align 8 {
        nr_memsize: 0..8,
        nr_mem_id: 8..10,
        pad1: 10..16,
        nr_if_pool_offset: 16..24,
        nr_if_pool_objtotal: 24..28,
        nr_if_pool_objsize: 28..32,
        nr_ring_pool_offset: 32..40,
        nr_ring_pool_objtotal: 40..44,
        nr_ring_pool_objsize: 44..48,
        nr_buf_pool_offset: 48..56,
        nr_buf_pool_objtotal: 56..60,
        nr_buf_pool_objsize: 60..64,
    }
    struct nmreq_option: 24, align 8 {
        nro_next: 0..8,
        nro_reqtype: 8..12,
        nro_status: 12..16,
        nro_size: 16..24,
    }
    struct nmreq_opt_offsets: 56, align 8 {
        nro_opt: 0..24,
        nro_max_offset: 24..32,
        nro_initial_offset: 32..40,
        nro_offset_bits: 40..44,
        nro_tx_align: 44..48,
        nro_min_gap: 48..56,
    }
    struct nmreq_opt_extmem: 96, align 8 {
        nro_opt: 0..24,
        nro_usrptr: 24..32,
        nro_info: 32..96,
    }
}

structs! {
    /// Every structure that FreeBSD alone has, or lays out in its own way.
    FREEBSD_STRUCTS:
    struct ifreq: 32, align 8 {
        ifr_name: 0..16,
        ifr_reqcap: 16..20,
        ifr_curcap: 20..24,
    } padding {
        pad0: 24..32,
    }
    struct carpreq: 40, align 4 {
        carpr_count: 0..4,
        carpr_vhid: 4..8,
        carpr_state: 8..12,
        carpr_advskew: 12..16,
        carpr_advbase: 16..20,
        carpr_key: 20..40,
    }
    struct rt_metrics: 112, align 8 {
        rmx_locks: 0..8,
        rmx_mtu: 8..16,
        rmx_hopcount: 16..24,
        rmx_expire: 24..32,
        rmx_recvpipe: 32..40,
        rmx_sendpipe: 40..48,
        rmx_ssthresh: 48..56,
        rmx_rtt: 56..64,
        rmx_rttvar: 64..72,
        rmx_pksent: 72..80,
        rmx_weight: 80..88,
        rmx_nhidx: 88..96,
        rmx_filler: 96..112,
    }
    struct rt_msghdr: 152, align 8 {
        rtm_msglen: 0..2,
        rtm_version: 2..3,
        rtm_type: 3..4,
        rtm_index: 4..6,
        _rtm_spare1: 6..8,
        rtm_flags: 8..12,
        rtm_addrs: 12..16,
        rtm_pid: 16..20,
        rtm_seq: 20..24,
        rtm_errno: 24..28,
        rtm_fmask: 28..32,
        rtm_inits: 32..40,
        rtm_rmx: 40..152,
    }
    struct if_data: 152, align 8 {
        ifi_type: 0..1,
        ifi_physical: 1..2,
        ifi_addrlen: 2..3,
        ifi_hdrlen: 3..4,
        ifi_link_state: 4..5,
        ifi_vhid: 5..6,
        ifi_datalen: 6..8,
        ifi_mtu: 8..12,
        ifi_metric: 12..16,
        ifi_baudrate: 16..24,
        ifi_ipackets: 24..32,
        ifi_ierrors: 32..40,
        ifi_opackets: 40..48,
        ifi_oerrors: 48..56,
        ifi_collisions: 56..64,
        ifi_ibytes: 64..72,
        ifi_obytes: 72..80,
        ifi_imcasts: 80..88,
        ifi_omcasts: 88..96,
        ifi_iqdrops: 96..104,
        ifi_oqdrops: 104..112,
        ifi_noproto: 112..120,
        ifi_hwassist: 120..128,
        __ifi_epoch: 128..136,
        __ifi_lastchange: 136..152,
    }
    struct if_msghdrl: 176, align 8 {
        ifm_msglen: 0..2,
        ifm_version: 2..3,
        ifm_type: 3..4,
        ifm_addrs: 4..8,
        ifm_flags: 8..12,
        ifm_index: 12..14,
        _ifm_spare1: 14..16,
        ifm_len: 16..18,
        ifm_data_off: 18..20,
        _ifm_spare2: 20..24,
        ifm_data: 24..176,
    }
    struct ifa_msghdrl: 176, align 8 {
        ifam_msglen: 0..2,
        ifam_version: 2..3,
        ifam_type: 3..4,
        ifam_addrs: 4..8,
        ifam_flags: 8..12,
        ifam_index: 12..14,
        _ifam_spare1: 14..16,
        ifam_len: 16..18,
        ifam_data_off: 18..20,
        ifam_metric: 20..24,
        ifam_data: 24..176,
    }
    struct sockaddr_in: 16, align 4 {
        sin_len: 0..1,
        sin_family: 1..2,
        sin_port: 2..4,
        sin_addr: 4..8,
        sin_zero: 8..16,
    }
    struct sockaddr_in6: 28, align 4 {
        sin6_len: 0..1,
        sin6_family: 1..2,
        sin6_port: 2..4,
        sin6_flowinfo: 4..8,
        sin6_addr: 8..24,
        sin6_scope_id: 24..28,
    }
    struct sockaddr_dl: 54, align 2 {
        sdl_len: 0..1,
        sdl_family: 1..2,
        sdl_index: 2..4,
        sdl_type: 4..5,
        sdl_nlen: 5..6,
        sdl_alen: 6..7,
        sdl_slen: 7..8,
        sdl_data: 8..54,
    }
    struct sadb_msg: 16, align 4 {
        sadb_msg_version: 0..1,
        sadb_msg_type: 1..2,
        sadb_msg_errno: 2..3,
        sadb_msg_satype: 3..4,
        sadb_msg_len: 4..6,
        sadb_msg_reserved: 6..8,
        sadb_msg_seq: 8..12,
        sadb_msg_pid: 12..16,
    }
    struct sadb_ext: 4, align 2 {
        sadb_ext_len: 0..2,
        sadb_ext_type: 2..4,
    }
    struct sadb_sa: 16, align 4 {
        sadb_sa_len: 0..2,
        sadb_sa_exttype: 2..4,
        sadb_sa_spi: 4..8,
        sadb_sa_replay: 8..9,
        sadb_sa_state: 9..10,
        sadb_sa_auth: 10..11,
        sadb_sa_encrypt: 11..12,
        sadb_sa_flags: 12..16,
    }
    struct sadb_lifetime: 32, align 8 {
        sadb_lifetime_len: 0..2,
        sadb_lifetime_exttype: 2..4,
        sadb_lifetime_allocations: 4..8,
        sadb_lifetime_bytes: 8..16,
        sadb_lifetime_addtime: 16..24,
        sadb_lifetime_usetime: 24..32,
    }
    struct sadb_address: 8, align 2 {
        sadb_address_len: 0..2,
        sadb_address_exttype: 2..4,
        sadb_address_proto: 4..5,
        sadb_address_prefixlen: 5..6,
        sadb_address_reserved: 6..8,
    }
    struct sadb_key: 8, align 2 {
        sadb_key_len: 0..2,
        sadb_key_exttype: 2..4,
        sadb_key_bits: 4..6,
        sadb_key_reserved: 6..8,
    }
    struct sadb_x_sa2: 16, align 4 {
        sadb_x_sa2_len: 0..2,
        sadb_x_sa2_exttype: 2..4,
        sadb_x_sa2_mode: 4..5,
        sadb_x_sa2_reserved1: 5..6,
        sadb_x_sa2_reserved2: 6..8,
        sadb_x_sa2_sequence: 8..12,
        sadb_x_sa2_reqid: 12..16,
    }
    struct sadb_x_nat_t_type: 8, align 2 {
        sadb_x_nat_t_type_len: 0..2,
        sadb_x_nat_t_type_exttype: 2..4,
        sadb_x_nat_t_type_type: 4..5,
        sadb_x_nat_t_type_reserved: 5..8,
    }
    struct sadb_x_nat_t_port: 8, align 2 {
        sadb_x_nat_t_port_len: 0..2,
        sadb_x_nat_t_port_exttype: 2..4,
        sadb_x_nat_t_port_port: 4..6,
        sadb_x_nat_t_port_reserved: 6..8,
    }
    struct sadb_x_sa_replay: 8, align 4 {
        sadb_x_sa_replay_len: 0..2,
        sadb_x_sa_replay_exttype: 2..4,
        sadb_x_sa_replay_replay: 4..8,
    }
}

structs! {
    /// Every structure that Linux alone has.
    LINUX_STRUCTS:
    struct ethtool_value: 8, align 4 {
        cmd: 0..4,
        data: 4..8,
    }
    struct ethtool_drvinfo: 196, align 4 {
        cmd: 0..4,
        driver: 4..36,
        version: 36..68,
        fw_version: 68..100,
        bus_info: 100..132,
        erom_version: 132..164,
        reserved2: 164..176,
        n_priv_flags: 176..180,
        n_stats: 180..184,
        testinfo_len: 184..188,
        eedump_len: 188..192,
        regdump_len: 192..196,
    }
    struct xfrm_selector: 56, align 4 {
        daddr: 0..16,
        saddr: 16..32,
        dport: 32..34,
        dport_mask: 34..36,
        sport: 36..38,
        sport_mask: 38..40,
        family: 40..42,
        prefixlen_d: 42..43,
        prefixlen_s: 43..44,
        proto: 44..45,
        ifindex: 48..52,
        user: 52..56,
    } padding {
        pad0: 45..48,
    }
    struct xfrm_id: 24, align 4 {
        daddr: 0..16,
        spi: 16..20,
        proto: 20..21,
    } padding {
        pad0: 21..24,
    }
    struct xfrm_lifetime_cfg: 64, align 8 {
        soft_byte_limit: 0..8,
        hard_byte_limit: 8..16,
        soft_packet_limit: 16..24,
        hard_packet_limit: 24..32,
        soft_add_expires_seconds: 32..40,
        hard_add_expires_seconds: 40..48,
        soft_use_expires_seconds: 48..56,
        hard_use_expires_seconds: 56..64,
    }
    struct xfrm_lifetime_cur: 32, align 8 {
        bytes: 0..8,
        packets: 8..16,
        add_time: 16..24,
        use_time: 24..32,
    }
    struct xfrm_stats: 12, align 4 {
        replay_window: 0..4,
        replay: 4..8,
        integrity_failed: 8..12,
    }
    struct xfrm_usersa_info: 224, align 8 {
        sel: 0..56,
        id: 56..80,
        saddr: 80..96,
        lft: 96..160,
        curlft: 160..192,
        stats: 192..204,
        seq: 204..208,
        reqid: 208..212,
        family: 212..214,
        mode: 214..215,
        replay_window: 215..216,
        flags: 216..217,
    } padding {
        pad0: 217..224,
    }
    struct xfrm_usersa_id: 24, align 4 {
        daddr: 0..16,
        spi: 16..20,
        family: 20..22,
        proto: 22..23,
    } padding {
        pad0: 23..24,
    }
    struct xfrm_user_expire: 232, align 8 {
        state: 0..224,
        hard: 224..225,
    } padding {
        pad0: 225..232,
    }
    struct xfrm_usersa_flush: 1, align 1 {
        proto: 0..1,
    }
    struct xfrm_algo_aead: 72, align 4 {
        alg_name: 0..64,
        alg_key_len: 64..68,
        alg_icv_len: 68..72,
    }
    struct xfrm_encap_tmpl: 24, align 4 {
        encap_type: 0..2,
        encap_sport: 2..4,
        encap_dport: 4..6,
        encap_oa: 8..24,
    } padding {
        pad0: 6..8,
    }
    struct xfrm_replay_state_esn: 24, align 4 {
        bmp_len: 0..4,
        oseq: 4..8,
        seq: 8..12,
        oseq_hi: 12..16,
        seq_hi: 16..20,
        replay_window: 20..24,
    }
}
