//! The name of a model on the Hub, as the user types it.

use std::fmt;

/// The branch that is meant when none is named.
const MAIN: &str = "main";
/// The Hub's limit for each part of an id.
const MAX_PART: usize = 96;

/// `org/name[/file][@revision]`.
///
/// The file comes before the revision because both may contain slashes
/// (`org/name/q4/model.gguf@refs/pr/1`), and the `@` can then only mean one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    /// `org/name`.
    pub repository: String,
    /// A file of the repository, if one was named.
    pub file: Option<String>,
    /// Branch, tag or commit.
    pub revision: String,
}

impl ModelId {
    /// Reads an id; `None` if it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let mut parts = path.splitn(3, '/');
        let (org, name, file) = (parts.next()?, parts.next()?, parts.next());
        let valid = is_part(org)
            && is_part(name)
            && file.is_none_or(is_file)
            && is_path(revision, |c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        valid.then(|| Self {
            repository: format!("{org}/{name}"),
            file: file.map(str::to_owned),
            revision: revision.to_owned(),
        })
    }

    /// The model with one of its files named, as the user would type it.
    pub fn with_file(&self, file: &str) -> String {
        let named = Self {
            file: Some(file.to_owned()),
            ..self.clone()
        };
        named.to_string()
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// The Hub's rule for an organisation or a name; what could be a path of the system
/// (`..`, `.cache`) is none of them.
fn is_part(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= MAX_PART
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || "-.".contains(c))
        && !text.contains("--")
        && !text.contains("..")
        && !text.ends_with(".git")
}

/// A path in the repository with an extension: without one it is more likely a folder
/// of this machine that was mistyped.
fn is_file(text: &str) -> bool {
    let name = text.rsplit('/').next().unwrap_or_default();
    is_path(text, |c| !c.is_control() && c != '\\')
        && name
            .rsplit_once('.')
            .is_some_and(|(_, end)| !end.is_empty())
}

/// Whether a text is a relative path that stays where it begins.
fn is_path(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    text.chars().all(|c| c == '/' || allowed(c))
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether the name of a file of a repository may become a path on this machine.
pub fn is_safe_name(name: &str) -> bool {
    is_path(name, |c| !c.is_control() && c != '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<String>, String)> {
        let id = ModelId::parse(text)?;
        assert_eq!(id.to_string(), text.trim_end_matches("@main"));
        Some((id.repository, id.file, id.revision))
    }

    #[test]
    fn ids_files_and_revisions() {
        let id = |repository: &str, file: Option<&str>, revision: &str| {
            Some((
                repository.to_owned(),
                file.map(str::to_owned),
                revision.to_owned(),
            ))
        };
        assert_eq!(
            parsed("meta-llama/Llama-2-7b-hf"),
            id("meta-llama/Llama-2-7b-hf", None, "main")
        );
        assert_eq!(parsed("org/name@v1.0"), id("org/name", None, "v1.0"));
        assert_eq!(parsed("org/name@main"), id("org/name", None, "main"));
        assert_eq!(
            parsed("org/n.a-m_e/q4/m Q4.gguf@refs/pr/1"),
            id("org/n.a-m_e", Some("q4/m Q4.gguf"), "refs/pr/1")
        );
    }

    #[test]
    fn paths_are_no_ids() {
        for text in [
            "name",
            "./a/b",
            "/a/b",
            "../a",
            "a/..",
            "a/b c",
            "a/b/c",
            "a/b/../c.gguf",
            "a//b",
            "a/b/",
            ".a/b",
            "a/b@",
            "a/b@../x",
            "a/b@a b",
            "a/b@/x",
            "a/-b",
            "a/b--c",
            "a/b.git",
            "a\\b/c",
            "~/b",
            "",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(parsed(&format!("a/{}", "x".repeat(97))), None);
    }

    #[test]
    fn names_of_files_stay_inside() {
        assert!(is_safe_name("additional_chat_templates/tool use.jinja"));
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "a\\..\\b",
            "a\0",
        ] {
            assert!(!is_safe_name(name), "{name:?}");
        }
    }
}
