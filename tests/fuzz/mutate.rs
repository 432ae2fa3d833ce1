//! Deterministic mutation of byte strings.

/// Random numbers (`SplitMix64`): the same seed gives the same sequence.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Bytes at which parsers decide.
const DELIMITERS: &[u8] =
    b"\0\t\n\r \"#%&'()*+,-./0123456789:;<=>?@[\\]^_`aAzZ{|}~\x7f\x80\xbf\xc0\xe0\xff";

/// Longest mutated input, in bytes, unless a seed is longer.
const MAX_INPUT_LEN: usize = 4096;

/// A mutation of one of `pool`. `words` are tokens of the format.
pub(crate) fn mutate(random: &mut Random, pool: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut input = pool[random.below(pool.len())].clone();
    let most = input.len().max(MAX_INPUT_LEN);
    for _ in 0..=random.below(5) {
        change(random, &mut input, pool, words);
    }
    input.truncate(most);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&[u8]]) {
    let at = random.below(input.len() + 1);
    let end = (at + 1 + random.below(8)).min(input.len());
    let long_end = (at + 1 + random.below(input.len())).min(input.len());
    let word = if words.is_empty() { &[][..] } else { words[random.below(words.len())] };
    match random.below(13) {
        0 => flip(random, input, at),
        1 => set(input, at, random.byte()),
        2 => set(input, at, DELIMITERS[random.below(DELIMITERS.len())]),
        3 => input.insert(at, DELIMITERS[random.below(DELIMITERS.len())]),
        4 => input.insert(at, random.byte()),
        5 => drop(input.drain(at.min(end)..end)),
        6 => drop(input.drain(at.min(long_end)..long_end)),
        7 => drop(input.splice(at..at, word.iter().copied())),
        8 => drop(input.splice(at.min(end)..end, word.iter().copied())),
        9 => {
            let copy = input[at.min(long_end)..long_end].to_vec();
            let to = random.below(input.len() + 1);
            drop(input.splice(to..to, copy));
        }
        10 => {
            let other = &pool[random.below(pool.len())];
            let from = random.below(other.len() + 1);
            let to = (from + 1 + random.below(other.len())).min(other.len());
            drop(input.splice(at..at, other[from.min(to)..to].iter().copied()));
        }
        11 => {
            let other = &pool[random.below(pool.len())];
            input.truncate(at);
            input.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        _ => {
            // Lengths are often off by one.
            let step = [1, 0xff, 0x10, 0x80][random.below(4)];
            if let Some(byte) = input.get_mut(at) {
                *byte = byte.wrapping_add(step);
            }
        }
    }
}

fn flip(random: &mut Random, input: &mut [u8], at: usize) {
    // The bit 0x20 is the case of a letter.
    let bit = if random.below(2) == 0 { 0x20 } else { 1 << random.below(8) };
    if let Some(byte) = input.get_mut(at) {
        *byte ^= bit;
    }
}

fn set(input: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = value;
    }
}
