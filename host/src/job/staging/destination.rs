//! Where an output goes, and the names that it has until it is finished.

use std::path::{Path, PathBuf};

use llm_quantize_plugin_api::{Container, Plan};

/// Where a plan's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The output folder.
    pub folder: PathBuf,
    /// What appears there: the files, or the one folder with the files.
    pub targets: Vec<PathBuf>,
}

impl Destination {
    /// The destination of a plan in an output folder.
    pub fn new(folder: &Path, plan: &Plan) -> Self {
        let targets = match &plan.container {
            Container::Folder(name) => vec![folder.join(name)],
            Container::Files => plan.files.iter().map(|f| folder.join(&f.name)).collect(),
        };
        Self {
            folder: folder.to_owned(),
            targets,
        }
    }

    /// The path that the user is told: the first file, or the folder.
    pub fn main(&self) -> &Path {
        self.targets.first().unwrap_or(&self.folder)
    }

    /// File name of the main target.
    pub fn name(&self) -> String {
        file_name(self.main())
    }

    /// Where each target is built, in the order of the targets.
    pub fn temporary(&self) -> Vec<PathBuf> {
        self.targets.iter().map(|target| partial(target)).collect()
    }
}

/// The temporary name beside a target.
pub fn partial(target: &Path) -> PathBuf {
    target.with_file_name(format!(".{}.partial", file_name(target)))
}

/// The last part of a path as text.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
