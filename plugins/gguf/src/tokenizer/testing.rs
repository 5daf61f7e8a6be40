//! Helpers of the tokenizer tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::*;

/// Text with what tokenizers tend to get wrong: code, accents (composed and decomposed), emoji,
/// numbers, runs of blanks, several scripts, line ends.
pub(crate) const PAGE: &str = "fn main() {\n\tlet x = 3.14159;   // comment\r\n    println!(\"{}\", x);\n}\n\n\n\
    Élan vital, naïve café, Übermensch, e\u{301}te\u{301}; Ångström — “quoted” ‘text’…\n\
    I've told them they're right: we'll see, IT'S DONE, y'all'd've.\n\
    🚀🦙 👨\u{200d}👩\u{200d}👧\u{200d}👦 ✅ 😶\u{200d}🌫\u{fe0f}\n\
    0 1 12 123 1234 12345 1,234,567.89 0x1F ½ ² ٣٤٥\n\
    a  b   c    d     e          f\t\t\tg \n   \n\
    我想在apple工作1314151天～ 日本語のテキスト、カタカナ。한국어 문장입니다.\n\
    нещо на Български ελληνικά עברית العربية हिन्दी កាន់តែពិសេស\n\
    <|endoftext|> <s> </s> <|im_start|>user\n#!/bin/sh && ls -la | grep '^d' ~/.config/*.json\u{a0}end  ";

/// Files of a model folder in memory.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Builds a folder from names and texts.
pub(crate) fn folder(files: &[(&str, &str)]) -> Files {
    files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect()
}

/// A fixture's path.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

/// Reads the tokenizer files of a real folder.
pub(crate) fn read_folder(path: &Path) -> Files {
    let read = |name: &&str| Some(((*name).to_owned(), std::fs::read(path.join(name)).ok()?));
    let files: Files = TOKENIZER_FILES.iter().filter_map(read).collect();
    assert!(
        !files.is_empty(),
        "no tokenizer files in {}",
        path.display()
    );
    files
}

/// The trained fixture.
pub(crate) fn tiny_llama() -> Files {
    read_folder(&fixture("tiny-llama"))
}

/// The folder that `to_hf` gives, with a config.json of the original and its own `vocab_size`.
pub(crate) fn written(out: &HfTokenizer, config: &Value, n_tokens: usize) -> Files {
    let mut files: Files = out.files.iter().cloned().collect();
    let mut config = config.clone();
    config["vocab_size"] = n_tokens.into();
    files.insert("config.json".to_owned(), config.to_string().into_bytes());
    files
}

/// Token ids of a text, without special tokens around it.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

/// Loads tokenizer.json of a folder.
pub(crate) fn tokenizer(files: &Files) -> Tokenizer {
    Tokenizer::from_bytes(&files["tokenizer.json"]).unwrap()
}

/// Metadata of a GGUF file in memory, by key.
pub(crate) struct Gguf(pub BTreeMap<String, TokenizerValue>);

impl Gguf {
    /// Reads the metadata of a file; keys with other types than the tokenizer's are skipped.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut cursor = Cursor(&bytes[8..]);
        let (_tensors, count) = (cursor.u64(), cursor.u64());
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = cursor.string();
            let kind = cursor.u32();
            if let Some(value) = cursor.value(kind) {
                entries.insert(key, value);
            }
        }
        Self(entries)
    }

    pub(crate) fn tokenizer(&self) -> Result<GgufTokenizer, TokenizerError> {
        GgufTokenizer::from_metadata(&|key| self.0.get(key).cloned())
    }

    pub(crate) fn string(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(TokenizerValue::String(text)) => Some(text),
            _ => None,
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take(&mut self, n: usize) -> &[u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8(self.take(n).to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Option<TokenizerValue> {
        match kind {
            0 | 1 => drop(self.take(1)),
            2 | 3 => drop(self.take(2)),
            4 | 5 => return Some(TokenizerValue::U32(self.u32())),
            6 => drop(self.take(4)),
            7 => return Some(TokenizerValue::Bool(self.take(1)[0] != 0)),
            8 => return Some(TokenizerValue::String(self.string())),
            9 => return self.array(),
            _ => drop(self.take(8)),
        }
        None
    }

    fn array(&mut self) -> Option<TokenizerValue> {
        let kind = self.u32();
        let n = self.u64();
        match kind {
            8 => Some(TokenizerValue::Strings(
                (0..n).map(|_| self.string()).collect(),
            )),
            6 => Some(TokenizerValue::F32s(
                (0..n).map(|_| f32::from_bits(self.u32())).collect(),
            )),
            5 => Some(TokenizerValue::I32s(
                (0..n).map(|_| self.u32() as i32).collect(),
            )),
            other => {
                for _ in 0..n {
                    self.value(other);
                }
                None
            }
        }
    }
}
