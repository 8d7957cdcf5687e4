//! A router on rings in memory, with the tables that a configuration and a played host make; and what its packets
//! look like to somebody who knows all keys: written by hand, so as not to believe the engine's own reading.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_engine::ring::{Region, RxQueue, TxQueue, mesh, wire};
use culvert_engine::tables::{Published, Tables};
use culvert_engine::worker::Worker;
use ring::aead;

use crate::config::{Config, Local, Protect};

/// Where a frame goes in or comes out: a port, or the tunnels' interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Port(usize),
    Interface(u32),
}

/// A frame that has come out; without its link header.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) place: Place,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Router {
    workers: Vec<Worker>,
    tables: Published,
    /// For each worker the far ends of the ports, then of the interfaces.
    ends: Vec<Vec<(RxQueue, TxQueue)>>,
    ports: usize,
    pub(super) macs: Vec<[u8; 6]>,
}

const SLOTS: u32 = 128;

impl Router {
    pub(super) fn new(tables: Tables, macs: Vec<[u8; 6]>) -> Router {
        Router::with_workers(tables, macs, 1)
    }

    pub(super) fn with_workers(tables: Tables, macs: Vec<[u8; 6]>, workers: usize) -> Router {
        let ports = macs.len();
        let wires = (ports + 1) * workers + workers * (workers - 1) / 2;
        let spare = wires as u32 * culvert_engine::ring::SPARE_PER_QUEUE;
        let rings = wires * culvert_engine::ring::RINGS_PER_QUEUE;
        let region = Region::new(rings, SLOTS, 2048, spare, false).expect("a region");
        let tables = tables.publish();
        let mut router = Router { workers: Vec::new(), ends: Vec::new(), tables, ports, macs };
        for (number, peers) in mesh(&region, workers).expect("wires").into_iter().enumerate() {
            let links: Vec<_> = (0..=ports).map(|_| wire(&region, 1, true).expect("a wire")).collect();
            let (near, far): (Vec<_>, Vec<_>) = links.into_iter().unzip();
            let mut near: Vec<_> = near.into_iter().flat_map(|port| port.queues).collect();
            let interfaces = near.pop().expect("a pair");
            let worker = Worker::new(number, &router.tables, near, None).with_interfaces(interfaces);
            router.workers.push(worker.with_peers(peers));
            router.ends.push(far.into_iter().flat_map(|port| port.queues).collect());
        }
        router
    }

    pub(super) fn publish(&self, tables: Tables) {
        self.tables.store(Arc::new(tables));
    }

    pub(super) fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    pub(super) fn drops(&self, reason: culvert_engine::drops::Reason) -> u64 {
        self.workers.iter().map(|worker| worker.counters().dropped(reason)).sum()
    }

    /// Sends an IP packet in, and returns what comes out.
    pub(super) fn take(&mut self, place: Place, packet: &[u8]) -> Vec<Packet> {
        self.take_by(0, place, packet)
    }

    /// Sends an IP packet in by a ring of worker `worker`.
    pub(super) fn take_by(&mut self, worker: usize, place: Place, packet: &[u8]) -> Vec<Packet> {
        let (end, tag, link) = match place {
            Place::Port(port) => {
                let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
                (port, 0, [&self.macs[port][..], &[2, 0, 0, 0, 9, 9], &kind].concat())
            }
            Place::Interface(tunnel) => (self.ports, tunnel, Vec::new()),
        };
        let frame = [&link[..], packet].concat();
        let (_, tx) = &mut self.ends[worker][end];
        tx.sync();
        let pushed = tx.ring.push_with(tag, |buffer| {
            buffer[..frame.len()].copy_from_slice(&frame);
            Ok(frame.len())
        });
        pushed.expect("room");
        tx.sync();
        let mut out = Vec::new();
        for _ in 0..3 * self.workers.len() {
            for worker in &mut self.workers {
                worker.round();
            }
            for (end, (rx, _)) in self.ends.iter_mut().flat_map(|ends| ends.iter_mut().enumerate()) {
                rx.sync();
                let mut broken = 0;
                let slots = rx.ring.take(&mut broken, |mut frame| {
                    let tag = frame.tag();
                    let bytes = frame.bytes_mut().to_vec();
                    out.push(if end < self.ports {
                        Packet { place: Place::Port(end), bytes: bytes[14..].to_vec() }
                    } else {
                        Packet { place: Place::Interface(tag), bytes }
                    });
                });
                assert_eq!(broken, 0);
                rx.ring.release(slots);
                rx.sync();
            }
        }
        out
    }
}

/// An IP packet.
pub(super) fn ip_packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = (20 + payload.len()) as u16;
            let mut header = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 7, 0, 0, 64, protocol, 0, 0];
            header.extend(src.octets());
            header.extend(dst.octets());
            let mut sum: u32 =
                header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            [header[10], header[11]] = sum.to_be_bytes();
            [header, payload.to_vec()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = payload.len() as u16;
            let mut header = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, protocol, 64];
            header.extend(src.octets());
            header.extend(dst.octets());
            [header, payload.to_vec()].concat()
        }
        _ => panic!("two families"),
    }
}

/// A datagram without a checksum.
pub(super) fn datagram(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let ports = [source.to_be_bytes(), destination.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    [ports, payload.to_vec()].concat()
}

/// GRE with a key around an IP packet (RFC 2890).
pub(super) fn gre(key: u32, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[0x20, 0], &kind[..], &key.to_be_bytes(), packet].concat()
}

/// What of a packet an IP header says: ends, protocol, payload.
pub(super) fn read(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let octets = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().copied();
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            let payload = packet.get(usize::from(packet[0] & 15) * 4..total)?;
            Some((octets(12)?.into(), octets(16)?.into(), *packet.get(9)?, payload))
        }
        6 => {
            let octets = |at: usize| packet.get(at..at + 16)?.first_chunk::<16>().copied();
            Some((octets(8)?.into(), octets(24)?.into(), *packet.get(6)?, packet.get(40..)?))
        }
        _ => None,
    }
}

/// The tunnels of a configuration whose GRE a packet is in, the outermost first: known by ends, key and SPI. Every tunnel has a
/// key of its own.
pub(super) fn layers(config: &Config, packet: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = packet.to_vec();
    while let Some((tunnel, inner)) = unwrap(config, &at) {
        found.extend(tunnel);
        at = inner;
    }
    found
}

/// Takes one GRE header off: the tunnel, if it is one of ours on its way out, and what is inside.
fn unwrap(config: &Config, packet: &[u8]) -> Option<(Option<usize>, Vec<u8>)> {
    let (src, dst, protocol, payload) = read(packet)?;
    let gre = match protocol {
        47 => payload.to_vec(),
        50 => opened(config, payload)?,
        17 => match payload.get(2..4)? {
            [0x12, 0x92] => payload.get(8..)?.to_vec(),
            _ => return None,
        },
        _ => return None,
    };
    let flags = *gre.first()?;
    let len = 4 + [0x80, 0x20, 0x10].iter().filter(|bit| flags & **bit != 0).count() * 4;
    let key = u32::from_be_bytes(*gre.get(4..)?.first_chunk()?);
    let ours = config.tunnels.iter().position(|tunnel| {
        tunnel.local == Local::Address(src) && tunnel.remote == dst && tunnel.key == Some(key)
    });
    Some((ours, gre.get(len..)?.to_vec()))
}

/// The GRE packet in an ESP packet (RFC 4303, RFC 4106) that one of the configuration's outbound SAs has made.
fn opened(config: &Config, packet: &[u8]) -> Option<Vec<u8>> {
    let spi = u32::from_be_bytes(*packet.first_chunk()?);
    let sa = config.tunnels.iter().find_map(|tunnel| match &tunnel.protect {
        Protect::Manual(manual) => manual.outbound().filter(|sa| sa.spi == spi),
        _ => None,
    })?;
    let (key, salt) = sa.key.expose().split_at(16);
    let nonce = [salt, packet.get(8..16)?].concat();
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, key).ok()?);
    let mut sealed = packet.get(16..)?.to_vec();
    let nonce = aead::Nonce::try_assume_unique_for_key(&nonce).ok()?;
    let plain = key.open_in_place(nonce, aead::Aad::from(packet.get(..8)?), &mut sealed).expect("genuine");
    let [.., pad, next] = *plain else { return None };
    let payload = plain.get(..plain.len() - 2 - usize::from(pad))?.to_vec();
    match next {
        47 => Some(payload),
        _ => read(&payload).map(|(_, _, _, gre)| gre.to_vec()),
    }
}
