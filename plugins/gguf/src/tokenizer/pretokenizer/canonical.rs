//! One spelling for regular expressions that say the same in different ways.
//!
//! The result identifies an expression; it is compared, never compiled.

/// English contractions, either case, in the spelling of the Llama 3 tokenizer.
const ANY_CASE: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/// English contractions, lower case, in GPT-2's spelling.
const LOWER_CASE: &str = "'s|'t|'re|'ve|'m|'ll|'d";

/// Other spellings of the contractions. The alternatives are literals, none a prefix of another,
/// so their order does not matter.
const CONTRACTIONS: [(&str, &str); 6] = [
    (
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        ANY_CASE,
    ),
    ("'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])", ANY_CASE),
    ("'(?i:[sdmt]|ll|ve|re)", ANY_CASE),
    ("(?i:'(?:[sdmt]|ll|ve|re))", ANY_CASE),
    ("'(?:[sdmt]|ll|ve|re)", LOWER_CASE),
    ("(?:'s|'t|'re|'ve|'m|'ll|'d)", LOWER_CASE),
];

/// The canonical spelling of an expression that cuts text into its matches and what lies between.
pub(super) fn canonical(regex: &str) -> String {
    let mut text = regex
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace('\t', r"\t");
    for (spelling, canonical) in CONTRACTIONS {
        text = text.replace(spelling, canonical);
    }
    for letter in ["L", "N", "P", "S", "M"] {
        text = text.replace(&format!(r"\p{letter}"), &format!(r"\p{{{letter}}}"));
    }
    text = text.replace("{1}", "");
    // What follows these classes cannot match inside them, so giving back characters (or being
    // forbidden to) changes nothing.
    text = text.replace("]?+", "]?").replace("]++", "]+");
    text = sort_classes(&text);
    drop_last_blank(text)
}

/// `…|\s+(?!\S)|\s+` cuts as `…|\s+(?!\S)` does: the one blank that is left before a word becomes
/// a piece of its own either way.
fn drop_last_blank(text: String) -> String {
    match text.strip_suffix(r"|\s+") {
        Some(rest) if rest.ends_with(r"\s+(?!\S)") => rest.to_owned(),
        _ => text,
    }
}

/// Rewrites `[…]` so that the order and escaping of members does not matter.
fn sort_classes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = find_open(rest) {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        match class_end(from) {
            Some(end) => {
                let (class, after) = from.split_at(end);
                out.push_str(&sort_class(class));
                rest = after;
            }
            None => {
                out.push_str(from);
                return out;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Where the first unescaped `[` stands.
fn find_open(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => return Some(at),
            _ => {}
        }
    }
    None
}

/// The length of the class at the start of `text`, nested classes included.
fn class_end(text: &str) -> Option<usize> {
    let (mut depth, mut escaped) = (0usize, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => depth += 1,
            ']' if depth == 1 => return Some(at + 1),
            ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Sorts the members of one class. Nested classes are unions, which plain members say as well,
/// except in an intersection, which is left as it stands.
fn sort_class(class: &str) -> String {
    if class.contains("&&") {
        return class.to_owned();
    }
    let inner = class.get(1..class.len() - 1).unwrap_or("");
    let (sign, inner) = inner
        .strip_prefix('^')
        .map_or(("", inner), |rest| ("^", rest));
    let mut members = members(inner);
    members.sort_unstable();
    members.dedup();
    format!("[{sign}{}]", members.join(""))
}

fn members(inner: &str) -> Vec<String> {
    let mut atoms = atoms(inner).into_iter().peekable();
    let mut out = Vec::new();
    while let Some(atom) = atoms.next() {
        let is_range = atoms.peek().is_some_and(|next| next == "-");
        if !is_range {
            out.push(atom);
            continue;
        }
        atoms.next();
        match atoms.next() {
            Some(last) => out.push(format!("{atom}-{last}")),
            // A dash at the end stands for itself.
            None => out.extend([atom, r"\-".to_owned()]),
        }
    }
    out
}

/// Characters, escapes and properties; an unescaped dash stays "-", any other is `\-`.
fn atoms(inner: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '[' | ']' => {}
            '\\' => out.push(escape(&mut chars)),
            '-' => out.push("-".to_owned()),
            other => out.push(other.to_string()),
        }
    }
    out
}

/// The rest of an escape whose backslash has been read.
fn escape(chars: &mut std::str::Chars<'_>) -> String {
    match chars.next() {
        Some(kind @ ('p' | 'P')) => {
            let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
            format!("\\{kind}{name}}}")
        }
        // Letters mean something; escaped punctuation is the character itself.
        Some(c) if c.is_ascii_alphanumeric() || c == '-' => format!("\\{c}"),
        Some(c) => c.to_string(),
        None => "\\".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn same(a: &str, b: &str) {
        assert_eq!(canonical(a), canonical(b), "{a}  ≟  {b}");
    }

    fn different(a: &str, b: &str) {
        assert_ne!(canonical(a), canonical(b), "{a}  ≟  {b}");
    }

    #[test]
    fn contractions_have_many_spellings() {
        same("(?i:'s|'t|'re|'ve|'m|'ll|'d)|x", "'(?i:[sdmt]|ll|ve|re)|x");
        same(
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|x",
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|x",
        );
        same("'(?:[sdmt]|ll|ve|re)|x", "'s|'t|'re|'ve|'m|'ll|'d|x");
        different(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|x",
            "'s|'t|'re|'ve|'m|'ll|'d|x",
        );
    }

    #[test]
    fn order_and_escaping_in_classes_do_not_matter() {
        same(r"[^\s\p{L}\p{N}]+", r"[^\p{N}\p{L}\s]+");
        same(r"[\p{P}\$\+]", r"[$+\p{P}]");
        same("[^\r\n]", r"[^\n\r]");
        same("[(a|[bc])]", "[abc(|)]");
        different(r"[^\s\p{L}]", r"[\s\p{L}]");
        different(r"[\s\p{L}]", r"[\s\p{N}]");
        different("[a-z]", r"[az\-]");
        different("[a-z]", "[z-a]");
    }

    #[test]
    fn counts_of_one_and_safe_possessives_are_dropped() {
        same(r"\p{N}{1}", r"\p{N}");
        different(r"\p{N}{1,3}", r"\p{N}");
        same(r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+");
    }

    #[test]
    fn the_last_blank_is_redundant() {
        same(r"x|\s+(?!\S)|\s+", r"x|\s+(?!\S)");
        different(r"x|\s+", "x");
    }

    #[test]
    fn unclosed_classes_are_left_alone() {
        assert_eq!(canonical("a[b"), "a[b");
        assert_eq!(canonical(r"\[b"), r"\[b");
    }

    proptest! {
        #[test]
        fn any_text_is_harmless(text in r"[\[\]\\^()|a-c{}+?&p-]{0,40}") {
            let once = canonical(&text);
            prop_assert!(once.len() <= text.len() * 16 + 16);
        }

        #[test]
        fn the_order_of_members_never_matters(
            mut members in proptest::collection::vec(r"[a-z]|\\p\{L\}|\\s|0-9|\$", 1..8),
        ) {
            let forward = canonical(&format!("[{}]", members.concat()));
            members.reverse();
            prop_assert_eq!(forward, canonical(&format!("[{}]", members.concat())));
        }
    }
}
