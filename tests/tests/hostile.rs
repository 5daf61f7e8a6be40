//! Damaged and forged inputs through the whole program: whatever is changed in a file, a command
//! ends soon, with little memory, and either succeeds or refuses the file in the documented way.
//!
//! The changes are the same in every run. `LLM_QUANTIZE_HOSTILE_CASES` sets their number.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use llm_quantize_fuzz::tiny::{self, File, WIDTH};
use llm_quantize_fuzz_kit::mutate::{self, Random};
use llm_quantize_tests::{check_outcome, run_limited, text};

/// Changed inputs without the variable; most are given to four commands.
const CASES: u64 = 200;

/// Failures that are reported before the test gives up.
const REPORTED: usize = 5;

/// What is changed.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Weights,
    Shard,
    Index,
    Config,
    Tokenizer,
    TokenizerConfig,
    SentencePiece,
    Gguf,
    GgufShard,
    Imatrix,
    LegacyImatrix,
    Gptq,
    GptqConfig,
    Awq,
    AwqConfig,
}

const KINDS: [Kind; 15] = [
    Kind::Weights,
    Kind::Shard,
    Kind::Index,
    Kind::Config,
    Kind::Tokenizer,
    Kind::TokenizerConfig,
    Kind::SentencePiece,
    Kind::Gguf,
    Kind::GgufShard,
    Kind::Imatrix,
    Kind::LegacyImatrix,
    Kind::Gptq,
    Kind::GptqConfig,
    Kind::Awq,
    Kind::AwqConfig,
];

impl Kind {
    /// All files, the one that is changed, and the one that names the model (the folder if empty).
    fn files(self) -> (Vec<File>, &'static str, &'static str) {
        let gguf = |split| {
            let files = tiny::gguf(WIDTH, "F16", split, false).into_iter();
            files
                .map(|file| (file.name, file.bytes))
                .collect::<Vec<File>>()
        };
        let with = |name: &str, bytes: Vec<u8>| {
            let mut files = tiny::folder(WIDTH);
            files.push((name.to_owned(), bytes));
            files
        };
        const FIRST: &str = "model-00001-of-00002.safetensors";
        match self {
            Self::Weights => (tiny::folder(WIDTH), "model.safetensors", ""),
            Self::Shard => (tiny::sharded_folder(WIDTH), FIRST, ""),
            Self::Index => (
                tiny::sharded_folder(WIDTH),
                "model.safetensors.index.json",
                "",
            ),
            Self::Config => (tiny::folder(WIDTH), "config.json", ""),
            Self::Tokenizer => (tiny::folder(WIDTH), "tokenizer.json", ""),
            Self::TokenizerConfig => (tiny::folder(WIDTH), "tokenizer_config.json", ""),
            Self::SentencePiece => {
                let files = with("tokenizer.model", tiny::sentencepiece()).into_iter();
                let files = files.filter(|(name, _)| name != "tokenizer.json");
                (files.collect(), "tokenizer.model", "")
            }
            Self::Gguf => (gguf(None), "model.gguf", "model.gguf"),
            Self::GgufShard => {
                let files = gguf(Some("9K"));
                assert_eq!(files.len(), 2);
                (
                    files,
                    "model-00001-of-00002.gguf",
                    "model-00002-of-00002.gguf",
                )
            }
            Self::Imatrix => (with("imatrix", tiny::imatrix(WIDTH)), "imatrix", ""),
            Self::LegacyImatrix => (with("imatrix", tiny::legacy_imatrix(WIDTH)), "imatrix", ""),
            Self::Gptq => (tiny::seed("gptq", "4bit"), "model.safetensors", ""),
            Self::GptqConfig => (tiny::seed("gptq", "4bit"), "config.json", ""),
            Self::Awq => (tiny::seed("awq", "4bit"), "model.safetensors", ""),
            Self::AwqConfig => (tiny::seed("awq", "4bit"), "config.json", ""),
        }
    }

    fn change(self, bytes: &[u8], random: &mut Random) -> Vec<u8> {
        match self {
            Self::Index | Self::Config | Self::Tokenizer | Self::TokenizerConfig => {
                mutate::json(bytes, random)
            }
            Self::Gptq | Self::GptqConfig | Self::Awq | Self::AwqConfig => {
                mutate::any(bytes, random)
            }
            Self::SentencePiece | Self::Imatrix | Self::LegacyImatrix => {
                mutate::bytes(bytes, random)
            }
            // Mostly the header: most bytes are weights, where every value is a number.
            Self::Weights | Self::Shard | Self::Gguf | Self::GgufShard => {
                let header = match random.below(4) {
                    0 => bytes.len(),
                    _ => bytes.len().min(1500),
                };
                let mut out = mutate::bytes(&bytes[..header], random);
                out.extend_from_slice(&bytes[header..]);
                out
            }
        }
    }
}

/// A folder with a changed input, and the commands for it.
struct Case {
    kind: Kind,
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Case {
    /// With `random`, a changed one.
    fn write(kind: Kind, random: Option<&mut Random>) -> Self {
        let (mut files, target, model) = kind.files();
        if let Some(random) = random {
            let (_, bytes) = files.iter_mut().find(|(name, _)| name == target).unwrap();
            *bytes = kind.change(bytes, random);
        }
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("model");
        fs::create_dir(&place).unwrap();
        for (name, bytes) in files {
            fs::write(place.join(name), bytes).unwrap();
        }
        Self {
            model: place.join(model),
            kind,
            folder,
        }
    }

    /// The commands that get the input; `out` is their output folder.
    fn commands(&self, out: &str) -> Vec<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let model = text(&self.model);
        let matrix = text(&self.folder.path().join("model/imatrix"));
        let mut quantize = vec!["quantize", &model, "gguf", "-q", "Q4_0", "-o", out];
        quantize.extend(["--set", "allow-requantize=true"]);
        if matches!(self.kind, Kind::Imatrix | Kind::LegacyImatrix) {
            quantize.extend(["--imatrix", &matrix]);
            return vec![words(&quantize)];
        }
        let info: Vec<String> = words(&["info", &model]);
        let convert = words(&["convert", &model, "hf", "-q", "F32", "-o", out, "--force"]);
        let real = words(&quantize);
        quantize.push("--dry-run");
        vec![info, words(&quantize), real, convert]
    }

    /// Exit codes of all commands.
    fn run(&self) -> Result<Vec<i32>, String> {
        let out = self.folder.path().join("out");
        let mut codes = Vec::new();
        for command in self.commands(&text(&out)) {
            fs::create_dir_all(&out).unwrap();
            let failed = |what| format!("{command:?}: {what}");
            let run = run_limited(&command).map_err(failed)?;
            check_outcome(&run, &out).map_err(failed)?;
            codes.push(run.code);
            fs::remove_dir_all(&out).unwrap();
        }
        Ok(codes)
    }
}

#[test]
fn unchanged_inputs_are_accepted() {
    for kind in KINDS {
        let codes = Case::write(kind, None).run().unwrap();
        assert!(codes.iter().all(|code| *code == 0), "{kind:?}: {codes:?}");
    }
}

#[test]
fn a_changed_weight_is_still_a_weight() {
    for (kind, name) in [
        (Kind::Weights, "model.safetensors"),
        (Kind::Gguf, "model.gguf"),
    ] {
        let case = Case::write(kind, None);
        let path = case.folder.path().join("model").join(name);
        let mut bytes = fs::read(&path).unwrap();
        // The low bit of the last number: never an infinity.
        let at = bytes.len() - 2;
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(case.run().unwrap(), [0; 4], "{kind:?}");
    }
}

#[test]
fn changed_inputs_are_read_or_refused() {
    let cases = std::env::var("LLM_QUANTIZE_HOSTILE_CASES");
    let cases = cases.map_or(CASES, |cases| cases.parse().unwrap());
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let refused = AtomicU64::new(0);
    let work = || {
        while failures.lock().unwrap().len() < REPORTED {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= cases {
                return;
            }
            let kind = KINDS[(number % KINDS.len() as u64) as usize];
            let case = Case::write(kind, Some(&mut Random::new(number)));
            match case.run() {
                Ok(codes) => {
                    let any = codes.iter().any(|code| *code != 0);
                    refused.fetch_add(any.into(), Ordering::Relaxed);
                }
                Err(what) => {
                    let kept = case.folder.keep();
                    let failure = format!("case {number}, {kind:?}, {}: {what}", kept.display());
                    failures.lock().unwrap().push(failure);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let refused = refused.into_inner();
    println!("{cases} changed inputs, {refused} refused");
    // Changes that change nothing would test nothing.
    assert!(
        refused * 3 > cases,
        "only {refused} of {cases} were refused"
    );
}
