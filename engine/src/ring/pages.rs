//! Asking the system for large pages behind what every packet looks at.

use std::io;

/// Asks the system to keep these values in huge pages, as far as they fill any: with thousands of tunnels, each packet's
/// tunnel would be a page of its own to be found otherwise. A hint: nothing but speed depends on it.
pub fn in_huge_pages<T>(values: &[T]) {
    const HUGE: usize = 2 << 20;
    let start = values.as_ptr().addr().next_multiple_of(HUGE);
    let end = (values.as_ptr().addr() + size_of_val(values)) / HUGE * HUGE;
    if start < end {
        advise(values.as_ptr().with_addr(start).cast(), end - start).unwrap_or_default();
    }
}

#[cfg(target_os = "linux")]
fn advise(start: *const u8, bytes: usize) -> io::Result<()> {
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
        // SAFETY: whole pages inside one allocation; neither advice changes what the memory holds.
        if unsafe { libc::madvise(start.cast_mut().cast(), bytes, advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// FreeBSD promotes to superpages by itself.
#[cfg(not(target_os = "linux"))]
fn advise(_: *const u8, _: usize) -> io::Result<()> {
    Ok(())
}
