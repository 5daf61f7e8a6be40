//! Statistics on the disk, for later runs: `--calibration-cache`.
//!
//! A folder for each model and text; in it a safetensors file for each block, with the
//! statistics of its sites under the names of their weights: `<weight>.square_sum`,
//! `.magnitude_sum`, `.gram` and `.rows`, and the number of tokens in the metadata.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::{SiteStatistics, Wanted};
use crate::error::{Error, Result};
use crate::graph::{Graph, Site};
use crate::source::MappedFile;

const SQUARES: &str = "square_sum";
const MAGNITUDES: &str = "magnitude_sum";
const GRAM: &str = "gram";
const ROWS: &str = "rows";
const TOKENS: &str = "tokens";
const KEY: &str = "key";
const CHECKSUM: &str = "crc32";

/// Statistics of the sites of a wave.
pub type WaveStatistics = BTreeMap<Site, SiteStatistics>;

/// The folder of one model and text.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    key: String,
}

impl Cache {
    /// The folder `<cache>/<name>-<beginning of the key>`, which is created.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn open(cache: &Path, name: &str, key: &str) -> Result<Self> {
        let short = key.get(..16).unwrap_or(key);
        let folder = cache.join(format!("{}-{short}", plain(name)));
        fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
        Ok(Self {
            folder,
            key: key.to_owned(),
        })
    }

    /// Whether there is a file with everything that is wanted of a wave. Its numbers are not
    /// read: they may be many.
    pub fn has(&self, wave: usize, wanted: &BTreeMap<Site, Wanted>, graph: &Graph) -> bool {
        let read = |file: &Kept<'_>| {
            wanted.iter().all(|(site, wanted)| {
                let rows = |name: &str| file.rows(site.weight(graph), name, site.channels(graph));
                let sample = u64::from(wanted.rows).min(file.tokens);
                rows(SQUARES) == Some(1)
                    && rows(MAGNITUDES) == Some(1)
                    && (!wanted.gram || rows(GRAM) == Some(site.channels(graph)))
                    && rows(ROWS).unwrap_or(0) as u64 >= sample
            })
        };
        self.open_file(wave, |file| Some(read(file))) == Some(true)
    }

    /// What is known of a wave's sites; nothing if there is no file, or a damaged one.
    pub fn load(&self, wave: usize, sites: &[Site], graph: &Graph) -> WaveStatistics {
        let read = |file: &Kept<'_>| {
            let whole = file.checksum == checksum(file.tensors.iter());
            let known = sites.iter().filter_map(|site| {
                let statistics = file.site(site.weight(graph), site.channels(graph))?;
                Some((*site, statistics.finished()))
            });
            whole.then(|| known.collect())
        };
        self.open_file(wave, read).unwrap_or_default()
    }

    /// Reads the file of a wave, if there is one of this model and text.
    fn open_file<T>(&self, wave: usize, read: impl Fn(&Kept<'_>) -> Option<T>) -> Option<T> {
        let file = MappedFile::open(&self.path(wave)).ok()?;
        let (_, header) = SafeTensors::read_metadata(file.bytes()).ok()?;
        let metadata = header.metadata().as_ref()?;
        let kept = Kept {
            tensors: SafeTensors::deserialize(file.bytes()).ok()?,
            tokens: metadata.get(TOKENS)?.parse().ok()?,
            checksum: metadata.get(CHECKSUM)?.clone(),
        };
        let mine = metadata.get(KEY) == Some(&self.key);
        mine.then(|| read(&kept)).flatten()
    }

    /// Keeps what was gathered in a wave, and what was known before of the same sites.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, wave: usize, gathered: &WaveStatistics, graph: &Graph) -> Result<()> {
        let path = self.path(wave);
        let sites: Vec<Site> = gathered.keys().copied().collect();
        let before = self.load(wave, &sites, graph);
        let mut tensors = Vec::new();
        let mut tokens = 0;
        for (site, statistics) in gathered {
            tokens = statistics.tokens;
            let own = tensors_of(statistics, site.weight(graph))?;
            let known = before.get(site);
            let known = known.map(|known| tensors_of(known, site.weight(graph)));
            tensors.extend(own);
            for (name, view) in known.transpose()?.into_iter().flatten() {
                if tensors.iter().all(|(own, _)| *own != name) {
                    tensors.push((name, view));
                }
            }
        }
        let sum = checksum(tensors.iter().map(|(n, view)| (n.as_str(), view.clone())));
        let metadata = HashMap::from([
            (KEY.to_owned(), self.key.clone()),
            (TOKENS.to_owned(), tokens.to_string()),
            (CHECKSUM.to_owned(), sum),
        ]);
        let partial = path.with_extension("partial");
        safetensors::serialize_to_file(tensors, Some(metadata), &partial)
            .map_err(|error| cannot_write(&path, error))?;
        let durable = fs::File::open(&partial).and_then(|file| file.sync_data());
        durable
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|error| Error::io("write", &path, error))
    }

    fn path(&self, wave: usize) -> PathBuf {
        self.folder.join(format!("block-{wave:04}.safetensors"))
    }
}

/// A model's name as a part of a folder's: names come out of files, and may have anything in
/// them.
fn plain(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = name.chars().take(64);
    name.map(|c| if allowed(c) { c } else { '-' }).collect()
}

/// CRC-32 of all tensors, in the order of their names.
fn checksum<'a>(tensors: impl IntoIterator<Item = (&'a str, TensorView<'a>)>) -> String {
    let sorted: BTreeMap<&str, TensorView<'a>> = tensors.into_iter().collect();
    let mut crc = crc32fast::Hasher::new();
    for (name, view) in sorted {
        crc.update(name.as_bytes());
        crc.update(view.data());
    }
    format!("{:08x}", crc.finalize())
}

/// Whether statistics have all that is wanted.
pub fn covers(statistics: &WaveStatistics, wanted: &BTreeMap<Site, Wanted>) -> bool {
    let mut wanted = wanted.iter();
    wanted.all(|(site, wanted)| statistics.get(site).is_some_and(|own| own.has(*wanted)))
}

fn tensors_of<'a>(
    statistics: &'a SiteStatistics,
    weight: &str,
) -> Result<Vec<(String, TensorView<'a>)>> {
    let channels = statistics.channels.max(1);
    let all = [
        (SQUARES, Some(&statistics.square_sum)),
        (MAGNITUDES, Some(&statistics.magnitude_sum)),
        (GRAM, statistics.gram.as_ref()),
        (ROWS, statistics.rows.as_ref()),
    ];
    let there = all
        .into_iter()
        .filter_map(|(name, data)| Some((name, data?)));
    there
        .map(|(name, data)| {
            let shape = vec![data.len() / channels, channels];
            TensorView::new(Dtype::F32, shape, cast_slice(data))
                .map(|view| (format!("{weight}.{name}"), view))
                .map_err(|error| Error::other(format!("statistics of \"{weight}\": {error}")))
        })
        .collect()
}

/// A file of the cache.
struct Kept<'a> {
    tensors: SafeTensors<'a>,
    tokens: u64,
    checksum: String,
}

impl Kept<'_> {
    /// Rows of a statistic, if it is there and as long as it must be.
    fn rows(&self, weight: &str, name: &str, channels: usize) -> Option<usize> {
        let tensor = self.tensors.tensor(&format!("{weight}.{name}")).ok()?;
        match *tensor.shape() {
            [rows, cols] if cols == channels && tensor.dtype() == Dtype::F32 => Some(rows),
            _ => None,
        }
    }

    /// `None` if the sums are not there.
    fn site(&self, weight: &str, channels: usize) -> Option<SiteStatistics> {
        let get = |name: &str| {
            self.rows(weight, name, channels)?;
            let tensor = self.tensors.tensor(&format!("{weight}.{name}")).ok()?;
            let (numbers, _) = tensor.data().as_chunks::<4>();
            let numbers = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes));
            Some(numbers.collect::<Vec<f32>>())
        };
        let of_length = |numbers: &Vec<f32>, rows: usize| numbers.len() == rows * channels;
        Some(SiteStatistics {
            channels,
            tokens: self.tokens,
            square_sum: get(SQUARES).filter(|sums| of_length(sums, 1))?,
            magnitude_sum: get(MAGNITUDES).filter(|sums| of_length(sums, 1))?,
            gram: get(GRAM).filter(|gram| of_length(gram, channels)),
            rows: get(ROWS),
            ..SiteStatistics::default()
        })
    }
}

fn cannot_write(path: &Path, error: SafeTensorError) -> Error {
    let error = match error {
        SafeTensorError::IoError(error) => Error::io("write", path, error),
        error => Error::other(format!("cannot write {}: {error}", path.display())),
    };
    error.suggest("choose another folder with --calibration-cache, or leave it out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_cache() {
        assert_eq!(plain("org/Model 1.5_b"), "org-Model-1.5_b");
        assert_eq!(plain("../../etc"), "..-..-etc");
        assert_eq!(plain(&"ü".repeat(100)).len(), 64);
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), "../x", "0123456789abcdef0123").unwrap();
        let expected = folder.path().join("..-x-0123456789abcdef");
        assert_eq!(cache.folder, expected);
    }
}
