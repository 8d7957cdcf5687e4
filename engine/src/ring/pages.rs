//! Asking the system for large pages behind what every packet looks at. Hints: nothing but speed depends on them.

use std::ptr::{NonNull, null_mut};

/// Bytes in a huge page.
pub(super) const HUGE: usize = 2 << 20;

/// Asks the system to keep these values in huge pages, as far as they fill any: with thousands of tunnels, each packet's
/// tunnel would be a page of its own to be found otherwise.
pub fn in_huge_pages<T>(values: &[T]) {
    let start = values.as_ptr().addr().next_multiple_of(HUGE);
    let end = (values.as_ptr().addr() + size_of_val(values)) / HUGE * HUGE;
    if start < end
        && let Some(first) = NonNull::new(values.as_ptr().with_addr(start).cast::<u8>().cast_mut())
    {
        advise(first, end - start);
    }
}

/// Asks the system to make huge pages of these bytes, whole ones inside one mapping, now and as they come to be used.
#[cfg(target_os = "linux")]
pub(super) fn advise(start: NonNull<u8>, bytes: usize) {
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
        // SAFETY: neither advice changes what the memory holds, whosever it is.
        if unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) } != 0 {
            break;
        }
    }
}

/// FreeBSD promotes to superpages by itself.
#[cfg(not(target_os = "linux"))]
pub(super) fn advise(_: NonNull<u8>, _: usize) {}

/// Fresh zeroed memory that starts where a huge page does. `bytes`: a multiple of the page size.
pub(super) fn map_aligned(bytes: usize) -> Option<NonNull<u8>> {
    // Both ends of a mapping that is longer by a huge page are given back.
    let longer = bytes.checked_add(HUGE)?;
    // SAFETY: a fresh anonymous mapping; nothing of ours is replaced.
    let memory = unsafe {
        libc::mmap(
            null_mut(),
            longer,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANON,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return None;
    }
    let memory = NonNull::new(memory.cast::<u8>())?;
    let before = memory.addr().get().next_multiple_of(HUGE) - memory.addr().get();
    let behind = HUGE - before;
    // SAFETY: whole pages at both ends of the mapping just made, and what lies between.
    unsafe {
        let start = memory.add(before);
        if before > 0 {
            unmap(memory, before);
        }
        if behind > 0 {
            unmap(start.add(bytes), behind);
        }
        Some(start)
    }
}

/// Gives memory back to the system.
///
/// # Safety
/// It is mapped, whole pages of it, and nobody uses it any more.
pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        libc::munmap(start.as_ptr().cast(), bytes);
    }
}
