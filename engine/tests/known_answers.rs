//! ESP against numbers that others computed. Steps:
//! 1. whole packets from RFC 7634 appendix A and draft-mcgrew-gcm-test-01 are sealed and opened, with replay window, high
//!    half of the sequence number and trailer as a receiver meets them;
//! 2. Wycheproof's vectors are run through the batch cipher, as far as ESP's associated data (8 or 12 bytes) allows.

use culvert_engine::drops::Reason;
use culvert_engine::esp::cipher::{self, Aad, OpenJob, SealJob};
use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{HEADER_LEN, ICV_LEN, IV_LEN, InboundSa, Key, Suite, open};
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex") as u8).collect();
    assert_eq!(digits.len() % 2, 0, "whole bytes in {text}");
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A packet that somebody else sealed.
struct Example {
    name: &'static str,
    suite: Suite,
    /// Cipher key, then salt.
    material: &'static str,
    spi: u32,
    sequence: u64,
    esn: bool,
    iv: &'static str,
    /// Payload, padding, pad length, next header.
    plaintext: &'static str,
    /// Ciphertext and ICV.
    sealed: &'static str,
    /// What the receiver finds in the trailer: octets of padding and next header.
    trailer: (usize, u8),
}

/// ESP packets of the two documents that use a suite of ours.
const EXAMPLES: &[Example] = &[
    Example {
        name: "RFC 7634 appendix A",
        suite: Suite::ChaCha20Poly1305,
        material: "808182838485868788898a8b8c8d8e8f 909192939495969798999a9b9c9d9e9f a0a1a2a3",
        spi: 0x0102_0304,
        sequence: 5,
        esn: false,
        iv: "1011121314151617",
        plaintext: "45000054a6f200004001e778c6336405 c000020508005b7a3a080000553bec10
            0007362708090a0b0c0d0e0f10111213 1415161718191a1b1c1d1e1f20212223
            2425262728292a2b2c2d2e2f30313233 3435363701020204",
        sealed: "24039428b97f417e3c13753a4f05087b 67c352e6a7fab1b982d466ef407ae5c6
            14ee8099d52844eb61aa95dfab4c02f7 2aa71e7c4c4f64c9befe2facc638e8f3
            cbec163fac469b502773f6fb94e664da 9165b82829f641e0
            76aaa8266b7fb0f7b11b369907e1ad43",
        trailer: (2, 4),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 1",
        suite: Suite::Aes128Gcm16,
        material: "4c80cdefbb5d10da906ac73c3613a634 2e443b68",
        spi: 0x4321,
        sequence: 0x8765_4321_0000_0000,
        esn: true,
        iv: "4956ed7e3b244cfe",
        plaintext: "45000048699a000080114db7c0a80102 c0a801010a9bf15638d3010000010000
            00000000045f736970045f7564700373 69700963796265726369747902646b00
            0021000101020201",
        sealed: "fecf537e729d5b07dc30df528dd22b76 8d1b98736696a6fd348509fa13ceac34
            cfa2436f14a3f3cf65925bf1f4a13c5d 15b21e1884f5ff6247aeabb786b93bce
            61bc17d768fd9732 459018148f6cbe722fd04796562dfdb4",
        trailer: (2, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 2",
        suite: Suite::Aes128Gcm16,
        material: "feffe9928665731c6d6a8f9467308308 cafebabe",
        spi: 0xa5f8,
        sequence: 10,
        esn: false,
        iv: "facedbaddecaf888",
        plaintext: "4500003e698f000080114dccc0a80102 c0a801010a980035002a2343b2d00100
            00010000000000000373697009637962 65726369747902646b00000100010001",
        sealed: "deb22cd9b07c72c16e3a65beeb8df304 a5a5897d33ae530f1ba76d5d114d2a5c
            3de81827c10e9a4f51330d0eec416642 cfbb85a5b47e48a4ec3b9ba95d918bd1
            83b70d3aa8bc6ee4c309e9d85a41ad4a",
        trailer: (0, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 3",
        suite: Suite::Aes256Gcm16,
        material: "abbccddef00112233445566778899aab abbccddef00112233445566778899aab 11223344",
        spi: 0x4a2c_bfe3,
        sequence: 2,
        esn: false,
        iv: "0102030405060708",
        plaintext: "4500003069a6400080062690c0a80102 9389155e0a9e008b2dc57ee000000000
            7002400020bf0000020405b401010402 01020201",
        sealed: "ff425c9b724599df7a3bcd510194e00d 6a78107f1b0b1cbf06efae9d65a5d763
            748a637985771d347f0545659f14e99d ef842d8e b335f4eecfdbf831824b4c4915956c96",
        trailer: (2, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 4",
        suite: Suite::Aes128Gcm16,
        material: "00000000000000000000000000000000 00000000",
        spi: 0,
        sequence: 1,
        esn: false,
        iv: "0000000000000000",
        plaintext: "4500003c99c500008001cb7a40679318 010101010800075c0200440061626364
            65666768696a6b6c6d6e6f7071727374 75767761626364656667686901020201",
        sealed: "4688daf2f973a392732909c331d56d60 f694abaa414b5e7ff5fdcdfff5e9a284
            456476492719ffb64de7d9dca1e1d894 bc3bd57873ed4d181d19d4d5c8c18af3
            f821d496eeb096e98ad2b69e4799c71d",
        trailer: (2, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 5",
        suite: Suite::Aes128Gcm16,
        material: "3de09874b388e6491988d0c3607eae1f 57690e43",
        spi: 0x42f6_7e3f,
        sequence: 0x1010_1010_1010_1010,
        esn: true,
        iv: "4e280000a2fca1a3",
        plaintext: "4500003c99c300008001cb7c40679318 010101010800085c0200430061626364
            65666768696a6b6c6d6e6f7071727374 75767761626364656667686901020201",
        sealed: "fba2caa4853cf9f0f22cb10d86dd83b0 fec75691cf1a04b00d1138ec9c357917
            65acbd8701ad79845bf9fe3fba487bc9 1755e6662b4c8d0d1f5e22739530320a
            e0d731cc978ecafaeae88f00e80d6e48",
        trailer: (2, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 6",
        suite: Suite::Aes128Gcm16,
        material: "3de09874b388e6491988d0c3607eae1f 57690e43",
        spi: 0x42f6_7e3f,
        sequence: 0x1010_1010_1010_1010,
        esn: true,
        iv: "4e280000a2fca1a3",
        plaintext: "4500001c42a200008001441f406793b6 e00000020a00f5ff01020201",
        sealed: "fba2ca845e5df9f0f22c3e6e86dd831e 1fc65792cd1af9130e1379ed369f071f
            35e034be95f112e4e7d05d35",
        trailer: (2, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 8",
        suite: Suite::Aes128Gcm16,
        material: "abbccddef00112233445566778899aab decaf888",
        spi: 0x100,
        sequence: 1,
        esn: true,
        iv: "cafedebaceface74",
        plaintext: "4500004933ba00007f119106c3fb1d10 c2b1d326c02831ce0035dd7b800302d5
            00004e20001e8c18d75b81dc91baa047 6b91b924b280389d92c963bac046ec95
            9b6266c04722b14923010101",
        sealed: "18a6fd42f72cbf4ab2a2ea901f73d814 e3e7f243d95412e1c349c1d2fbec168f
            9190feebaf2cb01984e65863965d7472 b79da345e0e780191f0d2f0e0f496c22
            6f2127b27db35724e7845d68 651f57e65f354f75ff17015769623436",
        trailer: (1, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 9",
        suite: Suite::Aes256Gcm16,
        material: "abbccddef00112233445566778899aab abbccddef00112233445566778899aab 73616c74",
        spi: 0x1740_5e67,
        sequence: 0x156f_3126_dd0d_b99b,
        esn: true,
        iv: "616e640169766563",
        plaintext: "45080028732c00004006e9f90a010612 0a01038f06b88023dd6bafbecb712602
            50101f646d540001",
        sealed: "f2d69ecdbd5a0d5b8d5ef38bad4da58d 1f278fde98ef67549d524a3018d9a57f
            f4d3a31ce673119e 451626c2415771e3b7eebca614c89b35",
        trailer: (0, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 12",
        suite: Suite::Aes128Gcm16,
        material: "7d773d00c144c525ac619d18c84a3f47 d9664267",
        spi: 0x3354_67ae,
        sequence: 0xffff_ffff,
        esn: false,
        iv: "43457e9182443bc6",
        plaintext: "01020201",
        sealed: "437f866b cb3f699fe9b0822bac961c4504bef270",
        trailer: (2, 1),
    },
    Example {
        name: "draft-mcgrew-gcm-test-01 section 4, case 14",
        suite: Suite::Aes256Gcm16,
        material: "6c6567616c697a656d6172696a75616e 61616e64646f69746265666f72656961 7475726e",
        spi: 0x796b_6963,
        sequence: u64::MAX,
        esn: true,
        iv: "333021696765746d",
        plaintext: "45000030da3a00008001df3bc0a80005 c0a800010800c6cd0200070061626364
            65666768696a6b6c6d6e6f7071727374 01020201",
        sealed: "f97ab2aa356d8edce17644ac8c78e25d d24dedbb29ebf1b64a274b39b49c3a86
            4cd3d78ca4ae68a32b42458fb57dbe82 1dcc63b9d0937ba2945f669368661a329fb4c053",
        trailer: (2, 1),
    },
];

impl Example {
    fn key(&self) -> Key {
        Key::new(self.suite, &hex(self.material)).expect("a key of the right length")
    }

    fn iv(&self) -> [u8; IV_LEN] {
        hex(self.iv).try_into().expect("an IV of eight bytes")
    }

    /// The packet from its ESP header to its end.
    fn packet(&self) -> Vec<u8> {
        let mut packet = self.spi.to_be_bytes().to_vec();
        packet.extend((self.sequence as u32).to_be_bytes());
        packet.extend(self.iv());
        packet.extend(hex(self.sealed));
        packet
    }

    /// An SA that has received up to just before the packet.
    fn receiver(&self) -> InboundSa {
        let window = ReplayWindow::new(64, self.esn).expect("a window");
        if self.sequence > 1 {
            window.accept(self.sequence - 1).expect("the first of all");
        }
        InboundSa::new(self.spi, self.key(), self.esn, window)
    }

    /// Opens `packet`, with `shift` bytes of room before the ciphertext. `None`: not authentic.
    fn open(&self, mut packet: Vec<u8>, shift: usize) -> Result<Option<Vec<u8>>, Reason> {
        let sa = self.receiver();
        let candidate = open::candidate(&packet, &sa)?.expect("nothing else of the SA is in flight");
        assert_eq!((candidate.sequence, candidate.iv), (self.sequence, self.iv()), "{}", self.name);
        let from = HEADER_LEN + IV_LEN - shift;
        let mut jobs = [open::job(&mut packet[from..], shift, &sa, &candidate)];
        cipher::open(&mut jobs);
        let [job] = jobs;
        let len = job.data.len() - shift - ICV_LEN;
        Ok(job.authentic.then(|| job.data[..len].to_vec()))
    }
}

#[test]
fn packets_are_sealed_as_published() {
    for example in EXAMPLES {
        let key = example.key();
        let mut data = hex(example.plaintext);
        data.resize(data.len() + ICV_LEN, 0xa5);
        let aad = Aad::new(example.spi, example.sequence, example.esn);
        cipher::seal(&mut [SealJob { key: &key, iv: example.iv(), aad, data: &mut data }]);
        assert_eq!(data, hex(example.sealed), "{}", example.name);
    }
}

#[test]
fn packets_are_opened_as_published() {
    for example in EXAMPLES {
        for shift in [0, 1, 14, HEADER_LEN + IV_LEN] {
            let plaintext =
                example.open(example.packet(), shift).expect("a new packet").expect("a genuine one");
            assert_eq!(plaintext, hex(example.plaintext), "{}, shifted by {shift}", example.name);
            let (payload_len, next_header) = open::trailer(&plaintext).expect("padding 1, 2, ..");
            let padding = plaintext.len() - payload_len - 2;
            assert_eq!((padding, next_header), example.trailer, "{}", example.name);
        }
    }
}

/// Every bit of a packet is authenticated; those of the SPI find the SA, and without one nothing is opened.
#[test]
fn one_changed_bit_and_the_packet_is_refused() {
    for example in EXAMPLES {
        let packet = example.packet();
        // The sequence number's bits change which packet it is; the ICV must still say no.
        let sa = example.receiver();
        for bit in (4 * 8)..packet.len() * 8 {
            let mut changed = packet.clone();
            changed[bit / 8] ^= 0x80 >> (bit % 8);
            let Ok(Some(candidate)) = open::candidate(&changed, &sa) else {
                assert!(bit < HEADER_LEN * 8, "{}: bit {bit} is no sequence number's", example.name);
                continue;
            };
            sa.window().settle();
            let mut jobs = [open::job(&mut changed[HEADER_LEN + IV_LEN..], 0, &sa, &candidate)];
            cipher::open(&mut jobs);
            assert!(!jobs[0].authentic, "{}: bit {bit}", example.name);
        }
    }
}

/// What a set of vectors came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    /// Ciphertext and ICV compared, and opened again.
    whole: usize,
    /// Associated data that ESP never has: the ciphertext, which does not depend on it, compared.
    ciphertext: usize,
}

fn run(name: TestName, suite: Suite) -> Run {
    let set = TestSet::load(name).expect("vectors");
    let key_bits = (suite.material_len() - cipher::SALT_LEN) * 8;
    let mut run = Run::default();
    let groups = set
        .test_groups
        .iter()
        .filter(|group| (group.nonce_size, group.tag_size, group.key_size) == (96, 128, key_bits));
    for test in groups.flat_map(|group| &group.tests).filter(|test| test.result == TestResult::Valid) {
        let (salt, iv) = test.nonce.split_first_chunk::<4>().expect("twelve bytes of nonce");
        let iv: [u8; IV_LEN] = iv.try_into().expect("eight of them the IV");
        let key = Key::new(suite, &[&test.key[..], salt].concat()).expect("a key");
        let (aad, whole) = match *test.aad.as_slice() {
            [a, b, c, d, e, f, g, h] => {
                let sequence = u32::from_be_bytes([e, f, g, h]);
                (Aad::new(u32::from_be_bytes([a, b, c, d]), sequence.into(), false), true)
            }
            [a, b, c, d, e, f, g, h, i, j, k, l] => {
                let sequence = u64::from_be_bytes([e, f, g, h, i, j, k, l]);
                (Aad::new(u32::from_be_bytes([a, b, c, d]), sequence, true), true)
            }
            _ => (Aad::new(0, 0, false), false),
        };
        let mut data = [&test.pt[..], &[0; ICV_LEN]].concat();
        cipher::seal(&mut [SealJob { key: &key, iv, aad, data: &mut data }]);
        let (ciphertext, icv) = data.split_at(test.pt.len());
        assert_eq!(ciphertext, &test.ct[..], "{name:?} {}", test.tc_id);
        if !whole {
            run.ciphertext += 1;
            continue;
        }
        run.whole += 1;
        assert_eq!(icv, &test.tag[..], "{name:?} {}", test.tc_id);
        for wrong in [None, Some(0), Some(ICV_LEN * 8 - 1), Some(64)] {
            let mut data = data.clone();
            if let Some(bit) = wrong {
                data[test.pt.len() + bit / 8] ^= 0x80 >> (bit % 8);
            }
            let mut jobs = [OpenJob { key: &key, iv, aad, data: &mut data, shift: 0, authentic: false }];
            cipher::open(&mut jobs);
            assert_eq!(jobs[0].authentic, wrong.is_none(), "{name:?} {}", test.tc_id);
            assert!(wrong.is_some() || data[..test.pt.len()] == test.pt[..], "{name:?} {}", test.tc_id);
        }
    }
    run
}

// How many there are is a property of the vectors' release: a smaller number means that some were not run.
#[test]
fn wycheproof_aes_128_gcm() {
    assert_eq!(run(TestName::AesGcm, Suite::Aes128Gcm16), Run { whole: 2, ciphertext: 38 });
}

#[test]
fn wycheproof_aes_256_gcm() {
    assert_eq!(run(TestName::AesGcm, Suite::Aes256Gcm16), Run { whole: 2, ciphertext: 37 });
}

#[test]
fn wycheproof_chacha20_poly1305() {
    assert_eq!(run(TestName::ChaCha20Poly1305, Suite::ChaCha20Poly1305), Run { whole: 47, ciphertext: 209 });
}

/// Several jobs in one call, with keys of different suites, come out as each alone would.
#[test]
fn a_batch_of_different_keys() {
    let keys: Vec<Key> = EXAMPLES.iter().map(Example::key).collect();
    let mut texts: Vec<Vec<u8>> =
        EXAMPLES.iter().map(|example| [hex(example.plaintext), vec![0; ICV_LEN]].concat()).collect();
    let mut jobs: Vec<SealJob<'_>> = EXAMPLES
        .iter()
        .zip(keys.iter().zip(&mut texts))
        .map(|(example, (key, data))| SealJob {
            key,
            iv: example.iv(),
            aad: Aad::new(example.spi, example.sequence, example.esn),
            data,
        })
        .collect();
    cipher::seal(&mut jobs);
    for (example, text) in EXAMPLES.iter().zip(&texts) {
        assert_eq!(text, &hex(example.sealed), "{}", example.name);
    }
}
