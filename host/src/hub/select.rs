//! Which of a repository's files a model consists of.

use std::collections::BTreeSet;

use super::id::ModelId;
use super::listing::Listing;
use crate::error::{Error, Result};
use crate::source::{INDEX, SINGLE, all_parts, is_side_file, unknown_folder};

/// The one subfolder whose files belong to a model in transformers' layout.
const TEMPLATES: &str = "additional_chat_templates/";
/// A part of a name that says that a file goes with a model and is none.
const COMPANIONS: [&str; 2] = ["mmproj", "imatrix"];
/// Files that an error lists.
const LISTED: usize = 12;

/// The files of a model.
#[derive(Debug, PartialEq)]
pub enum Choice {
    /// A folder in transformers' layout.
    Folder {
        /// Configuration, tokenizer, templates, licence; the index too.
        small: Vec<String>,
        /// Whether an index names the weights; else they are in one file.
        sharded: bool,
    },
    /// A file that a plugin reads, with its parts in order.
    File(Vec<String>),
}

/// Chooses the files of a model. `extensions` are those of files that plugins read.
///
/// # Errors
/// If there is no model, or more than one.
pub fn choose(id: &ModelId, listing: &Listing, extensions: &[String]) -> Result<Choice> {
    let names: Vec<&str> = listing.files.keys().map(String::as_str).collect();
    if let Some(file) = &id.file {
        return named(id, file, &names, extensions);
    }
    let has = |name: &str| names.contains(&name);
    if has("config.json") && (has(SINGLE) || has(INDEX)) {
        return Ok(folder(&names));
    }
    let files: BTreeSet<Vec<String>> = names
        .iter()
        .filter(|name| is_model_file(name, extensions))
        .map(|name| parts_of(name))
        .collect();
    let mut files = files.into_iter();
    match (files.next(), files.next()) {
        (Some(file), None) => named(id, &file[0], &names, extensions),
        (Some(_), Some(_)) => Err(ambiguous(id, &names, extensions)),
        (None, _) => Err(unknown_folder(&format!("{id} on the Hub"), &names)),
    }
}

/// The single file wins if there are both, as in transformers.
fn folder(names: &[&str]) -> Choice {
    let sharded = !names.contains(&SINGLE);
    let belongs = |name: &str| {
        let plain = name.strip_prefix(TEMPLATES).unwrap_or(name);
        (is_side_file(plain) && !plain.contains('/')) || (sharded && name == INDEX)
    };
    let small = names.iter().filter(|name| belongs(name));
    Choice::Folder {
        small: small.map(|name| (*name).to_owned()).collect(),
        sharded,
    }
}

fn named(id: &ModelId, file: &str, names: &[&str], extensions: &[String]) -> Result<Choice> {
    let parts = parts_of(file);
    let missing = parts.iter().find(|part| !names.contains(&part.as_str()));
    let Some(missing) = missing else {
        return Ok(Choice::File(parts));
    };
    let error = Error::model_not_found(format!("{} has no file {missing}", id.repository));
    let list = list(id, names, extensions);
    Err(match list.is_empty() {
        true => error.suggest("check the spelling"),
        false => error.suggest(format!("it has {list}")),
    })
}

/// All parts of a file, with the folder that they are in.
fn parts_of(path: &str) -> Vec<String> {
    let (folder, name) = match path.rfind('/') {
        Some(slash) => path.split_at(slash + 1),
        None => ("", path),
    };
    let parts = all_parts(name).into_iter();
    parts.map(|part| format!("{folder}{part}")).collect()
}

fn is_model_file(name: &str, extensions: &[String]) -> bool {
    let lower = name.to_ascii_lowercase();
    lower
        .rsplit_once('.')
        .is_some_and(|(_, extension)| extensions.iter().any(|known| known == extension))
        && !COMPANIONS.iter().any(|word| lower.contains(word))
}

fn ambiguous(id: &ModelId, names: &[&str], extensions: &[String]) -> Error {
    Error::invalid_arguments(format!(
        "{} holds several models: {}",
        id.repository,
        list(id, names, extensions)
    ))
    .suggest("name one of them in full")
}

/// The models of a repository, each as the user would name it.
fn list(id: &ModelId, names: &[&str], extensions: &[String]) -> String {
    let files = names.iter().filter(|name| is_model_file(name, extensions));
    // Of several parts the first stands for all.
    let mut models: Vec<String> = files
        .filter(|name| parts_of(name)[0] == **name)
        .map(|name| id.with_file(name))
        .collect();
    let more = models.len().saturating_sub(LISTED);
    models.truncate(LISTED);
    match more {
        0 => models.join(", "),
        more => format!("{} and {more} more", models.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    fn chosen(id: &str, names: &[&str]) -> Result<Choice> {
        let files = names
            .iter()
            .map(|name| ((*name).into(), Default::default()));
        let listing = Listing {
            files: files.collect(),
            ..Listing::default()
        };
        choose(&ModelId::parse(id).unwrap(), &listing, &["gguf".into()])
    }

    fn file(names: &[&str]) -> Choice {
        Choice::File(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn only_what_the_model_consists_of() {
        let names = [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "additional_chat_templates/tool.jinja",
            "chat_template.jinja",
            "config.json",
            "consolidated.safetensors",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.Q4_K_M.gguf",
            INDEX,
            "onnx/config.json",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "original/params.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tf_model.h5",
            "tokenizer.json",
            "tokenizer.model",
        ];
        let Choice::Folder { small, sharded } = chosen("o/n", &names).unwrap() else {
            panic!("it is a folder");
        };
        assert!(sharded);
        assert_eq!(
            small,
            [
                "LICENSE",
                "README.md",
                "additional_chat_templates/tool.jinja",
                "chat_template.jinja",
                "config.json",
                "generation_config.json",
                INDEX,
                "tokenizer.json",
                "tokenizer.model",
            ]
        );
        let both = chosen("o/n", &["config.json", INDEX, SINGLE]).unwrap();
        let small = vec!["config.json".to_owned()];
        let sharded = false;
        assert_eq!(both, Choice::Folder { small, sharded });
    }

    #[test]
    fn the_only_file_or_the_named_one() {
        let one = ["README.md", "mmproj-m-f16.gguf", "m.Q4.gguf"];
        assert_eq!(chosen("o/n", &one).unwrap(), file(&["m.Q4.gguf"]));
        let parts = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        assert_eq!(chosen("o/n", &parts).unwrap(), file(&parts));
        let second = chosen("o/n/q/m-00002-of-00002.gguf", &parts).unwrap();
        assert_eq!(second, file(&parts));
        let two = ["a.gguf", "b.gguf", "config.json"];
        assert_eq!(chosen("o/n/b.gguf@v1", &two).unwrap(), file(&["b.gguf"]));
    }

    #[test]
    fn several_or_missing_files_are_listed() {
        let error = chosen("o/n@v1", &["a.gguf", "b.gguf"]).unwrap_err();
        assert_eq!(error.class, ExitCode::InvalidArguments);
        assert!(
            error.message.contains("o/n/a.gguf@v1, o/n/b.gguf@v1"),
            "{error}"
        );
        let error = chosen("o/n/c.gguf", &["a.gguf"]).unwrap_err();
        assert_eq!(error.class, ExitCode::ModelNotFound);
        assert!(error.advice().contains("o/n/a.gguf"));
        let error = chosen("o/n", &["m-00001-of-00002.gguf"]).unwrap_err();
        assert!(error.message.contains("m-00002-of-00002.gguf"), "{error}");
    }

    #[test]
    fn what_is_no_model_is_said() {
        for (names, what) in [
            (&["config.json", "pytorch_model.bin"][..], "PyTorch"),
            (
                &["adapter_config.json", "adapter_model.safetensors"],
                "adapter",
            ),
            (&[], "empty"),
        ] {
            let error = chosen("o/n", names).unwrap_err();
            assert_eq!(error.class, ExitCode::Validation);
            assert!(error.message.contains(what), "{error}");
            assert!(error.message.contains("o/n on the Hub"), "{error}");
        }
    }
}
