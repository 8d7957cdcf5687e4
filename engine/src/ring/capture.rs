//! Capture files behind rings: a receive ring that is filled from a file, and a transmit ring that is emptied into one.
//!
//! The time stamp of a frame travels with its buffer (see `Region::stamp`), so that an output frame carries that of the
//! frame which caused it. An error ends the file, never the program: it is kept until somebody asks.

use std::io::{self, Read, Write};

use netmap_sys::{NS_MOREFRAG, netmap_slot};

use super::HEADROOM;
use super::raw::RawRing;
use crate::capture::{CaptureError, Reader, Writer};

struct Pending {
    time_ns: u64,
    bytes: Vec<u8>,
}

/// Frames from a capture file, or none.
pub struct CaptureRx {
    reader: Option<Reader<Box<dyn Read + Send>>>,
    pending: Option<Pending>,
    spare: Vec<u8>,
    horizon_ns: u64,
    error: Option<CaptureError>,
    received: u64,
    /// Where the next received slot goes.
    at: u32,
}

impl CaptureRx {
    /// A queue on which nothing is ever received.
    pub fn nothing() -> CaptureRx {
        CaptureRx {
            reader: None,
            pending: None,
            spare: Vec::new(),
            horizon_ns: u64::MAX,
            error: None,
            received: 0,
            at: 0,
        }
    }

    /// Frames from a pcap or pcapng file.
    ///
    /// # Errors
    /// What is wrong with the start of the file.
    pub fn new(file: Box<dyn Read + Send>) -> Result<CaptureRx, CaptureError> {
        let reader = Reader::open(file)?;
        let mut capture = CaptureRx { reader: Some(reader), ..CaptureRx::nothing() };
        capture.advance();
        Ok(capture)
    }

    /// Nanoseconds since 1970 of the next frame, `None` at the end of the file.
    pub fn peek(&self) -> Option<u64> {
        self.pending.as_ref().map(|pending| pending.time_ns)
    }

    /// Frames later than this are held back.
    pub fn set_horizon(&mut self, time_ns: u64) {
        self.horizon_ns = time_ns;
    }

    /// Frames received until now.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What ended the file early, if anything did.
    pub fn error(&self) -> Option<&CaptureError> {
        self.error.as_ref()
    }

    fn advance(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        match reader.next() {
            Ok(Some(record)) => {
                let mut bytes = std::mem::take(&mut self.spare);
                bytes.clear();
                bytes.extend_from_slice(record.data);
                self.pending = Some(Pending { time_ns: record.time_ns, bytes });
            }
            Ok(None) => self.reader = None,
            Err(error) => {
                self.error = Some(error);
                self.reader = None;
            }
        }
    }

    pub(super) fn sync(&mut self, ring: &RawRing) {
        let end = ring.previous(ring.head());
        let room = (ring.region().buffer_size() - HEADROOM) as usize;
        while let Some(pending) = self.pending.take() {
            let slots = pending.bytes.len().div_ceil(room).max(1);
            if pending.time_ns > self.horizon_ns || slots > ring.distance(self.at, end) as usize {
                self.pending = Some(pending);
                break;
            }
            let mut rest = pending.bytes.as_slice();
            for nth in 0..slots {
                let (part, others) = rest.split_at_checked(room).unwrap_or((rest, &[]));
                rest = others;
                let buf_idx = ring.slot(self.at).buf_idx;
                let flags = if nth + 1 < slots { NS_MOREFRAG } else { 0 };
                // SAFETY: the slot lies between tail and head, so it and its buffer are the backend's; the reference ends
                // in this statement.
                let buffer = unsafe { ring.buffer(buf_idx) };
                if let Some(to) = buffer.get_mut(HEADROOM as usize..HEADROOM as usize + part.len()) {
                    to.copy_from_slice(part);
                }
                ring.region().set_stamp(buf_idx, pending.time_ns);
                let slot = netmap_slot { buf_idx, len: part.len() as u16, flags, ptr: u64::from(HEADROOM) };
                ring.write_slot(self.at, slot);
                self.at = ring.next(self.at);
            }
            self.received += 1;
            self.spare = pending.bytes;
            self.advance();
        }
        ring.set_tail(self.at);
    }
}

/// Frames into a capture file, or only counted.
pub struct CaptureTx {
    writer: Option<Writer<Box<dyn Write + Send>>>,
    error: Option<io::Error>,
    frame: Vec<u8>,
    sent: u64,
    /// The first slot that has not gone out yet.
    at: u32,
}

impl CaptureTx {
    /// A queue whose frames are counted and forgotten.
    pub fn discard() -> CaptureTx {
        CaptureTx { writer: None, error: None, frame: Vec::new(), sent: 0, at: 0 }
    }

    /// A queue whose frames are written with `writer`.
    pub fn new(writer: Writer<Box<dyn Write + Send>>) -> CaptureTx {
        CaptureTx { writer: Some(writer), ..CaptureTx::discard() }
    }

    /// Frames sent until now.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The first error that writing met, now or before.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.writer.as_mut().map_or(Ok(()), Writer::flush)
    }

    pub(super) fn sync(&mut self, ring: &RawRing) {
        let head = ring.head();
        let mut stamp = None;
        while self.at != head {
            let slot = ring.slot(self.at);
            let start = ring.offset(&slot) as usize;
            stamp = stamp.or_else(|| ring.region().stamp(slot.buf_idx));
            // SAFETY: slots before head have been given to the backend, so the buffer is ours; the reference ends with
            // this turn of the loop.
            let buffer = unsafe { ring.buffer(slot.buf_idx) };
            if let Some(part) = buffer.get(start..start + usize::from(slot.len)) {
                self.frame.extend_from_slice(part);
            }
            if slot.flags & NS_MOREFRAG == 0 {
                self.write(stamp.take().unwrap_or(0));
            }
            self.at = ring.next(self.at);
        }
        ring.set_tail(ring.previous(self.at));
    }

    fn write(&mut self, time_ns: u64) {
        self.sent += 1;
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.write(time_ns, &self.frame)
        {
            self.error = Some(error);
            self.writer = None;
        }
        self.frame.clear();
    }
}
