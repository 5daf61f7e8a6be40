//! The user's own choices: types for single tensors.

use crate::blocks::{BlockError, BlockType};
use regex::Regex;

/// A pattern for tensor names and the type for tensors that match, as in llama-quantize's
/// `--tensor-type attn_v=q6_k`.
#[derive(Debug, Clone)]
pub struct TypeOverride {
    pattern: Regex,
    /// The type for tensors that match.
    pub ty: BlockType,
}

/// Why an override could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum OverrideError {
    #[error(
        "\"{text}\" is no tensor type override; write a pattern, \"=\" and a type, such as attn_v=q6_k"
    )]
    Malformed { text: String },
    #[error("the tensor type override \"{text}\": {source}")]
    Type { text: String, source: BlockError },
    #[error("the pattern \"{pattern}\" for tensor names: {reason}")]
    Pattern { pattern: String, reason: String },
}

impl TypeOverride {
    /// An override from its parts.
    ///
    /// The pattern is a regular expression that may match anywhere in the name. Like
    /// llama-quantize this lower-cases it first, as tensor names are; but letters after a
    /// backslash are left alone, since `\D` is not `\d`.
    ///
    /// # Errors
    /// [`OverrideError::Pattern`] if it is no regular expression (look-around and
    /// back-references, which llama-quantize has, are not supported).
    pub fn new(pattern: &str, ty: BlockType) -> Result<Self, OverrideError> {
        match Regex::new(&lower_case(pattern)) {
            Ok(pattern) => Ok(Self { pattern, ty }),
            Err(error) => Err(OverrideError::Pattern {
                pattern: pattern.to_owned(),
                reason: error.to_string(),
            }),
        }
    }

    /// Reads `pattern=type`; the pattern ends at the first `=`.
    ///
    /// # Errors
    /// [`OverrideError`] if a part is missing, the type unknown, or the pattern wrong.
    pub fn parse(text: &str) -> Result<Self, OverrideError> {
        let malformed = || OverrideError::Malformed {
            text: text.to_owned(),
        };
        let (pattern, ty) = text.split_once('=').ok_or_else(malformed)?;
        if pattern.is_empty() || ty.is_empty() {
            return Err(malformed());
        }
        let ty = BlockType::from_name(ty).map_err(|source| OverrideError::Type {
            text: text.to_owned(),
            source,
        })?;
        Self::new(pattern, ty)
    }

    /// Whether a tensor of this name gets the type.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.pattern.is_match(name)
    }
}

fn lower_case(pattern: &str) -> String {
    let mut escaped = false;
    let lower = |c: char| {
        let out = if escaped { c } else { c.to_ascii_lowercase() };
        escaped = c == '\\' && !escaped;
        out
    };
    pattern.chars().map(lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_search_anywhere_in_lower_case() {
        let wanted = TypeOverride::parse("BLK\\.[0-3]\\.Attn_V=q8_0").unwrap();
        assert_eq!(wanted.ty, BlockType::Q8_0);
        assert!(wanted.matches("blk.3.attn_v.weight"));
        assert!(!wanted.matches("blk.4.attn_v.weight"));
        assert!(!wanted.matches("blk.13.attn_v.weight"));
        let not_a_digit = TypeOverride::new("^\\D+$", BlockType::F16).unwrap();
        assert!(not_a_digit.matches("output.weight") && !not_a_digit.matches("blk.1.x"));
        let backslash = TypeOverride::new(r"\\A", BlockType::F16).unwrap();
        assert!(backslash.matches(r"\a"));
    }

    #[test]
    fn the_pattern_ends_at_the_first_equals_sign() {
        assert!(matches!(
            TypeOverride::parse("a=b=q8_0"),
            Err(OverrideError::Type { .. })
        ));
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["attn_v", "=q8_0", "attn_v=", ""] {
            let error = TypeOverride::parse(text).unwrap_err();
            assert!(matches!(error, OverrideError::Malformed { .. }), "{text}");
        }
        let message = TypeOverride::parse("attn_v=q9").unwrap_err().to_string();
        assert!(
            message.contains("attn_v=q9") && message.contains("\"q9\""),
            "{message}"
        );
        let message = TypeOverride::parse("(=f16").unwrap_err().to_string();
        assert!(message.contains("pattern \"(\""), "{message}");
    }
}
