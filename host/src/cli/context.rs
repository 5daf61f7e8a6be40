//! What every command gets: the global options, ready to use.

use std::path::PathBuf;
use std::sync::Arc;

use super::args::{GlobalArgs, OutputFormat};
use crate::output::Ui;
use crate::system;

/// The global options of a run.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where news, progress and errors go.
    pub ui: Arc<Ui>,
    /// How results are printed.
    pub format: OutputFormat,
    /// Worker threads.
    pub threads: usize,
    /// Folders of `--plugin-dir`, in order.
    pub plugin_dirs: Vec<PathBuf>,
}

impl Context {
    /// From the command line and the process's surroundings.
    pub fn new(global: &GlobalArgs) -> Self {
        Self {
            ui: Arc::new(Ui::for_stderr(global.verbosity)),
            format: global.format,
            threads: global.threads.unwrap_or_else(system::available_cores),
            plugin_dirs: global.plugin_dir.clone(),
        }
    }
}
