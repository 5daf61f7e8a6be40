//! Conversion of small tokenizers.

use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use super::proto::{ModelProto, NormalizerSpec, Piece, PieceType};
use super::*;
use crate::tokenizer::testing::{Files, folder, tiny_llama};
use crate::tokenizer::value::{TokenType, TokenizerValue};
use crate::tokenizer::{ChatTemplates, TokenizerError};

fn convert(files: &Files) -> GgufTokenizer {
    let out = from_hf(files).unwrap();
    assert!(out.warnings.is_empty(), "{:?}", out.warnings);
    out.tokenizer
}

/// tiny-llama with one JSON file edited.
fn edited(name: &str, edit: impl Fn(&mut Value)) -> Files {
    let mut files = tiny_llama();
    let mut json: Value = match files.get(name) {
        Some(bytes) => serde_json::from_slice(bytes).unwrap(),
        None => json!({}),
    };
    edit(&mut json);
    files.insert(name.to_owned(), json.to_string().into_bytes());
    files
}

fn keys(tokenizer: &GgufTokenizer) -> Vec<String> {
    tokenizer
        .entries()
        .into_iter()
        .map(|(key, _)| key)
        .collect()
}

#[test]
fn tiny_llama_is_converted() {
    let out = convert(&tiny_llama());
    assert_eq!(out.kind.as_str(), "gpt2");
    assert_eq!(out.pre.as_deref(), Some("gpt-2"));
    assert_eq!((out.tokens.len(), out.merges.len()), (2048, 1791));
    assert_eq!(out.tokens[0], "<|endoftext|>");
    assert_eq!(out.token_types[0], TokenType::Control);
    assert!(out.token_types[1..].iter().all(|t| *t == TokenType::Normal));
    assert_eq!(out.merges[..3], ["Ġ t", "h e", "Ġ a"]);
    let expected = [
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
    ];
    assert_eq!(keys(&out), expected);
    let types = out.entries().remove(3).1;
    assert!(matches!(types, TokenizerValue::I32s(codes) if codes[..2] == [3, 1]));
}

#[test]
fn holes_become_fillers() {
    let out = convert(&edited("config.json", |c| c["vocab_size"] = json!(2050)));
    assert_eq!(out.tokens[2048..], ["[PAD2048]", "[PAD2049]"]);
    assert_eq!(out.token_types[2048..], [TokenType::Unused; 2]);
    // The language model of a larger one counts.
    let nested = edited("config.json", |c| {
        c["text_config"] = json!({"vocab_size": 2049})
    });
    assert_eq!(convert(&nested).tokens.len(), 2049);
}

#[test]
fn ids_beyond_the_model_are_refused() {
    let error = from_hf(&edited("config.json", |c| c["vocab_size"] = json!(2047))).unwrap_err();
    assert!(matches!(
        error,
        TokenizerError::IdOutOfRange {
            id: 2047,
            vocab_size: 2047,
            ..
        }
    ));
    for size in [json!(0), json!(-1), json!("many")] {
        let files = edited("config.json", |c| c["vocab_size"] = size.clone());
        assert!(
            matches!(from_hf(&files), Err(TokenizerError::Malformed { .. })),
            "{size}"
        );
    }
    let huge = edited("config.json", |c| c["vocab_size"] = json!(1u64 << 40));
    assert!(matches!(
        from_hf(&huge),
        Err(TokenizerError::TooManyTokens { .. })
    ));
}

#[test]
fn added_tokens_have_types() {
    let added = |id: u32, content: &str, special: bool, normalized: bool| {
        json!({
            "id": id, "content": content, "special": special, "normalized": normalized,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    let mut files = edited("tokenizer.json", |t| {
        t["added_tokens"].as_array_mut().unwrap().extend([
            added(2048, "<tool>", false, true),
            added(2049, "<|looks|>", false, true),
            added(2050, "two  ▁blanks", false, false),
            added(2051, "[X]", true, false),
        ]);
    });
    let config = edited("config.json", |c| c["vocab_size"] = json!(2053));
    files.insert("config.json".into(), config["config.json"].clone());
    let out = convert(&files);
    assert_eq!(
        out.tokens[2048..2052],
        ["<tool>", "<|looks|>", "two   blanks", "[X]"]
    );
    let types = [
        TokenType::UserDefined,
        TokenType::Control,
        TokenType::UserDefined,
        TokenType::Control,
        TokenType::Unused,
    ];
    assert_eq!(out.token_types[2048..], types);
}

#[test]
fn the_configuration_adds_tokens() {
    let mut files = edited("tokenizer_config.json", |c| {
        c["pad_token"] = json!("<pad>");
        c["added_tokens_decoder"] = json!({
            "0": {"content": "<|endoftext|>", "special": true},
            "2048": {"content": "<mine>", "special": false, "normalized": false},
        });
    });
    let config = edited("config.json", |c| c["vocab_size"] = json!(2050));
    files.insert("config.json".into(), config["config.json"].clone());
    let out = convert(&files);
    assert_eq!(out.tokens[2048..], ["<mine>", "<pad>"]);
    assert_eq!(
        out.token_types[2048..],
        [TokenType::UserDefined, TokenType::Control]
    );
}

#[test]
fn vocab_and_merges_do_without_tokenizer_json() {
    let files = tiny_llama();
    let json: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    let pairs = json["model"]["merges"].as_array().unwrap();
    let lines: Vec<String> = pairs
        .iter()
        .map(|pair| {
            format!(
                "{} {}",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            )
        })
        .collect();
    let merges = format!("#version: 0.2\n{}\n", lines.join("\n"));
    let mut slow = folder(&[
        ("vocab.json", &json["model"]["vocab"].to_string()),
        ("merges.txt", &merges),
        (
            "tokenizer_config.json",
            r#"{"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}"#,
        ),
    ]);
    slow.insert("config.json".into(), files["config.json"].clone());
    assert_eq!(convert(&slow), convert(&files));
    slow.insert(
        "tokenizer_config.json".into(),
        br#"{"tokenizer_class": "Mine"}"#.to_vec(),
    );
    assert!(from_hf(&slow).unwrap_err().to_string().contains("Mine"));
    slow.remove("merges.txt");
    assert!(matches!(from_hf(&slow), Err(TokenizerError::Missing)));
}

#[test]
fn templates_are_found_everywhere() {
    let templates = |files: &Files| convert(files).chat_templates().cloned();
    let only = |text: &str| {
        Some(ChatTemplates {
            default: Some(text.to_owned()),
            named: Vec::new(),
        })
    };
    assert_eq!(templates(&tiny_llama()), None);
    let mut files = tiny_llama();
    files.insert(
        "chat_template.json".into(),
        br#"{"chat_template": "from json"}"#.to_vec(),
    );
    assert_eq!(templates(&files), only("from json"));
    files.insert("chat_template.jinja".into(), b"from\r\njinja".to_vec());
    assert_eq!(templates(&files), only("from\njinja"));
    files.insert(
        "additional_chat_templates/tool use.jinja".into(),
        b"tools".to_vec(),
    );
    files.insert(
        "additional_chat_templates/rag.jinja".into(),
        b"rag".to_vec(),
    );
    let named = vec![
        ("rag".into(), "rag".into()),
        ("tool_use".into(), "tools".into()),
    ];
    let several = ChatTemplates {
        default: Some("from\njinja".into()),
        named,
    };
    assert_eq!(templates(&files), Some(several));
    let tail = keys(&convert(&files)).split_off(7);
    let expected = [
        "tokenizer.chat_template.rag",
        "tokenizer.chat_template.tool_use",
        "tokenizer.chat_templates",
        "tokenizer.chat_template",
    ];
    assert_eq!(tail, expected);
    // tokenizer_config.json wins, even with a null.
    let config = |value: Value| {
        edited("tokenizer_config.json", |c| {
            c["chat_template"] = value.clone()
        })
    };
    for (value, expected) in [
        (json!("mine"), only("mine")),
        (
            json!([{"name": "default", "template": "listed"}]),
            only("listed"),
        ),
        (Value::Null, None),
    ] {
        files.insert(
            "tokenizer_config.json".into(),
            config(value)["tokenizer_config.json"].clone(),
        );
        assert_eq!(templates(&files), expected);
    }
    let wrong = from_hf(&config(json!(7))).unwrap();
    assert_eq!(
        (wrong.tokenizer.chat_templates(), wrong.warnings.len()),
        (None, 1)
    );
}

#[test]
fn roles_come_from_several_files() {
    let config = edited("config.json", |c| {
        c["pad_token_id"] = json!(7);
        c["sep_token_id"] = json!(-1);
    });
    let out = from_hf(&config).unwrap();
    assert_eq!(out.tokenizer.special_id(SpecialToken::Pad), Some(7));
    assert_eq!(out.tokenizer.special_id(SpecialToken::Sep), None);
    assert_eq!(out.warnings.len(), 1);
    // Without the usual places, the others are asked.
    let mut bare = edited("config.json", |c| {
        c.as_object_mut()
            .unwrap()
            .retain(|key, _| !key.ends_with("token_id"));
    });
    bare.remove("tokenizer_config.json");
    bare.insert(
        "generation_config.json".into(),
        br#"{"eos_token_id": [5, 6]}"#.to_vec(),
    );
    bare.insert(
        "special_tokens_map.json".into(),
        br#"{"bos_token": "<|endoftext|>"}"#.to_vec(),
    );
    let out = convert(&bare);
    assert_eq!(out.special_id(SpecialToken::Bos), Some(0));
    assert_eq!(out.special_id(SpecialToken::Eos), Some(5));
}

#[test]
fn families_have_settings_of_their_own() {
    let prefix = edited("tokenizer_config.json", |c| {
        c["add_prefix_space"] = json!(false)
    });
    assert_eq!(
        keys(&convert(&prefix))[0],
        "tokenizer.ggml.add_space_prefix"
    );
    let wide = convert(&edited("config.json", |c| c["vocab_size"] = json!(49152)));
    assert_eq!(wide.adds(AddedAround::Bos), Some(false));
    assert_eq!(keys(&wide).last().unwrap(), "tokenizer.ggml.add_bos_token");
    let code = convert(&edited("config.json", |c| c["vocab_size"] = json!(32016)));
    assert_eq!(code.special_id(SpecialToken::Eot), Some(32010));
}

#[test]
fn unknown_kinds_are_refused() {
    let unigram = edited("tokenizer.json", |t| t["model"]["type"] = json!("Unigram"));
    let error = from_hf(&unigram).unwrap_err();
    assert!(matches!(error, TokenizerError::UnsupportedKind { kind } if kind == "Unigram"));
    assert!(matches!(
        from_hf(&folder(&[])),
        Err(TokenizerError::Missing)
    ));
    let broken = folder(&[("tokenizer.json", "{")]);
    assert!(matches!(from_hf(&broken), Err(TokenizerError::Json { .. })));
}

/// A SentencePiece model: three special pieces, 256 bytes, two words and their letters.
fn sentencepiece(dummy_prefix: bool) -> ModelProto {
    let piece = |text: &str, score: f32, kind: PieceType| Piece {
        piece: Some(text.to_owned()),
        score: Some(score),
        kind: Some(kind as i32),
    };
    let mut pieces = vec![
        piece("<unk>", 0.0, PieceType::Unknown),
        piece("<s>", 0.0, PieceType::Control),
        piece("</s>", 0.0, PieceType::Control),
    ];
    pieces.extend((0..256).map(|b| piece(&format!("<0x{b:02X}>"), 0.0, PieceType::Byte)));
    let words = ["ab", "▁ab", "▁", "a", "b"];
    pieces.extend(
        words
            .iter()
            .enumerate()
            .map(|(i, w)| piece(w, -(i as f32), PieceType::Normal)),
    );
    let normalizer = NormalizerSpec {
        add_dummy_prefix: Some(dummy_prefix),
        ..Default::default()
    };
    ModelProto {
        pieces,
        trainer_spec: None,
        normalizer_spec: Some(normalizer),
    }
}

fn sentencepiece_folder(config: &Value, dummy_prefix: bool) -> Files {
    let mut files = folder(&[("config.json", &config.to_string())]);
    files.insert(
        "tokenizer.model".into(),
        sentencepiece(dummy_prefix).encode_to_vec(),
    );
    files
}

#[test]
fn sentencepiece_is_converted() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 268, "bos_token_id": 1,
        "eos_token_id": 2,
    });
    let mut files = sentencepiece_folder(&config, true);
    files.insert(
        "added_tokens.json".into(),
        br#"{"<new>": 264, "<far>": 999}"#.to_vec(),
    );
    let decoder = json!({"added_tokens_decoder": {
        "265": {"content": "<|x|>", "special": false}, "266": {"content": "▁▁", "special": false},
    }});
    files.insert(
        "tokenizer_config.json".into(),
        decoder.to_string().into_bytes(),
    );
    let out = from_hf(&files).unwrap();
    assert!(
        out.warnings[0].contains("1 tokens beyond"),
        "{:?}",
        out.warnings
    );
    let out = out.tokenizer;
    assert_eq!(
        (out.kind.as_str(), out.pre.as_deref()),
        ("llama", Some("default"))
    );
    assert_eq!(out.tokens[263..], ["b", "<new>", "<|x|>", "  ", "[PAD267]"]);
    let types = [
        TokenType::Normal,
        TokenType::UserDefined,
        TokenType::Control,
        TokenType::UserDefined,
        TokenType::Unused,
    ];
    assert_eq!(out.token_types[263..], types);
    assert_eq!(
        out.token_types[..4],
        [
            TokenType::Unknown,
            TokenType::Control,
            TokenType::Control,
            TokenType::Byte
        ]
    );
    let scores = out.scores.as_deref().unwrap();
    assert_eq!(
        scores[259..],
        [
            0.0, -1.0, -2.0, -3.0, -4.0, -1000.0, -1000.0, -1000.0, -10000.0
        ]
    );
    let expected = [
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
    ];
    assert_eq!(keys(&out), expected);
}

#[test]
fn llama_cpp_is_told_when_there_is_no_leading_space() {
    let config = json!({"architectures": ["LlamaForCausalLM"]});
    assert_eq!(
        convert(&sentencepiece_folder(&config, true)).add_space_prefix(),
        None
    );
    assert_eq!(
        convert(&sentencepiece_folder(&config, false)).add_space_prefix(),
        Some(false)
    );
    let gemma = json!({"architectures": ["Gemma2ForCausalLM"]});
    assert_eq!(
        convert(&sentencepiece_folder(&gemma, true)).add_space_prefix(),
        Some(false)
    );
}

#[test]
fn a_tokenizer_model_of_another_format_gives_way() {
    let mut files = tiny_llama();
    files.insert("tokenizer.model".into(), b"IQ== 0\nIg== 1\n".to_vec());
    let out = from_hf(&files).unwrap();
    assert_eq!(out.tokenizer, convert(&tiny_llama()));
    assert_eq!(out.warnings.len(), 1);
    files.remove("tokenizer.json");
    assert!(
        from_hf(&files)
            .unwrap_err()
            .to_string()
            .contains("tokenizer.model")
    );
    files.insert("tokenizer.model".into(), vec![0xff; 20]);
    let error = from_hf(&files).unwrap_err();
    assert!(matches!(error, TokenizerError::SentencePiece(_)), "{error}");
}

/// Llama 2's tokenizer.json in small.
fn llama_2_json(prepend: bool) -> Value {
    let mut vocab = serde_json::Map::new();
    for piece in sentencepiece(true).pieces {
        let id = vocab.len();
        vocab.insert(piece.piece.unwrap(), id.into());
    }
    let special = |id: u32, text: &str| {
        json!({
            "id": id, "content": text, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = if prepend {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, escape]})
    } else {
        escape
    };
    json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": normalizer, "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": ["a b", "▁ ab"]},
    })
}

#[test]
fn ranked_merges_become_scores() {
    let config = r#"{"tokenizer_class": "LlamaTokenizer", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#;
    let mut files = folder(&[
        ("tokenizer.json", &llama_2_json(true).to_string()),
        ("tokenizer_config.json", config),
        (
            "config.json",
            r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 265}"#,
        ),
    ]);
    let out = convert(&files);
    assert_eq!(out.kind, VocabKind::Spm);
    let scores = out.scores.as_deref().unwrap();
    // ab, ▁ab as the merges make them, then ▁, a, b by id; as SentencePiece has them.
    assert_eq!(scores[259..264], [0.0, -1.0, -5.0, -6.0, -7.0]);
    assert_eq!(scores[..4], [-1000.0, -1000.0, -1000.0, 0.0]);
    assert_eq!(out.tokens[264], "[PAD264]");
    assert_eq!(out.token_types[0], TokenType::Control);
    assert_eq!(out.adds(AddedAround::Bos), Some(true));
    assert_eq!(out.special_id(SpecialToken::Bos), Some(1));
    assert_eq!(out.add_space_prefix(), None);
    files.insert(
        "tokenizer.json".into(),
        llama_2_json(false).to_string().into_bytes(),
    );
    assert_eq!(convert(&files).add_space_prefix(), Some(false));
}

#[test]
fn gemma_4_keeps_its_merges() {
    let files = folder(&[
        ("tokenizer.json", &llama_2_json(false).to_string()),
        (
            "config.json",
            r#"{"architectures": ["Gemma4ForConditionalGeneration"]}"#,
        ),
    ]);
    let out = convert(&files);
    assert_eq!((out.kind.as_str(), out.pre.as_deref()), ("gemma4", None));
    assert_eq!(out.merges, ["a b", "▁ ab"]);
    assert_eq!(out.add_space_prefix(), Some(false));
    assert_eq!(out.adds(AddedAround::Bos), Some(true));
}

proptest! {
    /// Damaged model files are refused or converted, never a crash.
    #[test]
    fn damaged_sentencepiece_files_are_harmless(
        cut in 0usize..4000,
        flips in proptest::collection::vec((0usize..4000, any::<u8>()), 0..8),
    ) {
        let mut bytes = sentencepiece(true).encode_to_vec();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut);
        let mut files = Files::new();
        files.insert("tokenizer.model".into(), bytes);
        if let Ok(out) = from_hf(&files) {
            prop_assert_eq!(out.tokenizer.tokens.len(), out.tokenizer.token_types.len());
        }
    }

    /// Any JSON in place of the configuration is refused or read, never a crash.
    #[test]
    fn odd_configurations_are_harmless(
        value in prop_oneof![
            Just(json!(null)), Just(json!([])), Just(json!({})), Just(json!("<s>")), Just(json!(-7)),
            Just(json!(1e300)), Just(json!({"content": 3})), Just(json!([{"id": "x"}])),
            Just(json!({"x": {"content": "y"}})), Just(json!({"5": {"content": ""}})),
        ],
        key in prop_oneof![
            Just("added_tokens_decoder"), Just("bos_token"), Just("add_bos_token"),
            Just("chat_template"), Just("extra_special_tokens"), Just("tokenizer_class"),
            Just("vocab_size"), Just("text_config"), Just("architectures"), Just("eos_token_id"),
        ],
    ) {
        let mut files = sentencepiece_folder(&json!({key: value}), true);
        files.insert("tokenizer_config.json".into(), json!({key: value}).to_string().into_bytes());
        files.insert("special_tokens_map.json".into(), json!({key: value}).to_string().into_bytes());
        files.insert("generation_config.json".into(), json!({key: value}).to_string().into_bytes());
        let _ = from_hf(&files);
    }
}
