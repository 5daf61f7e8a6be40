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
        let folder = cache.join(format!("{name}-{short}"));
        fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
        Ok(Self {
            folder,
            key: key.to_owned(),
        })
    }

    /// What is known of a wave's sites; nothing if there is no file, or a damaged one.
    pub fn load(&self, wave: usize, sites: &[Site], graph: &Graph) -> WaveStatistics {
        let Ok(file) = MappedFile::open(&self.path(wave)) else {
            return WaveStatistics::new();
        };
        let read = || {
            let (_, header) = SafeTensors::read_metadata(file.bytes()).ok()?;
            let metadata = header.metadata().as_ref()?;
            let mine = metadata.get(KEY) == Some(&self.key);
            let tokens = metadata.get(TOKENS)?.parse().ok().filter(|_| mine)?;
            let tensors = SafeTensors::deserialize(file.bytes()).ok()?;
            let sites = sites.iter();
            let known = sites.filter_map(|site| {
                let statistics = site_of(&tensors, site.weight(graph), site.channels(graph))?;
                Some((
                    *site,
                    SiteStatistics {
                        tokens,
                        ..statistics
                    }
                    .finished(),
                ))
            });
            Some(known.collect())
        };
        read().unwrap_or_default()
    }

    /// Whether everything that is wanted of a wave is here.
    pub fn has(&self, wave: usize, wanted: &BTreeMap<Site, Wanted>, graph: &Graph) -> bool {
        let sites: Vec<Site> = wanted.keys().copied().collect();
        covers(&self.load(wave, &sites, graph), wanted)
    }

    /// Keeps what was gathered in a wave.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, wave: usize, statistics: &WaveStatistics, graph: &Graph) -> Result<()> {
        let path = self.path(wave);
        let mut tensors = Vec::new();
        let mut tokens = 0;
        for (site, statistics) in statistics {
            tokens = statistics.tokens;
            tensors.extend(tensors_of(statistics, site.weight(graph))?);
        }
        let metadata = HashMap::from([
            (KEY.to_owned(), self.key.clone()),
            (TOKENS.to_owned(), tokens.to_string()),
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

/// `None` if the sums are not there, or a tensor is wrong.
fn site_of(tensors: &SafeTensors<'_>, weight: &str, channels: usize) -> Option<SiteStatistics> {
    let get = |name: &str, rows: Option<usize>| {
        let Ok(tensor) = tensors.tensor(&format!("{weight}.{name}")) else {
            return Some(None);
        };
        let [own_rows, cols] = *tensor.shape() else {
            return None;
        };
        let fits = cols == channels && rows.is_none_or(|rows| rows == own_rows);
        let (numbers, _) = tensor.data().as_chunks::<4>();
        let numbers = || {
            numbers
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()
        };
        (tensor.dtype() == Dtype::F32 && fits).then(|| Some(numbers()))
    };
    Some(SiteStatistics {
        channels,
        square_sum: get(SQUARES, Some(1))??,
        magnitude_sum: get(MAGNITUDES, Some(1))??,
        gram: get(GRAM, Some(channels))?,
        rows: get(ROWS, None)?,
        ..SiteStatistics::default()
    })
}

fn cannot_write(path: &Path, error: SafeTensorError) -> Error {
    let error = match error {
        SafeTensorError::IoError(error) => Error::io("write", path, error),
        error => Error::other(format!("cannot write {}: {error}", path.display())),
    };
    error.suggest("choose another folder with --calibration-cache, or leave it out")
}
