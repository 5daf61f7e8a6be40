//! Small changes to valid inputs, the same ones for the same seed.

use llm_quantize_plugin_api::TensorInfo;
use llm_quantize_plugin_api::hf_folder::{parse_header, write_header};

use crate::bundle;

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

/// Types of tensors, with the bits of an element.
const DTYPES: [(&str, u64); 6] = [
    ("I32", 32),
    ("F16", 16),
    ("BF16", 16),
    ("F32", 32),
    ("I64", 64),
    ("U8", 8),
];

/// Changes an input as what it looks like: one file of a bundle, tensors, JSON, or bytes; now and
/// then as bytes whatever it is.
pub fn any(input: &[u8], random: &mut Random) -> Vec<u8> {
    match input.trim_ascii_start().first() {
        _ if random.below(4) == 0 => bytes(input, random),
        _ if input.starts_with(&bundle::MARK) => one_file(input, random),
        _ if parse_header(input).is_ok_and(|tensors| !tensors.is_empty()) => tensors(input, random),
        Some(b'{' | b'[') => json(input, random),
        _ => bytes(input, random),
    }
}

/// Changes one file of a bundle, or leaves it out.
fn one_file(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut files = bundle::split(input, "");
    let place = random.below(files.len());
    let changed = any(files[place].1, random);
    match random.below(16) {
        0 => drop(files.remove(place)),
        _ => files[place].1 = &changed,
    }
    bundle::join(files.iter().map(|(name, bytes)| (&**name, *bytes)))
}

/// Changes a file of safetensors, one to four times, so that its header holds: tensors that are
/// missing or have other names, types, shapes or numbers.
pub fn tensors(input: &[u8], random: &mut Random) -> Vec<u8> {
    let Ok(found) = parse_header(input) else {
        return bytes(input, random);
    };
    let data =
        |range: std::ops::Range<u64>| input[range.start as usize..range.end as usize].to_vec();
    let found = found.into_iter().map(|(info, range)| (info, data(range)));
    let mut tensors: Vec<(TensorInfo, Vec<u8>)> = found.collect();
    for _ in 0..=random.below(4) {
        if !tensors.is_empty() {
            change_tensor(&mut tensors, random);
        }
    }
    let Ok(mut out) = write_header(tensors.iter().map(|(info, _)| info)) else {
        return bytes(input, random);
    };
    out.extend(tensors.into_iter().flat_map(|(_, data)| data));
    out
}

fn change_tensor(tensors: &mut Vec<(TensorInfo, Vec<u8>)>, random: &mut Random) {
    let place = random.below(tensors.len());
    let other = tensors[random.below(tensors.len())].0.clone();
    let (info, data) = &mut tensors[place];
    match random.below(6) {
        0 => drop(tensors.remove(place)),
        1 => {
            let ending = other.name.rsplit('.').next().unwrap_or_default();
            let module = info.name.rsplit_once('.').map_or("", |(module, _)| module);
            info.name = format!("{module}.{ending}");
        }
        2 => {
            info.dtype = random.pick(&DTYPES).0.to_owned();
            fit(info, data);
        }
        3 => {
            let dim = random.below(info.shape.len());
            if let Some(size) = info.shape.get_mut(dim) {
                let near = [
                    0,
                    1,
                    *size / 2,
                    size.saturating_sub(1),
                    *size + 1,
                    *size * 2,
                ];
                *size = *random.pick(&near);
            }
            fit(info, data);
        }
        4 => {
            info.shape = other.shape;
            fit(info, data);
        }
        _ => *data = same_length(bytes(data, random), data.len()),
    }
}

/// Makes a tensor's data as long as its type and shape want it; what would be large becomes empty.
fn fit(info: &mut TensorInfo, data: &mut Vec<u8>) {
    const LARGE: u64 = 1 << 20;
    let bits = DTYPES.iter().find(|(name, _)| *name == info.dtype);
    let elements = info.elements().filter(|count| *count < LARGE);
    if elements.is_none() {
        info.shape = vec![0];
    }
    info.bytes = elements.unwrap_or(0) * bits.map_or(8, |(_, bits)| *bits) / 8;
    data.resize(info.bytes as usize, 0x5A);
}

fn same_length(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.resize(length, 0);
    bytes
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    #[test]
    fn the_same_seed_gives_the_same_change() {
        let input = tiny::safetensors(&tiny::tensors(tiny::NARROW));
        for seed in 0..50 {
            let change = || any(&input, &mut Random::new(seed));
            assert_eq!(change(), change());
        }
    }

    #[test]
    fn changed_tensors_are_a_file_that_can_be_opened() {
        let input = tiny::safetensors(&tiny::tensors(tiny::NARROW));
        let changed = (0..200).map(|seed| tensors(&input, &mut Random::new(seed)));
        let changed: Vec<Vec<u8>> = changed.collect();
        let opened = changed.iter().filter(|file| parse_header(file).is_ok());
        // Two tensors that come to have one name are changed as bytes instead.
        assert!(opened.count() > 150);
        assert!(changed.iter().filter(|file| **file != input).count() > 190);
    }

    #[test]
    fn one_file_of_a_bundle_is_changed() {
        let weights = tiny::safetensors(&tiny::tensors(tiny::NARROW));
        let input = bundle::join([("a.json", &b"{\"a\": 1}"[..]), ("b.safetensors", &weights)]);
        for seed in 0..50 {
            let changed = one_file(&input, &mut Random::new(seed));
            let files = bundle::split(&changed, "");
            assert!(
                files
                    .iter()
                    .any(|(_, bytes)| *bytes == weights || *bytes == b"{\"a\": 1}")
            );
        }
    }
}
