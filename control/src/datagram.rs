//! What the kernel's messages have in common, whoever sends them: one follows the other in a datagram, until something does not
//! hold together.

use bytemuck::AnyBitPattern;

/// Damage: the bytes are not what the kernel would send, so that something has been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

/// The messages of a datagram, in order, each taken off its front by `split`; damage ends it.
pub(crate) fn split_all<'a, M>(
    datagram: &'a [u8],
    split: impl Fn(&mut &'a [u8]) -> Result<M, Damaged>,
) -> impl Iterator<Item = Result<M, Damaged>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split(&mut rest);
        if message.is_err() {
            rest = &[];
        }
        Some(message)
    })
}

/// A structure at the start of `bytes`, which need not be aligned.
pub(crate) fn read<T: AnyBitPattern>(bytes: &[u8]) -> Result<T, Damaged> {
    let bytes = bytes.get(..size_of::<T>()).ok_or(Damaged)?;
    bytemuck::try_pod_read_unaligned(bytes).map_err(|_| Damaged)
}
