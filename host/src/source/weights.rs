//! The weights of a Hugging Face folder: one safetensors file, or shards with an
//! index.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_quantize_plugin_api::{TensorInfo, json};
use serde::Deserialize;

use super::links::Inside;
use super::safetensors::SafetensorsFile;
use super::{MappedFile, read_small};
use crate::error::{Error, Result};

/// Name of the weights of a model in one file.
pub const SINGLE: &str = "model.safetensors";
/// Name of the index of a model in shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The longest index that is read; the largest real ones have some 20 MB.
const MAX_INDEX: u64 = 100_000_000;
/// Missing or surplus tensors that an error names.
const NAMED: usize = 3;

/// The weights of a folder.
#[derive(Debug, Default)]
pub struct Weights {
    /// The mapped files.
    pub shards: Vec<Arc<MappedFile>>,
    /// All tensors: shard after shard, each in the order of its data.
    pub tensors: Vec<TensorInfo>,
    /// For each tensor its shard and its range in it.
    pub places: Vec<(usize, Range<u64>)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

impl Weights {
    /// Whether a folder has weights in one of the two layouts.
    pub fn exist_in(folder: &Path) -> bool {
        folder.join(SINGLE).is_file() || folder.join(INDEX).is_file()
    }

    /// Opens the weights of a folder. The single file wins if there are both, as in
    /// transformers.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the index and the shards disagree.
    pub fn open(folder: &Path) -> Result<Self> {
        let inside = Inside::of(folder)?;
        let single = folder.join(SINGLE);
        if single.is_file() {
            inside.check(&single)?;
            let mut weights = Self::default();
            weights.add(SafetensorsFile::open(&single)?);
            return Ok(weights);
        }
        let path = folder.join(INDEX);
        inside.check(&path)?;
        let index = read_index(&path)?;
        let names: BTreeSet<&str> = index.values().map(String::as_str).collect();
        require_files(folder, &names)?;
        let mut weights = Self::default();
        let mut found = HashMap::new();
        for name in names {
            let path = folder.join(name);
            inside.check(&path)?;
            let file = SafetensorsFile::open(&path)?;
            for (info, _) in &file.tensors {
                found
                    .entry(info.name.clone())
                    .or_insert_with(Vec::new)
                    .push(name);
            }
            weights.add(file);
        }
        compare(&path, &index, &found)?;
        Ok(weights)
    }

    fn add(&mut self, file: SafetensorsFile) {
        let shard = self.shards.len();
        for (info, range) in file.tensors {
            self.tensors.push(info);
            self.places.push((shard, range));
        }
        self.shards.push(file.file);
    }
}

/// Tensor names to the files that hold them, with sorted keys, so that every run sees the
/// shards in one order.
type WeightMap = BTreeMap<String, String>;

/// Names of the shards that an index names, sorted.
///
/// # Errors
/// If it is no valid index.
pub fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    Ok(read_index(index)?.into_values().collect())
}

fn read_index(path: &Path) -> Result<WeightMap> {
    let bytes = read_small(path, MAX_INDEX)?;
    parse_index(&bytes).map_err(|what| {
        Error::validation(format!("{} is not a valid index: {what}", path.display()))
            .suggest("get the index again; it belongs to the shards")
    })
}

/// The `weight_map` of an index: which file beside it holds which tensor.
///
/// # Errors
/// What is wrong with it, in words; also if a file's name leads elsewhere.
pub fn parse_index(bytes: &[u8]) -> std::result::Result<WeightMap, String> {
    let index: Index = json::from_slice(bytes).map_err(|error| error.to_string())?;
    if index.weight_map.is_empty() {
        return Err("it names no tensors".into());
    }
    index
        .weight_map
        .values()
        .try_for_each(|name| check_shard_name(name))?;
    Ok(index.weight_map)
}

/// An index must not lead outside its folder.
fn check_shard_name(name: &str) -> std::result::Result<(), String> {
    let plain = !name.is_empty()
        && !name.contains(['/', '\\', '\0'])
        && !name.starts_with('.')
        && name.ends_with(".safetensors");
    if plain {
        return Ok(());
    }
    Err(format!(
        "it names the shard {name:?}; a shard is a .safetensors file beside the index"
    ))
}

fn require_files(folder: &Path, names: &BTreeSet<&str>) -> Result<()> {
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    let missing: Vec<_> = paths.iter().filter(|path| !path.is_file()).collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    Err(Error::validation(format!(
        "{} of {} shards are missing, the first is {}",
        missing.len(),
        names.len(),
        first.display()
    ))
    .suggest("finish the download, or copy the shards beside the index"))
}

fn compare(path: &Path, index: &WeightMap, found: &HashMap<String, Vec<&str>>) -> Result<()> {
    if let Some((name, shards)) = found.iter().find(|(_, shards)| shards.len() > 1) {
        return Err(disagree(
            path,
            &format!("the tensor \"{name}\" is in {}", shards.join(" and in ")),
        ));
    }
    for (name, shard) in index {
        match found.get(name).and_then(|shards| shards.first()) {
            Some(actual) if actual == shard => {}
            Some(actual) => {
                let what = format!("the tensor \"{name}\" is in {actual}, not in {shard}");
                return Err(disagree(path, &what));
            }
            None => {
                let missing = index.keys().filter(|n| !found.contains_key(*n));
                let names = list(missing.map(String::as_str).collect());
                return Err(disagree(path, &format!("the shards lack {names}")));
            }
        }
    }
    let known: HashSet<&str> = index.keys().map(String::as_str).collect();
    let surplus = found.keys().map(String::as_str);
    let surplus: Vec<&str> = surplus.filter(|name| !known.contains(name)).collect();
    if surplus.is_empty() {
        return Ok(());
    }
    let names = list(surplus);
    Err(disagree(path, &format!("the index does not name {names}")))
}

fn list(mut names: Vec<&str>) -> String {
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match more {
        0 => quoted.join(", "),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}

fn disagree(path: &Path, what: &str) -> Error {
    Error::validation(format!(
        "{} and the shards disagree: {what}",
        path.display()
    ))
    .suggest("the folder mixes files of different models or versions; get it again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;
    use crate::source::fixtures::{Tensor, write_safetensors};

    /// Two shards, `a` in the first and `b` in the second, and an index.
    fn sharded(index: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("model-00001-of-00002.safetensors");
        write_safetensors(&first, &[Tensor::f32("a", &[2], &[1.0, 2.0])]);
        let second = folder.path().join("model-00002-of-00002.safetensors");
        write_safetensors(&second, &[Tensor::f32("b", &[1], &[3.0])]);
        std::fs::write(folder.path().join(INDEX), index).unwrap();
        folder
    }

    fn index(map: &[(&str, &str)]) -> String {
        let map: BTreeMap<_, _> = map.iter().copied().collect();
        serde_json::json!({"metadata": {"total_size": 12}, "weight_map": map}).to_string()
    }

    const ONE: &str = "model-00001-of-00002.safetensors";
    const TWO: &str = "model-00002-of-00002.safetensors";

    #[test]
    fn shards_are_gathered() {
        let folder = sharded(&index(&[("b", TWO), ("a", ONE)]));
        let weights = Weights::open(folder.path()).unwrap();
        let names: Vec<_> = weights.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(weights.places[1].0, 1);
    }

    #[test]
    fn an_index_that_does_not_fit_is_refused() {
        for (map, what) in [
            (index(&[("a", ONE), ("b", ONE)]), "lack \"b\""),
            (index(&[("a", TWO), ("b", ONE)]), "not in model-00002"),
            (index(&[("a", ONE), ("b", TWO), ("c", TWO)]), "lack \"c\""),
            (index(&[("a", ONE), ("x", TWO)]), "lack \"x\""),
            (index(&[("a", "../x.safetensors")]), "beside the index"),
            (index(&[("a", "/x.safetensors")]), "beside the index"),
            (index(&[("a", "..\\x.safetensors")]), "beside the index"),
            (index(&[("a", "no.safetensors")]), "no.safetensors"),
            (index(&[]), "names no tensors"),
            (
                index(&[("a", ONE)]).replacen("\"a\"", "\"a\":\"x.safetensors\",\"a\"", 1),
                "\"a\" occurs twice",
            ),
            ("[]".into(), "not a valid index"),
        ] {
            let error = Weights::open(sharded(&map).path()).unwrap_err();
            assert_eq!(error.class, ExitCode::Validation);
            assert!(error.message.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn surplus_and_doubled_tensors_are_refused() {
        let folder = sharded(&index(&[("a", ONE), ("b", TWO)]));
        let path = folder.path().join(TWO);
        let b = Tensor::f32("b", &[1], &[3.0]);
        write_safetensors(&path, &[b.clone(), Tensor::f32("z", &[1], &[3.0])]);
        let error = Weights::open(folder.path()).unwrap_err();
        assert!(error.message.contains("does not name \"z\""), "{error}");
        write_safetensors(&path, &[b, Tensor::f32("a", &[1], &[3.0])]);
        let error = Weights::open(folder.path()).unwrap_err();
        assert!(error.message.contains("and in"), "{error}");
    }
}
