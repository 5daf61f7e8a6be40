//! Writing Hugging Face files, and reading them back.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tokenizer::metadata::{ChatTemplates, Setting, VocabKind};
use crate::tokenizer::testing::{Files, PAGE, encode, tiny_llama, tokenizer, written};
use crate::tokenizer::value::{AddedAround, SpecialToken, TokenType, TokenizerValue};
use crate::tokenizer::{GgufTokenizer, from_hf};

const LLAMA: ToHfOptions<'_> = ToHfOptions {
    architecture: Some("llama"),
    context_length: Some(512),
};

fn llama_config() -> Value {
    json!({"architectures": ["LlamaForCausalLM"]})
}

fn write(tokenizer: &GgufTokenizer) -> Files {
    let out = to_hf(tokenizer, LLAMA).unwrap();
    assert!(out.warnings.is_empty(), "{:?}", out.warnings);
    written(&out, &llama_config(), tokenizer.tokens.len())
}

fn json_file(files: &Files, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

/// Checks that writing and reading gives the same metadata, and returns the folder.
fn round_trip(original: &GgufTokenizer) -> Files {
    let files = write(original);
    let again = from_hf(&files).unwrap();
    assert_eq!(again.tokenizer.entries(), original.entries());
    files
}

fn tiny() -> GgufTokenizer {
    from_hf(&tiny_llama()).unwrap().tokenizer
}

#[test]
fn tiny_llama_survives() {
    let files = round_trip(&tiny());
    let before = encode(&tokenizer(&tiny_llama()), PAGE);
    assert_eq!(encode(&tokenizer(&files), PAGE), before);
    let config = json_file(&files, "tokenizer_config.json");
    let expected = json!({
        "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": false, "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    assert_eq!(config, expected);
    assert!(!files.contains_key("tokenizer.model"));
}

#[test]
fn tiny_llama_encodes_as_transformers_does() {
    let files = write(&tiny());
    let reference = std::fs::read(crate::tokenizer::testing::fixture("reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let prompt = reference["tiny-llama"]["prompt"].as_str().unwrap();
    let ids: Vec<u32> =
        serde_json::from_value(reference["tiny-llama"]["prompt_ids"].clone()).unwrap();
    assert_eq!(encode(&tokenizer(&files), prompt), ids);
}

#[test]
fn metadata_is_read_back_from_its_entries() {
    let mut original = tiny();
    original.set(Setting::AddSpacePrefix(false));
    original.set(Setting::Add(AddedAround::Bos, true));
    original.set(Setting::ChatTemplates(ChatTemplates {
        default: None,
        named: vec![("a".into(), "x".into())],
    }));
    let entries = original.entries();
    let lookup = |key: &str| {
        entries
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.clone())
    };
    let read = GgufTokenizer::from_metadata(&lookup).unwrap();
    let sorted = |tokenizer: &GgufTokenizer| {
        let mut entries = tokenizer.entries();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
    };
    assert_eq!(sorted(&read), sorted(&original));
}

#[test]
fn settings_survive() {
    let flags = [None, Some(false), Some(true)];
    for bos in flags {
        for eos in flags {
            for sep in flags {
                let mut original = tiny();
                original.set(Setting::SpecialId(SpecialToken::Bos, 0));
                original.set(Setting::SpecialId(SpecialToken::Eos, 1));
                original.token_types[1] = TokenType::Control;
                for (what, flag) in AddedAround::ALL.into_iter().zip([bos, eos, sep]) {
                    if let Some(yes) = flag {
                        original.set(Setting::Add(what, yes));
                    }
                }
                let again = from_hf(&write(&original)).unwrap().tokenizer;
                for what in AddedAround::ALL {
                    assert_eq!(
                        again.adds(what),
                        original.adds(what),
                        "{what:?} of {bos:?} {eos:?} {sep:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn bos_and_eos_are_put_around_text() {
    let mut original = tiny();
    original.set(Setting::Add(AddedAround::Bos, true));
    original.set(Setting::Add(AddedAround::Eos, true));
    let tokenizer = tokenizer(&round_trip(&original));
    let ids = tokenizer.encode("It is", true).unwrap().get_ids().to_vec();
    assert_eq!((ids[0], ids[ids.len() - 1]), (0, 0));
    assert_eq!(ids[1..ids.len() - 1], encode(&tokenizer, "It is"));
}

#[test]
fn the_end_of_a_turn_survives() {
    let mut original = tiny();
    original.settings.clear();
    original.token_types[1] = TokenType::Control;
    original.set(Setting::SpecialId(SpecialToken::Bos, 0));
    original.set(Setting::SpecialId(SpecialToken::Eos, 0));
    original.set(Setting::SpecialId(SpecialToken::Eot, 1));
    original.set(Setting::Add(AddedAround::Eos, true));
    let files = round_trip(&original);
    assert_eq!(
        json_file(&files, "tokenizer_config.json")["eos_token"],
        original.tokens[1]
    );
}

#[test]
fn added_tokens_and_fillers_survive() {
    let mut original = tiny();
    for (text, kind) in [
        ("<tool>", TokenType::UserDefined),
        ("  ", TokenType::UserDefined),
        ("[PAD2050]", TokenType::Unused),
        ("ÁÁ", TokenType::UserDefined),
        ("<|end|>", TokenType::Control),
        ("[PAD2053]", TokenType::Unused),
    ] {
        original.tokens.push(text.to_owned());
        original.token_types.push(kind);
    }
    let tokenizer = tokenizer(&round_trip(&original));
    let ids = encode(&tokenizer, "a<tool>  b<|end|>");
    assert_eq!(ids[1..3], [2048, 2049]);
    assert_eq!(ids[4], 2052);
}

#[test]
fn templates_survive() {
    for (default, named) in [
        (Some("only"), vec![]),
        (Some("main"), vec![("a", "x"), ("b", "y")]),
        (None, vec![("a", "x")]),
    ] {
        let mut original = tiny();
        let own = |text: &str| text.to_owned();
        original.set(Setting::ChatTemplates(ChatTemplates {
            default: default.map(own),
            named: named.iter().map(|(n, t)| (own(n), own(t))).collect(),
        }));
        round_trip(&original);
    }
}

#[test]
fn unknown_rules_and_broken_vocabularies_are_refused() {
    let mut original = tiny();
    original.pre = Some("mystery".into());
    assert!(matches!(
        to_hf(&original, LLAMA),
        Err(TokenizerError::UnknownPreName { .. })
    ));
    let mut original = tiny();
    original.tokens[5] = original.tokens[4].clone();
    let twice = TokenizerError::DuplicateToken {
        text: "$".into(),
        first: 4,
        second: 5,
    };
    assert_eq!(
        to_hf(&original, LLAMA).unwrap_err().to_string(),
        twice.to_string()
    );
    let mut original = tiny();
    original.kind = VocabKind::Spm;
    assert!(matches!(
        to_hf(&original, LLAMA),
        Err(TokenizerError::Metadata { .. })
    ));
    // A merge that makes no token is no use, and `tokenizers` would refuse the file.
    let mut original = tiny();
    original.merges.push("zz zz".into());
    assert_eq!(to_hf(&original, LLAMA).unwrap().warnings.len(), 1);
}

#[test]
fn broken_metadata_is_refused() {
    let strings = |n: usize| TokenizerValue::Strings((0..n).map(|i| i.to_string()).collect());
    let read = |overrides: &[(&str, TokenizerValue)]| {
        let lookup = |key: &str| {
            let given = overrides
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, v)| v.clone());
            given.or_else(|| match key {
                "tokenizer.ggml.model" => Some(TokenizerValue::String("gpt2".into())),
                "tokenizer.ggml.tokens" => Some(strings(3)),
                _ => None,
            })
        };
        GgufTokenizer::from_metadata(&lookup)
    };
    assert_eq!(read(&[]).unwrap().token_types, [TokenType::Normal; 3]);
    for (key, value) in [
        (
            "tokenizer.ggml.model",
            TokenizerValue::String("rwkv".into()),
        ),
        ("tokenizer.ggml.model", TokenizerValue::Bool(true)),
        ("tokenizer.ggml.tokens", TokenizerValue::U32(1)),
        (
            "tokenizer.ggml.tokens",
            TokenizerValue::Strings(vec!["a".into(), "a".into()]),
        ),
        ("tokenizer.ggml.scores", TokenizerValue::F32s(vec![0.0; 2])),
        (
            "tokenizer.ggml.token_type",
            TokenizerValue::I32s(vec![1; 2]),
        ),
        ("tokenizer.ggml.bos_token_id", TokenizerValue::Bool(true)),
        ("tokenizer.ggml.add_bos_token", TokenizerValue::U32(1)),
    ] {
        assert!(read(&[(key, value.clone())]).is_err(), "{key} {value:?}");
    }
    // llama.cpp ignores ids outside the vocabulary.
    let far = read(&[("tokenizer.ggml.bos_token_id", TokenizerValue::U32(3))]).unwrap();
    assert_eq!(far.special_id(SpecialToken::Bos), None);
}

/// A SentencePiece vocabulary over the letters a to d, with byte pieces and the given words.
fn sentencepiece(words: &[&str]) -> GgufTokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut types = vec![TokenType::Unknown, TokenType::Control, TokenType::Control];
    let mut scores = vec![0.0; 3];
    for byte in 0..256 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(TokenType::Byte);
        scores.push(0.0);
    }
    for (rank, piece) in words.iter().chain(&["▁", "a", "b", "c", "d"]).enumerate() {
        tokens.push((*piece).to_owned());
        types.push(TokenType::Normal);
        scores.push(-(rank as f32));
    }
    for (text, kind, score) in [
        ("<mine>", TokenType::UserDefined, -1000.0),
        ("<|turn|>", TokenType::Control, -1000.0),
        ("[PAD0]", TokenType::Unused, -10000.0),
    ] {
        let text = text.replace("[PAD0]", &format!("[PAD{}]", tokens.len()));
        tokens.push(text);
        types.push(kind);
        scores.push(score);
    }
    let mut out = GgufTokenizer::new(VocabKind::Spm, tokens, types);
    out.pre = Some("default".into());
    out.scores = Some(scores);
    out.set(Setting::SpecialId(SpecialToken::Bos, 1));
    out.set(Setting::SpecialId(SpecialToken::Eos, 2));
    out.set(Setting::SpecialId(SpecialToken::Unk, 0));
    out.set(Setting::Add(AddedAround::Bos, true));
    out.set(Setting::Add(AddedAround::Eos, false));
    out
}

/// SentencePiece's algorithm as llama.cpp has it: merge the neighbours whose text has the best
/// score, the leftmost among equals; spell what is left in bytes.
fn merge_by_score(model: &GgufTokenizer, text: &str) -> Vec<u32> {
    let scores = model.scores.as_deref().unwrap();
    let id = |text: &str| model.tokens.iter().position(|token| token == text);
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..symbols.len() {
            let merged = format!("{}{}", symbols[at - 1], symbols[at]);
            if let Some(id) = id(&merged)
                && best.is_none_or(|(score, _)| scores[id] > score)
            {
                best = Some((scores[id], at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at);
        symbols[at - 1].push_str(&right);
    }
    let spell = |symbol: &String| match id(symbol) {
        Some(id) => vec![id as u32],
        None => symbol.bytes().map(|byte| u32::from(byte) + 3).collect(),
    };
    symbols.iter().flat_map(spell).collect()
}

#[test]
fn sentencepiece_survives() {
    let original = sentencepiece(&["▁a", "ab", "▁ab", "cd", "abcd"]);
    let files = round_trip(&original);
    let tokenizer = tokenizer(&files);
    for text in ["ab cd", "abcd  aé", "dcba", ""] {
        if !text.is_empty() {
            assert_eq!(
                encode(&tokenizer, text),
                merge_by_score(&original, text),
                "{text:?}"
            );
        }
        let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(ids[0], 1);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    let added = encode(&tokenizer, "<mine>");
    assert_eq!(
        added,
        [original.tokens.iter().position(|t| t == "<mine>").unwrap() as u32]
    );
    // Without tokenizer.model, scores are made from the merges and the order stays.
    let mut fast_only = files.clone();
    fast_only.remove("tokenizer.model");
    let again = from_hf(&fast_only).unwrap().tokenizer;
    assert_eq!(again.tokens, original.tokens);
    for text in ["ab cd", "abcd  aé", "dcba"] {
        assert_eq!(
            merge_by_score(&again, text),
            merge_by_score(&original, text)
        );
    }
}

#[test]
fn a_missing_leading_space_survives() {
    let mut original = sentencepiece(&["ab"]);
    original.leading.push(Setting::AddSpacePrefix(false));
    let files = round_trip(&original);
    let tokenizer = tokenizer(&files);
    assert_eq!(encode(&tokenizer, "ab"), [259]);
    assert_eq!(tokenizer.decode(&[259], false).unwrap(), "ab");
}

proptest! {
    /// Ranked merges made from scores give what merging by score gives.
    ///
    /// Every word is an earlier piece with a letter at its end: then a piece is made in one way
    /// only, as in vocabularies that were trained.
    #[test]
    fn merges_follow_scores(
        growth in proptest::collection::vec((0usize..64, "[abcd]"), 1..24),
        texts in proptest::collection::vec("[abcd é]{1,24}", 4),
    ) {
        let mut words: Vec<String> = Vec::new();
        for (from, letter) in growth {
            let base = words.get(from % (words.len() + 1)).cloned().unwrap_or_else(|| "a".into());
            let word = base + &letter;
            if !words.contains(&word) {
                words.push(word);
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let model = sentencepiece(&words);
        let tokenizer = tokenizer(&write(&model));
        for text in texts {
            prop_assert_eq!(encode(&tokenizer, &text), merge_by_score(&model, &text), "{:?}", text);
        }
    }
}
