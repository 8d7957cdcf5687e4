//! Asking the processor for memory before it is needed. Hints only: nothing is read or written.

/// Bytes in a cache line on the processors this runs on.
const LINE: usize = 64;

/// Asks for the cache line in which `value` starts.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    line(std::ptr::from_ref(value).cast());
}

/// Asks for all cache lines of `value`, at most `lines` of them.
#[inline(always)]
pub fn prefetch_many<T>(value: &T, lines: usize) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    // From the line that it starts in to the one that it ends in.
    let before = start.addr() % LINE;
    let start = start.wrapping_sub(before);
    for nth in 0..(before + size_of::<T>()).div_ceil(LINE).min(lines) {
        line(start.wrapping_add(nth * LINE));
    }
}

/// Asks for the line at `offset` of a buffer.
#[inline(always)]
pub(super) fn prefetch_at(buffer: &[u8], offset: usize) {
    line(buffer.as_ptr().wrapping_add(offset));
}

/// As [`prefetch_at`], for a line that will be written, and that another core may have: one request instead of two.
#[inline(always)]
pub(super) fn prefetch_to_write_at(buffer: &[u8], offset: usize) {
    line_to_write(buffer.as_ptr().wrapping_add(offset));
}

/// Asks for the cache lines of `len` bytes from `start` on, which will be written, and which another core may have.
#[inline(always)]
pub(super) fn prefetch_to_write(start: *const u8, len: usize) {
    for offset in (0..len).step_by(LINE) {
        line_to_write(start.wrapping_add(offset));
    }
}

#[inline(always)]
fn line_to_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHW never faults, whatever the address, and changes nothing that Rust knows of; 64-bit processors without it take
    // it for no operation. (As an intrinsic it is a prefetch for reading, unless the whole program is compiled for processors with it.)
    unsafe {
        std::arch::asm!("prefetchw [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    line(address);
}

#[inline(always)]
fn line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM never faults, whatever the address, and changes nothing that Rust knows of.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
