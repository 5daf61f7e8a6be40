//! Finds out what a MODEL argument names and who can read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_quantize_plugin_api::{FileView, ModelView, json};

use super::files::{all_files, side_files};
use super::links::Inside;
use super::plugin::PluginModel;
use super::weights::{INDEX, SINGLE, Weights};
use super::{MappedFile, NamedConverter, SourceModel, read_small};
use crate::error::{Error, Result};

/// The longest configs, of models with thousands of exceptions from quantization, have
/// some 100 KB.
const MAX_CONFIG: u64 = 4 << 20;

/// A model that was found and recognised, but not opened yet.
#[derive(Debug)]
pub struct Located {
    path: PathBuf,
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    HuggingFace(Parts),
    Plugin(NamedConverter, Vec<Arc<MappedFile>>),
}

/// What a Hugging Face folder consists of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: serde_json::Value,
    pub(super) weights: Weights,
    pub(super) files: Vec<Arc<MappedFile>>,
}

impl Located {
    /// The plugin that reads the model; `None` for a plain Hugging Face folder.
    pub fn plugin(&self) -> Option<&str> {
        match &self.kind {
            Kind::HuggingFace(_) => None,
            Kind::Plugin(converter, _) => Some(&converter.plugin),
        }
    }

    /// Opens the model. A plain Hugging Face folder has one view only.
    ///
    /// # Errors
    /// What the plugin says against it.
    pub fn open(self, view: ModelView) -> Result<SourceModel> {
        match self.kind {
            Kind::HuggingFace(parts) => Ok(SourceModel::from_folder(self.path, self.name, parts)),
            Kind::Plugin(converter, files) => {
                let opened = PluginModel::open(&converter, files, view, &self.name)?;
                Ok(SourceModel::from_plugin(self.path, opened))
            }
        }
    }
}

/// Finds the model that an argument names and who reads it. The converters are
/// asked in their order.
///
/// # Errors
/// If there is nothing of that name, or nobody can read it.
pub fn locate(model: &str, converters: &[NamedConverter]) -> Result<Located> {
    let path = PathBuf::from(model);
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Error::io("read", &path, error));
        }
        Err(_) => return Err(not_found(model)),
    };
    let name = name_of(&path);
    let kind = match metadata.is_dir() {
        true => locate_folder(&path, converters)?,
        false => locate_file(&path, converters)?,
    };
    Ok(Located { path, name, kind })
}

fn locate_folder(folder: &Path, converters: &[NamedConverter]) -> Result<Kind> {
    if folder.join("config.json").is_file() && Weights::exist_in(folder) {
        let parts = read_parts(folder)?;
        // Formats that keep the Hugging Face layout (quantized safetensors) see
        // what belongs to the model only, not what else lies about.
        let mut files: Vec<_> = parts
            .files
            .iter()
            .filter(|f| !f.name().contains('/'))
            .cloned()
            .collect();
        files.extend(parts.weights.shards.iter().cloned());
        let index = folder.join(INDEX);
        if index.is_file() {
            Inside::of(folder)?.check(&index)?;
            files.push(Arc::new(MappedFile::open(&index)?));
        }
        files.sort_by(|a, b| a.name().cmp(b.name()));
        return Ok(match detect(folder, &files, converters)? {
            Some(converter) => Kind::Plugin(converter, files),
            None => Kind::HuggingFace(parts),
        });
    }
    let files = all_files(folder)?;
    match detect(folder, &files, converters)? {
        Some(converter) => Ok(Kind::Plugin(converter, files)),
        None => {
            check_regular(folder)?;
            let names: Vec<&str> = files.iter().map(|file| file.name()).collect();
            Err(unknown_folder(&folder.display().to_string(), &names))
        }
    }
}

fn locate_file(path: &Path, converters: &[NamedConverter]) -> Result<Kind> {
    let files: Result<Vec<_>> = siblings(path)?
        .iter()
        .map(|path| MappedFile::open(path).map(Arc::new))
        .collect();
    let files = files?;
    if let Some(converter) = detect(path, &files, converters)? {
        return Ok(Kind::Plugin(converter, files));
    }
    let error = Error::validation(format!(
        "{} is in no format that an installed plugin can read",
        path.display()
    ));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part_of_folder = name.ends_with(".safetensors") || name.ends_with(".json");
    Err(match part_of_folder {
        true => error.suggest("give the folder that holds config.json and the weights"),
        false => error.suggest(format!(
            "it begins with {}; see `llm-quantize plugin list` for the formats that can be read",
            beginning(files.first().map(|file| file.bytes()).unwrap_or_default())
        )),
    })
}

/// The converter that recognises files which lie at a path; `None` if there is none.
///
/// # Errors
/// If there are several: what they are cannot be told.
fn detect(
    path: &Path,
    files: &[Arc<MappedFile>],
    converters: &[NamedConverter],
) -> Result<Option<NamedConverter>> {
    let views: Vec<FileView<'_>> = files.iter().map(|file| view_of(file)).collect();
    let found = converters.iter();
    let found: Vec<&NamedConverter> = found.filter(|c| c.converter.detect(&views)).collect();
    if let [first, second, ..] = found[..] {
        let path = path.display();
        let (first, second) = (&first.plugin, &second.plugin);
        return Err(Error::validation(format!(
            "{path} is ambiguous: both \"{first}\" and \"{second}\" take it for theirs"
        ))
        .suggest(
            "the folder mixes files of two models, or two plugins read the same format: take away \
             what does not belong",
        ));
    }
    Ok(found.first().map(|found| (*found).clone()))
}

/// A file as plugins see it.
pub(super) fn view_of(file: &MappedFile) -> FileView<'_> {
    FileView {
        name: file.name(),
        bytes: file.bytes(),
    }
}

fn read_parts(folder: &Path) -> Result<Parts> {
    let path = folder.join("config.json");
    Inside::of(folder)?.check(&path)?;
    let bytes = read_small(&path, MAX_CONFIG)?;
    let config: serde_json::Value = json::from_slice(&bytes).map_err(|error| {
        Error::validation(format!("{} is not valid JSON: {error}", path.display()))
    })?;
    if !config.is_object() {
        return Err(Error::validation(format!(
            "{} is not a JSON object",
            path.display()
        )));
    }
    Ok(Parts {
        config,
        weights: Weights::open(folder)?,
        files: side_files(folder)?,
    })
}

/// All parts of a file that is one of several, `name-00001-of-00003.ext`, in order;
/// else the file alone. Any part may be named.
fn siblings(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(vec![path.to_owned()]);
    };
    let names = all_parts(name);
    let mut found = Vec::new();
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let inside = Inside::of(folder.unwrap_or(Path::new(".")))?;
    for name in &names {
        let sibling = path.with_file_name(name);
        if names.len() > 1 && !sibling.is_file() {
            return Err(Error::validation(format!(
                "{} is one of {} files, and {} is missing",
                path.display(),
                names.len(),
                sibling.display()
            ))
            .suggest("put all parts into one folder"));
        }
        // The user named one part; where the others lie the folder's author chose.
        if sibling != path {
            inside.check(&sibling)?;
        }
        found.push(sibling);
    }
    Ok(found)
}

/// Names of all parts of a file that is one of several, in order; else its own.
pub fn all_parts(name: &str) -> Vec<String> {
    match PartName::parse(name) {
        Some(parts) => (1..=parts.count).map(|number| parts.name(number)).collect(),
        None => vec![name.to_owned()],
    }
}

/// A name of the form `<prefix>-<number>-of-<count>.<extension>`, five digits each.
#[derive(Debug, PartialEq)]
struct PartName<'a> {
    prefix: &'a str,
    count: u32,
    extension: &'a str,
}

impl<'a> PartName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (stem, extension) = name.rsplit_once('.')?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let five = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        if prefix.is_empty() || !five(number) || !five(count) {
            return None;
        }
        let (number, count) = (number.parse::<u32>().ok()?, count.parse().ok()?);
        (1..=count).contains(&number).then_some(Self {
            prefix,
            count,
            extension,
        })
    }

    fn name(&self, number: u32) -> String {
        format!(
            "{}-{number:05}-of-{:05}.{}",
            self.prefix, self.count, self.extension
        )
    }
}

/// The name of a model for people and for output files: the folder's or the file's,
/// and in the Hub's cache (`models--org--name/snapshots/<commit>`) the model's.
fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // `.` and `..` have no name of their own.
    let absolute = match absolute.file_name() {
        Some(name) if name != "." => absolute,
        _ => path.canonicalize().unwrap_or(absolute),
    };
    let cached = absolute
        .ancestors()
        .skip(2)
        .take(1)
        .filter_map(|folder| folder.file_name()?.to_str()?.strip_prefix("models--"))
        .find_map(|name| name.rsplit("--").next());
    if let Some(name) = cached {
        return name.to_owned();
    }
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    if absolute.is_dir() {
        return name.into_owned();
    }
    match PartName::parse(&name) {
        Some(parts) => parts.prefix.to_owned(),
        None => match name.rsplit_once('.') {
            Some((stem, _)) if !stem.is_empty() => stem.to_owned(),
            _ => name.into_owned(),
        },
    }
}

fn not_found(model: &str) -> Error {
    Error::model_not_found(format!("there is no file or folder {model}"))
        .suggest("check the path; a model on the Hugging Face Hub is named org/name")
}

/// Parts of a model that are there but no files, which are said first.
fn check_regular(folder: &Path) -> Result<()> {
    for name in ["config.json", SINGLE, INDEX] {
        let path = folder.join(name);
        if path.exists() && !path.is_file() {
            let path = path.display();
            return Err(Error::validation(format!("{path} is not a regular file"))
                .suggest("it must be a file: no folder, pipe or device"));
        }
    }
    Ok(())
}

/// Why a folder with these files is no model; `path` says where it is.
pub fn unknown_folder(path: &str, files: &[&str]) -> Error {
    let has = |name: &str| files.contains(&name);
    let ends = |end: &str| files.iter().any(|file| file.ends_with(end));
    if has("adapter_config.json") {
        return Error::validation(format!("{path} holds an adapter (LoRA), not a whole model"))
            .suggest("merge the adapter into its base model first");
    }
    if has("config.json") && ends(".safetensors") {
        return Error::validation(format!("{path} has neither {SINGLE} nor {INDEX}"))
            .suggest("finish the download: without its index a model in shards is incomplete");
    }
    if has("config.json") && (ends(".bin") || ends(".pt") || ends(".pth")) {
        return Error::validation(format!("{path} holds PyTorch weights but no safetensors"))
            .suggest(
                "save the model with transformers' save_pretrained, which writes safetensors",
            );
    }
    if has("config.json") {
        return Error::validation(format!("{path} has a config.json but no weights"))
            .suggest(format!("put {SINGLE}, or {INDEX} and its shards, into it"));
    }
    let found = match files {
        [] => "it is empty".to_owned(),
        files => {
            let names = &files[..files.len().min(3)];
            let more = if files.len() > 3 { ", …" } else { "" };
            format!("it holds {}{more}", names.join(", "))
        }
    };
    Error::validation(format!(
        "{path} is no model that can be read: there is no config.json, and {found}"
    ))
    .suggest("give a Hugging Face folder or a file that `llm-quantize plugin list` covers")
}

/// The first bytes of a file in readable form.
fn beginning(bytes: &[u8]) -> String {
    match &bytes[..bytes.len().min(8)] {
        [] => "nothing (the file is empty)".into(),
        start => format!("\"{}\"", start.escape_ascii()),
    }
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
