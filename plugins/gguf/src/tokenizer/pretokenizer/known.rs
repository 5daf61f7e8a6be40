//! The splitting rules behind each of llama.cpp's pre-tokenizer names.
//!
//! llama.cpp applies a list of expressions one after another, each cutting the pieces of the one
//! before; Hugging Face writes the same as a `Sequence` of `Split`s. The expressions here are in
//! Hugging Face's spelling (the originals of the models that gave the names), from which both
//! directions work: recognising a tokenizer's rules, and writing rules for a name.
//! Source of the names and lists: `src/llama-vocab.cpp` of llama.cpp.

/// How pieces of text are spelled once they are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tokenizer) enum Spelling {
    /// Bytes as printable characters, GPT-2's alphabet.
    ByteLevel,
    /// UTF-8, with `▁` for spaces and `<0xNN>` for bytes that no token covers.
    SentencePiece,
}

/// What one group of names stands for.
#[derive(Debug)]
pub(in crate::tokenizer) struct KnownPre {
    /// llama.cpp's names. A tokenizer recognised by its rules gets the first.
    pub names: &'static [&'static str],
    /// Regular expressions, applied in turn; matches and the text between become pieces.
    pub splits: &'static [&'static str],
    /// Whether a piece that is a token is taken whole, without merging.
    pub ignore_merges: bool,
    /// Whether the models of that name normalise to NFC. llama.cpp does not.
    pub nfc: bool,
    /// Whether llama.cpp puts BOS in front when the file does not say.
    pub adds_bos: bool,
    /// How pieces are spelled.
    pub spelling: Spelling,
}

const DEFAULTS: KnownPre = KnownPre {
    names: &[],
    splits: &[],
    ignore_merges: false,
    nfc: false,
    adds_bos: false,
    spelling: Spelling::ByteLevel,
};

/// The expression built into Hugging Face's `ByteLevel` (GPT-2's).
pub(in crate::tokenizer) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Every digit on its own.
pub(in crate::tokenizer) const DIGIT: &str = r"\p{N}";
/// Runs of digits.
pub(in crate::tokenizer) const DIGITS: &str = r"\p{N}+";
const DIGITS_3: &str = r"\p{N}{1,3}";
/// ASCII and Unicode punctuation in runs: Hugging Face's `Punctuation` with `Contiguous`.
pub(in crate::tokenizer) const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const YOUTU_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";
const CJK_WIDE: &str = "[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// The table. Groups that differ only in how llama.cpp prints text are one row.
pub(in crate::tokenizer) const KNOWN: &[KnownPre] = &[
    KnownPre {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        splits: &[GPT2],
        ..DEFAULTS
    },
    KnownPre {
        names: &["olmo", "mpt"],
        splits: &[GPT2],
        nfc: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        splits: &[DIGIT, GPT2],
        ..DEFAULTS
    },
    KnownPre {
        names: &["command-r"],
        splits: &[DIGIT, GPT2],
        nfc: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        splits: &[LLAMA3],
        ignore_merges: true,
        adds_bos: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["glm4", "glm5"],
        splits: &[LLAMA3],
        ignore_merges: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["smaug-bpe", "dbrx", "chatglm-bpe"],
        splits: &[LLAMA3],
        ..DEFAULTS
    },
    KnownPre {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"],
        splits: &[QWEN2],
        nfc: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["stablelm2", "hunyuan", "solar-open", "grok-2"],
        splits: &[QWEN2],
        ..DEFAULTS
    },
    KnownPre {
        names: &["qwen35"],
        splits: &[QWEN35],
        ..DEFAULTS
    },
    KnownPre {
        names: &["deepseek-llm"],
        splits: &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            CJK_WIDE,
            DIGITS,
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["deepseek-coder"],
        splits: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK_WIDE, DIGIT],
        ..DEFAULTS
    },
    KnownPre {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        splits: &[DIGITS_3, CJK, DEEPSEEK3],
        ..DEFAULTS
    },
    KnownPre {
        names: &["spark2_5"],
        splits: &[
            DIGITS_3,
            CJK,
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
            DIGIT,
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["youtu"],
        splits: &[
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
            YOUTU_WORDS,
        ],
        ignore_merges: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["falcon"],
        splits: &[PUNCTUATION, GPT2, "[0-9][0-9][0-9]"],
        ..DEFAULTS
    },
    KnownPre {
        names: &["default"],
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, DIGITS, "[0-9][0-9][0-9]"],
        ..DEFAULTS
    },
    KnownPre {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        splits: &[BLOOM],
        ..DEFAULTS
    },
    KnownPre {
        names: &["viking"],
        splits: &[BLOOM, DIGIT],
        ..DEFAULTS
    },
    KnownPre {
        names: &["tekken"],
        splits: &[TEKKEN],
        ignore_merges: true,
        adds_bos: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["chameleon"],
        splits: &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
        adds_bos: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        splits: &[GPT4O],
        ..DEFAULTS
    },
    KnownPre {
        names: &["granite-embed-multi-97m"],
        splits: &[GPT4O],
        ignore_merges: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["tiny_aya", "cohere2moe"],
        splits: &[r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
        ..DEFAULTS
    },
    KnownPre {
        names: &["kimi-k2"],
        splits: &[KIMI_K2],
        ..DEFAULTS
    },
    KnownPre {
        names: &["superbpe"],
        splits: &[DIGITS, r"(?=(\d{3})+(?!\d))"],
        ..DEFAULTS
    },
    KnownPre {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        splits: &[
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["seed-coder"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["ufakzeka"],
        splits: &[
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["afmoe"],
        splits: &[
            r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
            "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
            DEEPSEEK3,
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["laguna"],
        splits: &[r"[^\n]+|[\n]+", QWEN2],
        ..DEFAULTS
    },
    KnownPre {
        names: &["exaone-moe"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["minicpm5"],
        splits: &[
            DIGITS_3,
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: true,
        ..DEFAULTS
    },
    KnownPre {
        names: &["jais-2"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        ],
        ..DEFAULTS
    },
    KnownPre {
        names: &["gemma4", "granite-embed-multi-311m", "sarvam-moe"],
        splits: &[],
        spelling: Spelling::SentencePiece,
        ..DEFAULTS
    },
];

/// The row for one of llama.cpp's names.
pub(in crate::tokenizer) fn by_name(name: &str) -> Option<&'static KnownPre> {
    KNOWN.iter().find(|known| known.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::fingerprint_table::FINGERPRINTS;
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        for name in KNOWN.iter().flat_map(|known| known.names) {
            assert!(seen.insert(name), "{name} is listed twice");
        }
    }

    #[test]
    fn every_fingerprint_of_a_bpe_model_has_rules() {
        // WordPiece models, which llama.cpp reads as "bert", not "gpt2".
        let wordpiece = ["bert-bge", "bert-bge-large", "jina-v2-en"];
        for (_, name) in FINGERPRINTS {
            assert!(
                by_name(name).is_some() || wordpiece.contains(name),
                "no rules for {name}"
            );
        }
    }

    #[test]
    fn every_expression_compiles() {
        use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
        for known in KNOWN {
            for regex in known.splits {
                let pattern = SplitPattern::Regex((*regex).to_owned());
                let behavior = tokenizers::SplitDelimiterBehavior::Isolated;
                assert!(
                    Split::new(pattern, behavior, false).is_ok(),
                    "{:?}: {regex}",
                    known.names
                );
            }
        }
    }
}
