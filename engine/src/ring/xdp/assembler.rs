//! A small assembler for eBPF (RFC 9669): instructions are methods, jumps go to labels that may be placed later.
//!
//! Only what the steering program needs. Numbers that are compared with bytes of a packet are given as they lie in
//! memory ([`be16`], [`be32`]).

/// A register. `R0` holds results, `R1` to `R5` arguments (lost in a call), `R6` to `R9` are kept, `R10` is the frame pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    R10,
}

/// The bytes moved by a load or store (RFC 9669 section 5.1, the size field).
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// What has to hold for a jump (RFC 9669 section 4.3).
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Condition {
    Equal = 0x10,
    Greater = 0x20,
    AnyBit = 0x40,
    NotEqual = 0x50,
    Less = 0xa0,
}

/// A place in the program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label(usize);

/// One instruction, as the kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones. (The kernel's bit fields, on little-endian machines; on
    /// big-endian ones they are the other way round.)
    registers: u8,
    offset: i16,
    immediate: i32,
}

const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const FROM_REGISTER: u8 = 0x08;
const MEMORY: u8 = 0x60;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
/// A 64-bit immediate in two instructions, whose source field says what it stands for (section 5.4).
const LOAD_IMMEDIATE_64: u8 = 0x18;
const MAP_BY_DESCRIPTOR: u8 = 1;

/// A program in the making.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Where each label has been placed.
    labels: Vec<Option<usize>>,
    /// Jumps whose offset is still to be filled in.
    jumps: Vec<(usize, Label)>,
}

/// 16 bits as a load from a packet shows them.
pub(super) fn be16(value: u16) -> i32 {
    i32::from(value.to_be())
}

/// 32 bits as a load from a packet shows them.
pub(super) fn be32(value: u32) -> i32 {
    value.to_be().cast_signed()
}

impl Assembler {
    fn emit(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        let registers =
            if cfg!(target_endian = "big") { destination << 4 | source } else { source << 4 | destination };
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    /// A label, to be placed once.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is where `label` leads.
    pub(super) fn place(&mut self, label: Label) {
        let here = self.code.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    /// `to = *(from + offset)`
    pub(super) fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.emit(LDX | MEMORY | size as u8, to as u8, from as u8, offset, 0);
    }

    /// `*(to + offset) = from`
    pub(super) fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) {
        self.emit(STX | MEMORY | size as u8, to as u8, from as u8, offset, 0);
    }

    /// `*(to + offset) = value`, a word.
    pub(super) fn store_value(&mut self, to: Register, offset: i16, value: i32) {
        self.emit(ST | MEMORY | Size::Word as u8, to as u8, 0, offset, value);
    }

    /// `to = from`
    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.emit(ALU64 | FROM_REGISTER | 0xb0, to as u8, from as u8, 0, 0);
    }

    /// `to = value`
    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.emit(ALU64 | 0xb0, to as u8, 0, 0, value);
    }

    /// `to += from`
    pub(super) fn add(&mut self, to: Register, from: Register) {
        self.emit(ALU64 | FROM_REGISTER, to as u8, from as u8, 0, 0);
    }

    /// `to += value`
    pub(super) fn add_value(&mut self, to: Register, value: i32) {
        self.emit(ALU64, to as u8, 0, 0, value);
    }

    /// `to &= value`
    pub(super) fn and(&mut self, to: Register, value: i32) {
        self.emit(ALU64 | 0x50, to as u8, 0, 0, value);
    }

    /// `to <<= bits`
    pub(super) fn shift_left(&mut self, to: Register, bits: i32) {
        self.emit(ALU64 | 0x60, to as u8, 0, 0, bits);
    }

    /// Goes to `label`.
    pub(super) fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.emit(JMP, 0, 0, 0, 0);
    }

    /// Goes to `label` if `left` and `value`, both unsigned, are so.
    pub(super) fn jump_if(&mut self, left: Register, condition: Condition, value: i32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.emit(JMP | condition as u8, left as u8, 0, 0, value);
    }

    /// Goes to `label` if `left` and `right`, both unsigned, are so.
    pub(super) fn jump_if_register(
        &mut self,
        left: Register,
        condition: Condition,
        right: Register,
        label: Label,
    ) {
        self.jumps.push((self.code.len(), label));
        self.emit(JMP | FROM_REGISTER | condition as u8, left as u8, right as u8, 0, 0);
    }

    /// `to` = the map with this descriptor.
    pub(super) fn load_map(&mut self, to: Register, descriptor: i32) {
        self.emit(LOAD_IMMEDIATE_64, to as u8, MAP_BY_DESCRIPTOR, 0, descriptor);
        self.emit(0, 0, 0, 0, 0);
    }

    /// `R0` = the kernel's helper function `number`, of `R1` to `R5`.
    pub(super) fn call(&mut self, number: i32) {
        self.emit(JMP | 0x80, 0, 0, 0, number);
    }

    /// Returns `R0`.
    pub(super) fn exit(&mut self) {
        self.emit(JMP | 0x90, 0, 0, 0, 0);
    }

    /// The program. `None` if a label was never placed, or lies too far from a jump to it.
    pub(super) fn finish(mut self) -> Option<Vec<Instruction>> {
        for (at, label) in self.jumps {
            let target = (*self.labels.get(label.0)?)?;
            // Counted from the instruction behind the jump.
            let distance = i64::try_from(target).ok()? - i64::try_from(at).ok()? - 1;
            self.code.get_mut(at)?.offset = i16::try_from(distance).ok()?;
        }
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers, offset, immediate }
    }

    /// Encodings as `llvm-objdump` shows them for the same assembly, and jumps both ways.
    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        use Register::{R0, R1, R6, R10};
        let mut program = Assembler::default();
        let (start, end) = (program.label(), program.label());
        program.place(start);
        program.load(Size::Half, R1, R6, 12);
        program.store(Size::Word, R10, -4, R1);
        program.copy(R6, R1);
        program.jump_if(R1, Condition::Equal, 8, end);
        program.jump_if_register(R1, Condition::Greater, R6, start);
        program.load_map(R1, 5);
        program.call(51);
        program.jump(start);
        program.place(end);
        program.set(R0, 2);
        program.exit();
        let expected = [
            instruction(0x69, 0x61, 12, 0),
            instruction(0x63, 0x1a, -4, 0),
            instruction(0xbf, 0x16, 0, 0),
            instruction(0x15, 0x01, 5, 8),
            instruction(0x2d, 0x61, -5, 0),
            instruction(0x18, 0x11, 0, 5),
            instruction(0x00, 0x00, 0, 0),
            instruction(0x85, 0x00, 0, 51),
            instruction(0x05, 0x00, -9, 0),
            instruction(0xb7, 0x00, 0, 2),
            instruction(0x95, 0x00, 0, 0),
        ];
        assert_eq!(program.finish().expect("complete"), expected);
    }

    #[test]
    fn a_label_that_leads_nowhere_is_refused() {
        let mut program = Assembler::default();
        let label = program.label();
        program.jump(label);
        assert!(program.finish().is_none());
    }
}
