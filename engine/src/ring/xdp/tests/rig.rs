//! An AF_XDP port with a packet socket at its far end, for the tests that all ports pass (`ring/tests/ports.rs`).

use std::sync::Arc;

use super::lab::{EVERYTHING, Wire, buffers_of, veth};
use super::{Umem, XdpPort, umem};
use crate::ring::tests::ports::Rig;
use crate::ring::tests::{Pair, only};

/// A pair of virtual interfaces: the port is one end, the packet socket hears the other.
pub(in crate::ring) struct Veth {
    pair: Pair,
    /// Holds the program that leads frames to the port.
    _control: XdpPort,
    umem: Arc<Umem>,
    wire: Wire,
}

impl Veth {
    /// One in the namespace of the calling thread.
    pub(in crate::ring) fn new() -> Veth {
        veth("v0", "v1", 1);
        let umem = umem(1);
        let (port, control) = XdpPort::open(&umem, "v0", EVERYTHING).expect("a port");
        Veth { pair: only(port), _control: control, umem, wire: Wire::new("v1") }
    }
}

impl Rig for Veth {
    fn pair(&mut self) -> &mut Pair {
        &mut self.pair
    }

    fn inject(&mut self, frame: &[u8]) -> bool {
        self.wire.send(frame);
        true
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        self.wire.poll()
    }

    /// That of an Ethernet with an MTU of 1500.
    fn longest(&self) -> usize {
        1514
    }

    fn buffers(&mut self) -> Vec<u32> {
        buffers_of(self.umem.region(), &self.pair.0, &self.pair.1)
    }
}
