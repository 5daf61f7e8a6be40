//! Throughput of the block codecs on each level of instructions, beside ggml's where
//! `LLM_QUANTIZE_GGML_LIB` names its shared library:
//! `cargo bench -p llm-quantize-gguf --bench blocks -- '^encode/Q4_K'`.
//!
//! Everything takes turns in short rounds, in random order. Figures are medians over the rounds
//! and the ratio is the median of each round's ratio, so that whatever else the machine does, and
//! changes of its clock, hit all alike.

#![allow(clippy::print_stdout)]

#[path = "../tests/blocks_support/mod.rs"]
mod blocks_support;

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use blocks_support::ggml::Ggml;
use blocks_support::rows::{Kind, Random, importance};
use llm_quantize_gguf::blocks::{BlockType, decode_row_on, encode_row_on};
use llm_quantize_plugin_api::kernels::simd::Level;
use regex::Regex;

const COLS: usize = 4096;
const ROWS: usize = 4;

/// A contender works at least this long when it has its turn.
const TURN: Duration = Duration::from_millis(1);
const ROUNDS: usize = 31;

/// What is done to which type; a line of the table.
struct Race<'a> {
    name: String,
    /// Each level's, then perhaps ggml's.
    contenders: Vec<Contender<'a>>,
}

struct Contender<'a> {
    /// One pass over all rows.
    pass: Box<dyn FnMut() + 'a>,
    /// Weights per second, by round.
    rates: Vec<f64>,
}

fn main() {
    // `cargo bench` says so; `cargo test` only wants to know that everything runs.
    let measured = std::env::args().any(|arg| arg == "--bench");
    let (rounds, turn) = if measured {
        (ROUNDS, TURN)
    } else {
        (1, Duration::ZERO)
    };
    let patterns: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .map(|arg| Regex::new(&arg).unwrap_or_else(|error| panic!("{error}")))
        .collect();

    let ggml = Ggml::load();
    let ggml = ggml.as_ref();
    let mut random = Random(1);
    let rows = Kind::Normal.row(ROWS * COLS, &mut random);
    let weights = importance(0, COLS, &mut random);
    let plain = BlockType::all().map(|ty| encode(ggml, ty, &rows, None));
    let weighted = BlockType::all().map(|ty| encode(ggml, ty, &rows, Some(&weights)));
    let decoding = BlockType::all().map(|ty| decode(ggml, ty));
    let mut races: Vec<_> = plain.chain(weighted).chain(decoding).collect();
    if !patterns.is_empty() {
        races.retain(|race| patterns.iter().any(|pattern| pattern.is_match(&race.name)));
    }

    for _ in 0..rounds {
        for race in &mut races {
            race.round(turn, &mut random);
        }
    }
    head();
    races.iter().for_each(line);
}

fn encode<'a>(
    ggml: Option<&'a Ggml>,
    ty: BlockType,
    rows: &'a [f32],
    weights: Option<&'a [f32]>,
) -> Race<'a> {
    let row_bytes = ty.row_bytes(COLS).unwrap_or(0);
    let mut contenders: Vec<_> = Level::all()
        .map(|level| {
            let mut out = vec![0; ROWS * row_bytes];
            Contender::new(move || {
                for (row, out) in rows.chunks(COLS).zip(out.chunks_mut(row_bytes)) {
                    let result = encode_row_on(level, ty, black_box(row), weights, out);
                    assert_eq!(result, Ok(()));
                }
            })
        })
        .collect();
    if let Some(ggml) = ggml {
        let mut out = vec![0; ROWS * row_bytes];
        contenders.push(Contender::new(move || {
            ggml.quantize(ty, black_box(rows), COLS, weights, &mut out);
        }));
    }
    let what = weights.map_or("encode", |_| "encode-importance");
    Race {
        name: format!("{what}/{ty}"),
        contenders,
    }
}

fn decode(ggml: Option<&Ggml>, ty: BlockType) -> Race<'_> {
    // Random codes; the upper exponent bits of scales are cleared to keep them finite.
    let mut random = Random(2);
    let row_bytes = ty.row_bytes(COLS).unwrap_or(0);
    let rows: Rc<[u8]> = (0..ROWS * row_bytes)
        .map(|_| random.bits() as u8 & 0x3f)
        .collect();
    let mut contenders: Vec<_> = Level::all()
        .map(|level| {
            let (rows, mut out) = (rows.clone(), vec![0.0; COLS]);
            Contender::new(move || {
                for row in rows.chunks(row_bytes) {
                    let result = decode_row_on(level, ty, black_box(row), &mut out);
                    assert_eq!(result, Ok(()));
                }
            })
        })
        .collect();
    // ggml has no decoder of single precision.
    if let Some(ggml) = ggml.filter(|_| ty != BlockType::F32) {
        let mut out = vec![0.0; COLS];
        contenders.push(Contender::new(move || {
            for row in rows.chunks(row_bytes) {
                assert!(ggml.decode_into(ty, black_box(row), &mut out));
            }
        }));
    }
    Race {
        name: format!("decode/{ty}"),
        contenders,
    }
}

impl Race<'_> {
    /// Everybody has a turn. In a fixed order, a scheduler that interrupts at fixed intervals
    /// could always hit the same one.
    fn round(&mut self, turn: Duration, random: &mut Random) {
        let mut waiting: Vec<_> = self.contenders.iter_mut().collect();
        while !waiting.is_empty() {
            let next = random.below(waiting.len());
            waiting.swap_remove(next).take_turn(turn);
        }
    }
}

impl<'a> Contender<'a> {
    fn new(pass: impl FnMut() + 'a) -> Self {
        Self {
            pass: Box::new(pass),
            rates: Vec::new(),
        }
    }

    /// Works for a while, after one pass that brings everything into the caches.
    fn take_turn(&mut self, turn: Duration) {
        (self.pass)();
        let (start, mut passes) = (Instant::now(), 0);
        let elapsed = loop {
            (self.pass)();
            passes += 1;
            let elapsed = start.elapsed();
            if elapsed >= turn {
                break elapsed;
            }
        };
        let weights = f64::from(passes) * (ROWS * COLS) as f64;
        self.rates.push(weights / elapsed.as_secs_f64());
    }
}

fn head() {
    print!("{:28}", "Mweights/s");
    for level in Level::all() {
        print!("{:>9}", level.name());
    }
    println!("{:>9}{:>14}", "ggml", "best / ggml");
}

fn line(race: &Race) {
    print!("{:28}", race.name);
    for contender in &race.contenders {
        print!("{:9.1}", median(contender.rates.clone()) * 1e-6);
    }
    let levels = Level::all().count();
    let ours = race.contenders[..levels].last();
    if let (Some(ours), Some(theirs)) = (ours, race.contenders.get(levels)) {
        let ratios = ours.rates.iter().zip(&theirs.rates);
        print!("{:14.2}", median(ratios.map(|(a, b)| a / b).collect()));
    }
    println!();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
