//! Tokens that are control tokens although nobody marked them so.

/// Whether a token's name says that it is a control token.
///
/// Some models (Command R, DeepSeek Coder, Gemma) do not mark such tokens as special.
pub(super) fn looks_special(token: &str) -> bool {
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || (token.starts_with("<|") && token.ends_with("|>"))
        || (token.starts_with("<｜") && token.ends_with("｜>"))
        || (token.starts_with("<unused") && token.ends_with('>'))
}

#[cfg(test)]
mod tests {
    use super::looks_special;

    #[test]
    fn names_that_look_special() {
        for token in [
            "<pad>",
            "<|user|>",
            "<｜end｜>",
            "<unused7>",
            "[@BOS@]",
            "<|>",
        ] {
            assert!(looks_special(token), "{token}");
        }
        for token in ["<s>", "pad", "<|user>", "unused7>", ""] {
            assert!(!looks_special(token), "{token}");
        }
    }
}
