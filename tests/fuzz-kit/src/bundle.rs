//! Several files in one input.
//!
//! A file begins with [`MARK`], its name and a line end; its content goes on to the next mark.
//! An input without a mark in front is one file.

use std::collections::HashSet;

use llm_quantize_plugin_api::FileView;

/// Starts a file; no text in UTF-8 contains these bytes.
pub const MARK: [u8; 3] = [0xFF, 0xFE, 0xFD];

/// More files than this would only slow the fuzzer down.
const MAX_FILES: usize = 8;

/// Splits an input into files with their names. What comes without a name is called `name`.
pub fn split<'a>(data: &'a [u8], name: &str) -> Vec<(String, &'a [u8])> {
    let Some(mut rest) = data.strip_prefix(&MARK) else {
        return vec![(name.to_owned(), data)];
    };
    let mut files = Vec::new();
    while files.len() < MAX_FILES {
        let end = find(rest, &MARK);
        let file = &rest[..end.unwrap_or(rest.len())];
        let line = file
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(file.len());
        let name = String::from_utf8_lossy(&file[..line]).into_owned();
        files.push((name, file.get(line + 1..).unwrap_or_default()));
        match end {
            Some(end) => rest = &rest[end + MARK.len()..],
            None => break,
        }
    }
    files
}

/// The same, if one folder can hold files of these names: they are the system's, not an input's.
pub fn folder<'a>(data: &'a [u8], name: &str) -> Option<Vec<(String, &'a [u8])>> {
    let files = split(data, name);
    let possible =
        |name: &str| !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains('\0');
    let names: HashSet<&str> = files.iter().map(|(name, _)| &**name).collect();
    let all = names.len() == files.len() && names.into_iter().all(possible);
    all.then_some(files)
}

/// Views of split files.
pub fn views<'a>(files: &'a [(String, &[u8])]) -> Vec<FileView<'a>> {
    let view = |(name, bytes): &'a (String, &[u8])| FileView { name, bytes };
    files.iter().map(view).collect()
}

/// Joins files to an input.
pub fn join<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        out.extend_from_slice(&MARK);
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(content);
    }
    out
}

fn find(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back() {
        let joined = join([("a", &b"1\n2"[..]), ("b", b""), ("c", b"3")]);
        let files = split(&joined, "x");
        let expected: [(&str, &[u8]); 3] = [("a", b"1\n2"), ("b", b""), ("c", b"3")];
        assert_eq!(files.len(), 3);
        for ((name, content), (expected_name, expected_content)) in files.iter().zip(expected) {
            assert_eq!((name.as_str(), *content), (expected_name, expected_content));
        }
        assert_eq!(split(b"plain", "x"), [("x".to_owned(), &b"plain"[..])]);
    }

    #[test]
    fn a_folder_has_possible_names_once() {
        assert!(folder(&join([("a", &b"1"[..]), ("b", b"2")]), "x").is_some());
        for names in [["a", "a"], ["a", ".."], ["a", ""], ["a", "b\0"]] {
            let input = join(names.map(|name| (name, &b"1"[..])));
            assert!(folder(&input, "x").is_none(), "{names:?}");
        }
    }
}
