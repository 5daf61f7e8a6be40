//! `docs/errors.md` lists every error that the program can print, gathered from the
//! source code: what is said, with which exit code, and what to do.
//!
//! `LLM_QUANTIZE_UPDATE_DOCS=1 cargo test -p llm-quantize-tests --test error_table`
//! writes the document anew.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

mod collect;
mod markdown;
mod template;

use std::path::{Path, PathBuf};

use llm_quantize_tests::root;

/// Where errors come from.
const SOURCES: [&str; 3] = ["host/src", "plugin-api/src", "plugins"];

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in SOURCES {
        gather(&root().join(folder), &mut files);
    }
    files.sort();
    files
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let test =
            name.contains("test") || matches!(&*name, "benches" | "examples" | "fixtures.rs");
        if test {
            continue;
        }
        if path.is_dir() {
            gather(&path, files);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

fn document() -> String {
    let mut all = Vec::new();
    for path in sources() {
        let code = std::fs::read_to_string(&path).unwrap();
        let file = path
            .strip_prefix(root())
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/");
        all.extend(collect::errors(&file, &code));
    }
    markdown::document(all)
}

#[test]
fn the_document_lists_what_the_code_says() {
    let path = root().join("docs/errors.md");
    let made = document();
    if std::env::var_os("LLM_QUANTIZE_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = made
        .lines()
        .zip(written.lines())
        .find(|(made, written)| made != written);
    assert!(
        made == written,
        "docs/errors.md is out of date ({differs:?}); run this test with LLM_QUANTIZE_UPDATE_DOCS=1"
    );
}

#[test]
fn errors_are_found_in_all_their_forms() {
    let code = r#"
        fn corrupt(file: &File, what: &str) -> Error {
            Error::validation(format!("{} is damaged: {what}", file.path().display())).suggest("get it again")
        }
        fn check(file: &File) -> Result<()> {
            let refuse = |what: String| Err(Error::new(ExitCode::PluginFailed, format!("plugin \"{}\": {what}", self.id)));
            if short { return Err(corrupt(file, "it is short")); }
            if long { return refuse(format!("it has {count:?} bytes")); }
            read().map_err(|error| Error::io("read", path, error))?;
            Err(Error::unsupported("no \
                                    such thing"))
        }
        #[derive(thiserror::Error)]
        enum ReadError {
            #[error("bad {0:?} at {offset}")]
            Bad(u32),
        }
        #[cfg(test)]
        mod tests { fn x() { Error::other("never listed"); } }
    "#;
    let found: Vec<String> = collect::errors("x.rs", code)
        .into_iter()
        .map(|error| {
            let advice = error.advice.unwrap_or_default();
            format!("{}|{}|{advice}", error.class, error.message)
        })
        .collect();
    assert_eq!(
        found,
        [
            "Validation|<file> is damaged: it is short|get it again",
            "PluginFailed|plugin \"<id>\": it has <count> bytes|",
            "Io|cannot read <path>: <the system's reason>|",
            "UnsupportedConversion|no such thing|",
            "ReadError|bad <…> at <offset>|",
        ]
    );
}
