//! The other lines of a journal.

use std::ops::Range;

use llm_quantize_plugin_api::Measure;
use serde::{Deserialize, Serialize};

use crate::job::pieces::Piece;

/// A piece whose bytes are on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Place of its unit in the plan.
    pub unit: usize,
    /// Its rows.
    pub rows: Range<u64>,
    /// CRC-32 of its bytes, span after span.
    pub crc: u32,
    /// What the plugin measured of the whole output. The bits of the numbers, so that sums are
    /// the same to the last digit after a resume, and so that infinities survive JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    measures: Vec<(String, u64)>,
    /// What it measured of layers: subject, name, bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<(String, String, u64)>,
}

impl Record {
    /// The record of a finished piece.
    pub fn new(piece: &Piece, crc: u32, measures: &[Measure]) -> Self {
        let (whole, layers): (Vec<&Measure>, Vec<&Measure>) =
            measures.iter().partition(|m| m.subject.is_empty());
        let bits = |m: &Measure| (m.name.clone(), m.value.to_bits());
        let layer_bits = |m: &Measure| (m.subject.clone(), m.name.clone(), m.value.to_bits());
        Self {
            unit: piece.unit,
            rows: piece.rows.clone(),
            crc,
            measures: whole.into_iter().map(bits).collect(),
            layers: layers.into_iter().map(layer_bits).collect(),
        }
    }

    /// The piece that it is about.
    pub fn piece(&self) -> Piece {
        Piece {
            unit: self.unit,
            rows: self.rows.clone(),
        }
    }

    /// What the plugin measured.
    pub fn measures(&self) -> Vec<Measure> {
        let whole = self.measures.iter();
        let whole = whole.map(|(name, bits)| Measure::new(name, f64::from_bits(*bits)));
        let layers = self.layers.iter();
        let layers =
            layers.map(|(layer, name, bits)| Measure::of(layer, name, f64::from_bits(*bits)));
        whole.chain(layers).collect()
    }
}

/// A line after the header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// A finished piece.
    Piece(Record),
    /// All pieces are done and verified; the files are being renamed.
    Publishing,
}

impl Line {
    /// As it stands in the journal, with its end.
    pub fn text(&self) -> String {
        // Numbers and strings only, which always have a JSON form.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// The lines of a journal after its header, and how many bytes of `text` they take. A
/// crash may leave half a line, and a power cut worse; what is not whole and what
/// follows it does not count.
pub fn parse(text: &[u8]) -> (Vec<Line>, usize) {
    let (mut lines, mut valid) = (Vec::new(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else {
            break;
        };
        let Ok(parsed) = serde_json::from_slice(whole) else {
            break;
        };
        lines.push(parsed);
        valid += line.len();
    }
    (lines, valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(unit: usize, value: f64) -> Record {
        let piece = Piece { unit, rows: 3..7 };
        let layer = Measure::of("layers.0\tq", "error", value);
        let whole = Measure::new("squared_error", value);
        Record::new(&piece, 0xdead_beef, &[layer, whole])
    }

    #[test]
    fn measures_keep_every_bit() {
        for value in [0.1, 1.0 / 3.0, f64::INFINITY, 5e-324, -0.0] {
            let (lines, _) = parse(Line::Piece(record(1, value)).text().as_bytes());
            let [Line::Piece(back)] = lines.as_slice() else {
                panic!("{lines:?}");
            };
            let [whole, layer] = &back.measures()[..] else {
                panic!("{back:?}");
            };
            let name = |m: &Measure| format!("{} {}", m.subject, m.name);
            assert_eq!(name(whole), " squared_error");
            assert_eq!(name(layer), "layers.0\tq error");
            for measure in [whole, layer] {
                assert_eq!(measure.value.to_bits(), value.to_bits());
            }
            assert_eq!(
                back.piece(),
                Piece {
                    unit: 1,
                    rows: 3..7
                }
            );
        }
    }

    #[test]
    fn garbage_ends_the_journal() {
        let good = Line::Piece(record(1, 0.5)).text();
        let after = Line::Publishing.text();
        for garbage in [
            "\0\0\0\n",
            "{\n",
            "[]\n",
            "{\"piece\":{}}\n",
            "\n",
            "\u{fffd}",
        ] {
            let text = format!("{good}{garbage}{after}");
            let (lines, valid) = parse(text.as_bytes());
            assert_eq!((lines.len(), valid), (1, good.len()), "{garbage:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cut_journal_gives_a_prefix(cut in 0usize..1000) {
            let text: String = (0..9).map(|unit| Line::Piece(record(unit, 0.25)).text()).collect();
            let cut = cut.min(text.len());
            let (lines, valid) = parse(&text.as_bytes()[..cut]);
            prop_assert!(valid <= cut);
            prop_assert_eq!(lines.len(), text[..cut].matches('\n').count());
        }
    }
}
