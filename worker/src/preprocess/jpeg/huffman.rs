//! JPEG's Huffman codes: a bit reader, and tables that consume several symbols in one step.
//!
//! A picture that is decoded at an eighth of its size needs one coefficient in 64. The others still
//! have to be skipped symbol by symbol, and that is where the time goes. So in addition to the
//! usual look-up of one symbol, a table has one that gives the number of bits and coefficients in a
//! whole run of symbols.

#![allow(clippy::inline_always, reason = "the reader must stay in registers over a whole block")]

use super::markers::{self, has_ff};

/// Bits used to look up one symbol (`LOOK`) and a run of symbols (`SKIP`).
const LOOK: u32 = 10;
const SKIP: u32 = 13;

type Look = [(u8, u8); 1 << LOOK];

/// An AC symbol and the number that follows it, if both fit into the next `LOOK` bits.
#[derive(Debug, Clone, Copy, Default)]
struct Whole {
    value: i16,
    /// Bits of both; zero if they are longer.
    bits: u8,
    /// Number of coefficients it covers, the last of which has the value; zero ends the block.
    advance: u8,
}

/// A code, ready for look-up.
#[derive(Debug)]
pub(super) struct Table {
    /// Length of the code (0: longer than `LOOK`), symbol.
    look: Box<Look>,
    /// Empty until requested.
    skip: Box<[Run]>,
    /// Empty until requested.
    whole: Box<[Whole]>,
    /// By length of code: the first code beyond that length, left-aligned in 16 bits.
    limit: [u32; 18],
    /// By length: what to add to a code to get the place of its symbol.
    offset: [i32; 17],
    symbols: Box<[u8]>,
}

/// Whole AC symbols in the next `SKIP` bits, packed: number of bits (4 bits, zero if not even
/// one symbol fits), number of coefficients they cover (6 bits), and whether the last one ends
/// the block.
#[derive(Debug, Clone, Copy, Default)]
struct Run(u16);

impl Run {
    fn new(bits: u32, advance: usize, ends: bool) -> Self {
        let packed = bits as usize | advance << 4 | usize::from(ends) << 15;
        Self(u16::try_from(packed).expect("13 bits and 63 coefficients at most"))
    }

    fn bits(self) -> u32 {
        u32::from(self.0 & 15)
    }

    fn advance(self) -> usize {
        usize::from(self.0 >> 4 & 63)
    }

    fn ends(self) -> bool {
        self.0 >> 15 != 0
    }
}

impl Table {
    /// Builds a table from the number of codes of each length and the symbols in order. `None` if
    /// the codes do not fit their lengths.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut look = [(0, 0); 1 << LOOK];
        let (mut limit, mut offset) = ([0; 18], [0; 17]);
        let (mut code, mut place) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let count = usize::from(count);
            let index = length as usize;
            offset[index] = i32::try_from(place).ok()? - i32::try_from(code).ok()?;
            for &symbol in symbols.get(place..place + count)? {
                if length <= LOOK {
                    let first = (code << (LOOK - length)) as usize;
                    look.get_mut(first..first + (1 << (LOOK - length)))?
                        .fill((u8::try_from(length).ok()?, symbol));
                }
                code += 1;
            }
            place += count;
            limit[index] = code << (16 - length);
            if code > 1 << length {
                return None;
            }
            code <<= 1;
        }
        limit[17] = u32::MAX;
        let (skip, whole) = (Box::default(), Box::default());
        Some(Self { look: Box::new(look), skip, whole, limit, offset, symbols: symbols.into() })
    }

    /// The same code with look-up of runs, for AC coefficients.
    pub(super) fn with_runs(mut self) -> Self {
        self.skip = (0..1 << SKIP).map(|window| self.run(window)).collect();
        self
    }

    /// The same code with look-up of coefficients, for when all AC coefficients are needed.
    pub(super) fn with_values(mut self) -> Self {
        self.whole = (0..1 << LOOK).map(|window| self.whole(window << (64 - LOOK))).collect();
        self
    }

    /// The coefficient in the first `LOOK` bits of `window`.
    fn whole(&self, window: u64) -> Whole {
        let (length, symbol) = self.look[(window >> (64 - LOOK)) as usize];
        let size = symbol & 15;
        if length == 0 || u32::from(length + size) > LOOK {
            return Whole::default();
        }
        let mut bits = Bits { window: window << length, count: LOOK, ..Bits::new(&[]) };
        let value = i16::try_from(bits.number(u32::from(size))).expect("of ten bits at most");
        let advance = if is_end(symbol) { 0 } else { (symbol >> 4) + 1 };
        Whole { value, bits: length + size, advance }
    }

    /// Length and symbol of the code at the top of `window`; length 0 for none.
    #[inline(always)]
    fn symbol(&self, window: u64) -> (u32, u8) {
        let (length, symbol) = self.look[(window >> (64 - LOOK)) as usize];
        if length != 0 {
            return (u32::from(length), symbol);
        }
        self.long_symbol(window)
    }

    #[cold]
    #[inline(never)]
    fn long_symbol(&self, window: u64) -> (u32, u8) {
        let code = (window >> 48) as u32;
        let Some(length) = (1..=16).find(|&length| code < self.limit[length as usize]) else {
            return (0, 0);
        };
        let place = (code >> (16 - length)).cast_signed() + self.offset[length as usize];
        let symbol = usize::try_from(place).ok().and_then(|place| self.symbols.get(place));
        symbol.map_or((0, 0), |&symbol| (length, symbol))
    }

    /// As many symbols as fit into the `SKIP` bits of `window`.
    fn run(&self, window: u64) -> Run {
        let (mut rest, mut left, mut total) = (window << (64 - SKIP), SKIP, 0);
        loop {
            let (length, symbol) = self.symbol(rest);
            let bits = length + u32::from(symbol & 15);
            let advance = usize::from(symbol >> 4) + 1;
            if length == 0 || bits > left || total + advance > 63 {
                return Run::new(SKIP - left, total, false);
            }
            (left, rest) = (left - bits, rest << bits);
            if is_end(symbol) {
                return Run::new(SKIP - left, total, true);
            }
            total += advance;
        }
    }
}

/// Whether the symbol ends the block: it has no bits and is not the run of sixteen zeros.
fn is_end(symbol: u8) -> bool {
    symbol.is_multiple_of(16) && symbol != 0xF0
}

/// Reads bits from entropy-coded data, dropping the stuffed zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits of the data, left-aligned.
    window: u64,
    count: u32,
    /// Bits in the window that are padding after the end of the data.
    missing: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, window: 0, count: 0, missing: 0 }
    }

    /// Whether more bits were used than there are.
    pub(super) fn is_overrun(&self) -> bool {
        self.missing > self.count
    }

    /// Continues after the restart marker with this number (modulo eight); `None` if a different
    /// one follows.
    pub(super) fn restart(&mut self, number: usize) -> Option<()> {
        let mut rest = self.rest();
        if usize::from(markers::next(&mut rest)?) != 0xD0 + number % 8 {
            return None;
        }
        *self = Self::new(rest);
        Some(())
    }

    /// The unread data, starting at the next marker at the latest.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }

    /// Ensures at least 32 bits in the window.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(next) = self.data.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_be_bytes(*next);
            if !has_ff(word) {
                self.window |= word >> self.count;
                let bytes = (63 - self.count) >> 3;
                self.at += bytes as usize;
                self.count += 8 * bytes;
                return;
            }
        }
        *self = self.filled_bytewise();
    }

    /// Takes the reader by value, so that the fast paths can keep it in registers.
    #[cold]
    #[inline(never)]
    fn filled_bytewise(mut self) -> Self {
        while self.count <= 56 {
            let byte = match self.data.get(self.at..).unwrap_or_default() {
                [0xFF, 0, ..] => {
                    self.at += 2;
                    0xFF
                }
                // A marker or the end: zeros from here on.
                [0xFF, ..] | [] => {
                    self.missing += 8;
                    0
                }
                [byte, ..] => {
                    self.at += 1;
                    *byte
                }
            };
            self.window |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    #[inline(always)]
    fn take(&mut self, bits: u32) {
        self.window <<= bits;
        self.count -= bits;
    }

    /// A number of `size` bits in JPEG's sign convention.
    #[inline(always)]
    pub(super) fn number(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 15 bits are left")]
        let value = (self.window >> (64 - size)) as i32;
        self.take(size);
        // A leading zero means negative, counted up from the lowest.
        if value < 1 << (size - 1) { value - (1 << size) + 1 } else { value }
    }

    /// The next symbol of `table`.
    #[inline(always)]
    pub(super) fn symbol(&mut self, table: &Table) -> Option<u8> {
        self.fill();
        let (length, symbol) = table.symbol(self.window);
        self.take(length);
        (length != 0).then_some(symbol)
    }

    /// The next bit.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> bool {
        self.fill();
        let bit = self.window >> 63 != 0;
        self.take(1);
        bit
    }

    /// A number of up to 15 bits without a sign.
    #[inline(always)]
    pub(super) fn unsigned(&mut self, size: u32) -> u32 {
        self.fill();
        #[expect(clippy::cast_possible_truncation, reason = "at most 15 bits are left")]
        let value = (self.window >> 1 >> (63 - size)) as u32;
        self.take(size);
        value
    }

    /// The difference of a DC coefficient from the previous one.
    #[inline(always)]
    pub(super) fn dc(&mut self, table: &Table) -> Option<i32> {
        self.fill();
        let (length, size) = table.symbol(self.window);
        if length == 0 || size > 15 {
            return None;
        }
        self.take(length);
        Some(self.number(u32::from(size)))
    }

    /// Reads all AC coefficients of a block; `table` must be one with values.
    #[inline(always)]
    pub(super) fn all_ac(&mut self, table: &Table, mut keep: impl FnMut(usize, i32)) -> Option<()> {
        let whole: &[Whole; 1 << LOOK] = table.whole.first_chunk()?;
        let mut place = 0;
        while place < 63 {
            self.fill();
            let next = whole[(self.window >> (64 - LOOK)) as usize];
            if next.bits != 0 {
                self.take(u32::from(next.bits));
                if next.advance == 0 {
                    return Some(());
                }
                place += usize::from(next.advance);
                if place <= 63 {
                    keep(place, i32::from(next.value));
                }
                continue;
            }
            let (length, symbol) = table.symbol(self.window);
            if length == 0 {
                return None;
            }
            self.take(length);
            if is_end(symbol) {
                return Some(());
            }
            place += usize::from(symbol >> 4) + 1;
            let value = self.number(u32::from(symbol & 15));
            if place <= 63 {
                keep(place, value);
            }
        }
        (place == 63).then_some(())
    }

    /// Reads the AC coefficients up to zigzag place `last` and skips the others.
    #[inline(always)]
    pub(super) fn ac(
        &mut self,
        table: &Table,
        last: usize,
        mut keep: impl FnMut(usize, i32),
    ) -> Option<()> {
        let mut place = 0;
        while place < last {
            self.fill();
            let (length, symbol) = table.symbol(self.window);
            if length == 0 {
                return None;
            }
            self.take(length);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if is_end(symbol) {
                return Some(());
            }
            place += run + 1;
            let value = self.number(size);
            if place <= last {
                keep(place, value);
            }
        }
        self.skip(table, place)
    }

    /// Skips to the end of a block whose last coefficient read is at `place`.
    #[inline(always)]
    fn skip(&mut self, table: &Table, mut place: usize) -> Option<()> {
        while place < 63 {
            self.fill();
            let window = (self.window >> (64 - SKIP)) as usize;
            let run = table.skip.get(window).copied().unwrap_or_default();
            let next = place + run.advance();
            // The bits of a run may belong to the next block if this one ends first.
            if run.bits() != 0 && next + usize::from(run.ends()) <= 63 {
                self.take(run.bits());
                if run.ends() {
                    return Some(());
                }
                place = next;
                continue;
            }
            let (length, symbol) = table.symbol(self.window);
            if length == 0 {
                return None;
            }
            self.take(length + u32::from(symbol & 15));
            if is_end(symbol) {
                return Some(());
            }
            place += usize::from(symbol >> 4) + 1;
        }
        (place == 63).then_some(())
    }
}
