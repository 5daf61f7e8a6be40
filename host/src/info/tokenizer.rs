//! What kind of tokenizer a model has.

use llm_quantize_plugin_api::Inputs;
use serde::{Deserialize, Serialize};

/// A tokenizer.
#[derive(Debug, Clone, Serialize)]
pub struct TokenizerInfo {
    /// `BPE`, `Unigram`, `WordPiece`, `SentencePiece`.
    pub kind: String,
    /// Its class in transformers.
    pub class: Option<String>,
}

/// The parts of a `tokenizer.json` that are looked at; the rest is skipped.
#[derive(Deserialize)]
struct TokenizerJson {
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct TokenizerModel {
    /// Old files leave it out.
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    tokenizer_class: Option<String>,
}

/// The tokenizer of a model; `None` if it has none, or only a damaged one: that is
/// no reason not to describe the rest.
pub fn tokenizer(inputs: &dyn Inputs) -> Option<TokenizerInfo> {
    let file = |name: &str| inputs.file(name).ok().flatten();
    let from_json = || {
        let parsed: TokenizerJson = serde_json::from_slice(file("tokenizer.json")?).ok()?;
        Some(parsed.model.kind.unwrap_or_else(|| "unknown".into()))
    };
    let from_model = || file("tokenizer.model").map(|_| "SentencePiece".to_owned());
    let kind = from_json().or_else(from_model)?;
    let config = file("tokenizer_config.json");
    let class = config
        .and_then(|bytes| serde_json::from_slice::<TokenizerConfig>(bytes).ok())
        .and_then(|config| config.tokenizer_class);
    Some(TokenizerInfo { kind, class })
}
