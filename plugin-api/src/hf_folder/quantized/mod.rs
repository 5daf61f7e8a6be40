//! Folders in which linear layers are quantized: each weight is replaced by a few tensors, the
//! rest of the model stays, and `config.json` says so. GPTQ and AWQ are such formats.
//!
//! * Writing: [`choose`] decides which layers are quantized, [`FolderBuilder::quantized_weights`]
//!   lays everything out, [`with_quantization`] makes the configuration, [`options`] has what
//!   users may ask for in all of these formats.
//! * Reading: [`LayeredFolder`] finds the layers, [`FolderReader`] presents them as a model.
//!
//! * Taking over the groups of another format: [`repack`] decides which layers, and how they are
//!   stored.
//!
//! What a format adds is how a layer is stored: [`LayerShape`] before it is written,
//! [`StoredLayer`] when it is read.
//!
//! [`FolderBuilder::quantized_weights`]: super::FolderBuilder::quantized_weights

mod config;
mod folder;
mod layers;
pub mod options;
mod places;
mod reader;
mod repack;
mod rows;
mod verify;

pub use config::{
    check_words, exceptions, generator, group_size, quantizer, section, unsupported,
    with_quantization,
};
pub use folder::{Item, LayeredFolder, StoredLayer};
pub use layers::{
    Choice, Kept, Layer, LayerShape, Selection, SiteLayers, choose, groups_misfit, kind_of,
    module_of, refuse_own_folder,
};
pub use places::{Places, keeps_type};
pub use reader::FolderReader;
pub use repack::{Offer, Repacked, Way, note_routes, repack, sizes_to_try};
pub use rows::{Groups, Rows};
pub use verify::verify_layers;

/// The ending of a weight's name, which those of the tensors in its place replace.
pub const WEIGHT: &str = ".weight";
/// The ending of the name of a layer's scales. Other tensors may end so, too.
pub const SCALES: &str = ".scales";
/// The group size that stands for a whole row.
pub const WHOLE_ROW: i64 = -1;
