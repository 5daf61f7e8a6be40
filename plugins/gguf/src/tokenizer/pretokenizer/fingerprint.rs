//! Recognising a tokenizer by what it makes of one fixed text.

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::fingerprint_table::FINGERPRINTS;
use crate::tokenizer::TokenizerError;

/// The text that `convert_hf_to_gguf.py` has every tokenizer encode: white space of all lengths,
/// emoji, digit groups, several scripts, punctuation, English contractions.
pub(super) const CHECK_TEXT: &str = concat!(
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫\u{fe0f} ",
    "(multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 ",
    "3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на ",
    "Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, ",
    "'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL",
);

/// SHA-256 over the token ids of the check text, written as Python writes a list.
///
/// Special tokens that the post-processor adds (a leading BOS) count: the reference calls
/// `tokenizer.encode(text)`, which adds them.
pub(super) fn fingerprint(tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
    let encoding = tokenizer
        .encode(CHECK_TEXT, true)
        .map_err(|e| TokenizerError::malformed("tokenizer.json", e.to_string()))?;
    Ok(hash_ids(encoding.get_ids()))
}

/// llama.cpp's name for a fingerprint.
pub(super) fn name_of(hash: &str) -> Option<&'static str> {
    FINGERPRINTS
        .iter()
        .find(|(known, _)| *known == hash)
        .map(|(_, name)| *name)
}

fn hash_ids(ids: &[u32]) -> String {
    let list: Vec<String> = ids.iter().map(u32::to_string).collect();
    let digest = Sha256::digest(format!("[{}]", list.join(", ")));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hashed_as_python_prints_them() {
        // python3 -c 'import hashlib; print(hashlib.sha256(str([1, 22, 333]).encode()).hexdigest())'
        let expected = "276d8737d9d5a80805e0731e8d5ae18972a8e3ba721f4988f67151c6e9159068";
        assert_eq!(hash_ids(&[1, 22, 333]), expected);
    }

    #[test]
    fn the_check_text_is_the_reference_text() {
        // SHA-256 of the UTF-8 text in convert_hf_to_gguf.py.
        let digest = Sha256::digest(CHECK_TEXT);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "a36179c1e2b1cfcfbfad1dc779addad2ffc778201e4cf0d538bddeafa2c526da"
        );
    }

    #[test]
    fn the_table_has_no_duplicates() {
        let mut hashes: Vec<_> = FINGERPRINTS.iter().map(|(hash, _)| hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), FINGERPRINTS.len());
        assert_eq!(name_of(FINGERPRINTS[3].0), Some(FINGERPRINTS[3].1));
        assert_eq!(name_of("00"), None);
    }
}
