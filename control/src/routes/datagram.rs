//! What the kernel's messages have in common, whoever sends them: one follows the other in a datagram, until something does not
//! hold together.

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
