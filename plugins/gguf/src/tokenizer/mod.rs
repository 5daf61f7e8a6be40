//! Tokenizers: Hugging Face files to GGUF metadata and back.
//!
//! Pure computation on buffers: the caller reads the files ([`FileSet`]) and stores the metadata
//! ([`TokenizerValue`]).

mod error;
mod files;
mod from_hf;
#[cfg(test)]
mod llama_cpp_tests;
mod metadata;
mod pretokenizer;
#[cfg(test)]
mod testing;
mod to_hf;
mod tokenizer_json;
mod value;

use std::collections::HashMap;

pub use self::error::TokenizerError;
pub use self::files::{CHAT_TEMPLATE_FOLDER, FileSet, TOKENIZER_FILES};
pub use self::from_hf::{FromHf, from_hf};
pub use self::metadata::{ChatTemplates, GgufTokenizer, MAX_TOKENS, Setting, VocabKind};
pub use self::pretokenizer::Unrecognised;
pub use self::to_hf::{HfTokenizer, ToHfOptions, to_hf};
pub use self::value::{AddedAround, SpecialToken, TokenType, TokenizerValue};

/// Checks that no two tokens have the same text.
fn check_unique(tokens: &[String]) -> Result<(), TokenizerError> {
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(tokens.len());
    for (second, text) in tokens.iter().enumerate() {
        if let Some(first) = seen.insert(text, second) {
            return Err(TokenizerError::DuplicateToken {
                text: text.clone(),
                first,
                second,
            });
        }
    }
    Ok(())
}
