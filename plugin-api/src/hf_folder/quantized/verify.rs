//! Compares the layers of a finished folder with those of its plan.

use super::{Layer, LayeredFolder, StoredLayer};
use crate::interface::{Error, Host, Result};

/// Checks that a folder has these layers and no other, and each of them with `check`, which is
/// called from many threads.
///
/// # Errors
/// The first difference, as one of the verification.
pub fn verify_layers<S: Sync, L: StoredLayer>(
    host: &Host,
    planned: &[&Layer<S>],
    folder: &LayeredFolder<L>,
    check: impl Fn(&Layer<S>, &L) -> Result<()> + Sync,
) -> Result<()> {
    let found = folder.layers().count();
    if found != planned.len() {
        return Err(Error::verification(format!(
            "there are {found} quantized layers, planned were {}",
            planned.len()
        )));
    }
    host.parallel_for(planned.len(), |index| {
        let layer = planned[index];
        let checked = match folder.layer(&layer.module) {
            Some(stored) => check(layer, stored),
            None => Err(Error::verification("the layer is missing")),
        };
        checked.map_err(|error| Error::verification(format!("{}: {}", layer.module, error.message)))
    })
}
