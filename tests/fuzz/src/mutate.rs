//! Small changes to valid inputs, the same ones for the same seed.

/// A small random number generator (xorshift64*): good enough to choose changes, and the same
/// everywhere.
pub struct Random(u64);

impl Random {
    /// A generator with its own sequence for every seed.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring sequences; zero is a fixed point.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`; zero if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() >> 16) as usize % end.max(1)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Numbers that readers get wrong: limits of types, and counts that no file has.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7F,
    0xFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 40,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// The same in JSON, and what is no number.
const JSON_VALUES: [&str; 18] = [
    "0",
    "-1",
    "1e30",
    "1e308",
    "0.5",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "1000000000",
    "null",
    "true",
    "\"x\"",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "\"../../etc/passwd\"",
    "\"\\u0000\\n\\u001b[31m\"",
];

/// Changes bytes anywhere, one to four times: bits, numbers, lengths, pieces.
pub fn bytes(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=random.below(4) {
        change_bytes(&mut out, random);
    }
    out
}

fn change_bytes(out: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(out.len());
    match random.below(6) {
        0 => {
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            let number = random.pick(&NUMBERS).to_le_bytes();
            let width = *random.pick(&[1, 2, 4, 8]);
            if let Some(place) = out.get_mut(at..at + width) {
                place.copy_from_slice(&number[..width]);
            }
        }
        2 => out.truncate(at),
        3 => {
            let len = random.below(64).min(out.len() - at);
            out.drain(at..at + len);
        }
        4 => {
            let from = random.below(out.len());
            let len = random.below(64).min(out.len() - from);
            let piece = out[from..from + len].to_vec();
            out.splice(at..at, piece);
        }
        _ => {
            let len = 1 + random.below(16);
            let piece: Vec<u8> = (0..len).map(|_| random.number() as u8).collect();
            out.splice(at..at, piece);
        }
    }
}

/// Changes a JSON text so that it often stays JSON: values replaced, keys doubled, nesting.
pub fn json(input: &[u8], random: &mut Random) -> Vec<u8> {
    let out = input.to_vec();
    match random.below(4) {
        0 => bytes(&out, random),
        1 => replace_value(out, random),
        2 => double_entry(out, random),
        _ => nest(out, random),
    }
}

/// Places after a colon outside of strings, where a value begins.
fn colons(text: &[u8]) -> Vec<usize> {
    let (mut inside, mut escaped) = (false, false);
    let mut found = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b':' if !inside => found.push(at + 1),
            _ => {}
        }
    }
    found
}

/// Where the simple value that begins at `start` ends.
fn value_end(text: &[u8], start: usize) -> usize {
    let rest = &text[start..];
    let len = rest.iter().position(|byte| b",}]\n".contains(byte));
    start + len.unwrap_or(rest.len())
}

fn replace_value(mut out: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let colons = colons(&out);
    if let Some(&start) = (!colons.is_empty()).then(|| random.pick(&colons)) {
        let end = value_end(&out, start);
        out.splice(start..end, random.pick(&JSON_VALUES).bytes());
    }
    out
}

/// Writes a key with its value a second time.
fn double_entry(mut out: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let colons = colons(&out);
    let Some(&colon) = (!colons.is_empty()).then(|| random.pick(&colons)) else {
        return out;
    };
    let before = &out[..colon.saturating_sub(2)];
    let Some(quote) = before.iter().rposition(|&byte| byte == b'"') else {
        return out;
    };
    let mut entry = out[quote..colon].to_vec();
    entry.extend_from_slice(random.pick(&JSON_VALUES).as_bytes());
    entry.push(b',');
    out.splice(quote..quote, entry);
    out
}

fn nest(mut out: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let colons = colons(&out);
    if let Some(&at) = (!colons.is_empty()).then(|| random.pick(&colons)) {
        let depth = *random.pick(&[8, 127, 128, 5000]);
        let (open, close) = *random.pick(&[("[", "]"), ("{\"a\":", "}")]);
        let end = value_end(&out, at);
        let nested = [open.repeat(depth), "1".into(), close.repeat(depth)].concat();
        out.splice(at..end, nested.bytes());
    }
    out
}
