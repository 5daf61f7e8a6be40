//! Recognising pre-tokenizers.

use serde_json::{Value, json};

use super::*;
use crate::tokenizer::testing::{PAGE, encode, tiny_llama};

/// A byte-level tokenizer that knows the 256 bytes, one merge and nothing else.
fn bytes_tokenizer(pre_tokenizer: Value, ignore_merges: bool) -> (Tokenizer, TokenizerJson) {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut letters: Vec<String> = alphabet.into_iter().map(String::from).collect();
    letters.sort();
    letters.push("th".to_owned());
    let vocab: serde_json::Map<String, Value> = letters
        .into_iter()
        .enumerate()
        .map(|(id, text)| (text, id.into()))
        .collect();
    let json = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "decoder": json::byte_level_decoder(), "pre_tokenizer": pre_tokenizer,
        "model": {
            "type": "BPE", "vocab": vocab, "merges": ["t h"], "ignore_merges": ignore_merges,
        },
    });
    let bytes = json.to_string();
    (
        Tokenizer::from_bytes(&bytes).unwrap(),
        serde_json::from_str(&bytes).unwrap(),
    )
}

fn split(regex: &str, behavior: &str, invert: bool) -> Value {
    json!({
        "type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert,
    })
}

/// Splits followed by a plain `ByteLevel`.
fn sequence(mut steps: Vec<Value>) -> Value {
    steps.push(json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    }));
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn name(pre_tokenizer: Value, ignore_merges: bool) -> &'static str {
    let (tokenizer, json) = bytes_tokenizer(pre_tokenizer, ignore_merges);
    recognise(&tokenizer, &json).unwrap().name
}

fn refusal(pre_tokenizer: Value) -> String {
    let (tokenizer, json) = bytes_tokenizer(pre_tokenizer, false);
    recognise(&tokenizer, &json).unwrap_err().to_string()
}

fn splits(name: &str) -> Vec<Value> {
    let known = known::by_name(name).unwrap();
    known
        .splits
        .iter()
        .map(|regex| split(regex, "Isolated", false))
        .collect()
}

#[test]
fn every_group_is_found_by_its_rules() {
    for known in KNOWN
        .iter()
        .filter(|k| k.spelling == known::Spelling::ByteLevel)
    {
        let found = name(sequence(splits(known.names[0])), known.ignore_merges);
        let found = known::by_name(found).unwrap();
        assert_eq!(found.splits, known.splits, "{:?}", known.names);
    }
}

#[test]
fn other_spellings_are_found_too() {
    let cl100k = r"'(?i:[sdmt]|ll|ve|re)|[^\p{N}\r\n\p{L}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    assert_eq!(
        name(sequence(vec![split(cl100k, "Isolated", false)]), true),
        "llama-bpe"
    );
    assert_eq!(
        name(sequence(vec![split(cl100k, "Removed", true)]), true),
        "llama-bpe"
    );
    let gpt2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    assert_eq!(
        name(sequence(vec![split(gpt2, "Isolated", false)]), false),
        "gpt-2"
    );
    let starcoder = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]});
    assert_eq!(name(starcoder, false), "smollm");
}

#[test]
fn merging_everything_makes_ignore_merges_immaterial() {
    let (tokenizer, json) = bytes_tokenizer(sequence(splits("gpt-2")), true);
    assert_eq!(recognise(&tokenizer, &json).unwrap().name, "gpt-2");
    assert!(merges_reach_every_token(&tokenizer));
    // Without the merge, "th" is a token that merging never makes.
    let mut json: Value = serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap();
    json["model"]["merges"] = json!([]);
    let bytes = json.to_string();
    let unreachable = Tokenizer::from_bytes(&bytes).unwrap();
    assert!(!merges_reach_every_token(&unreachable));
    assert!(recognise(&unreachable, &serde_json::from_str(&bytes).unwrap()).is_err());
}

#[test]
fn what_is_unlike_all_names_is_refused_with_a_hint() {
    let almost = known::by_name("qwen2").unwrap().splits[0].replace(r"\p{N}|", r"\p{N}{1,5}|");
    let message = refusal(sequence(vec![split(&almost, "Isolated", false)]));
    assert!(message.contains("qwen2 ("), "{message}");
    assert!(message.contains("fingerprint"), "{message}");
    let prefixed = json!({
        "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
    });
    assert!(refusal(prefixed).contains("add_prefix_space"));
    assert!(refusal(json!({"type": "Whitespace"})).contains("Whitespace"));
}

#[test]
fn tiny_llama_splits_as_gpt_2_does() {
    let files = tiny_llama();
    let tokenizer = Tokenizer::from_bytes(&files["tokenizer.json"]).unwrap();
    let json: TokenizerJson = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    let found = recognise(&tokenizer, &json).unwrap();
    assert_eq!(
        found,
        Found {
            name: "gpt-2",
            implies_bos: false
        }
    );

    // The rules behind the name give the same ids.
    let rules = json::pre_tokenizer(known::by_name("gpt-2").unwrap());
    let rules: PreTokenizerWrapper = serde_json::from_value(rules).unwrap();
    let mut rewritten = tokenizer.clone();
    rewritten.with_pre_tokenizer(Some(rules));
    assert_eq!(encode(&rewritten, PAGE), encode(&tokenizer, PAGE));
}

#[test]
fn llama_cpps_expression_for_gpt_2_cuts_alike() {
    // llama.cpp leaves out the last alternative of Hugging Face's expression.
    let llama_cpp = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
    let wrapper = |regex| -> PreTokenizerWrapper {
        serde_json::from_value(split(regex, "Isolated", false)).unwrap()
    };
    let cut = |pre_tokenizer: PreTokenizerWrapper| {
        let mut text = PreTokenizedString::from(PAGE);
        pre_tokenizer.pre_tokenize(&mut text).unwrap();
        let pieces = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces
            .into_iter()
            .map(|(piece, _, _)| piece.to_owned())
            .collect::<Vec<_>>()
    };
    let pieces = cut(wrapper(llama_cpp));
    assert!(pieces.len() > 150);
    assert_eq!(pieces, cut(wrapper(known::GPT2)));
}
