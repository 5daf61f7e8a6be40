//! The numbers of every scored position, as a file.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use super::Measured;
use crate::error::{Error, Result};
use crate::text::Windows;

/// A file of lines, one for each position, in the making.
#[derive(Debug)]
pub struct PerToken {
    path: PathBuf,
    file: NamedTempFile,
}

/// A line.
#[derive(Serialize)]
struct Line {
    window: usize,
    /// Place of the token in the window; the first is not scored.
    position: usize,
    token: u32,
    /// Log-probability of the token by the original.
    original: f64,
    /// And by the other models, in their order.
    quantized: Vec<f64>,
}

impl PerToken {
    /// Begins a file, so that what cannot be written is found before the work. Nothing appears
    /// under its name before it is complete.
    ///
    /// # Errors
    /// If files cannot be created in its folder.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // As any other file of the user's, not a secret.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .tempfile_in(folder)
            .map_err(|error| Error::io("create a file in", folder, error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Writes what was measured, the original's numbers first, and gives the file its name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(self, windows: &Windows, measured: &[Measured]) -> Result<()> {
        let failed = |error| Error::io("write", &self.path, error);
        let mut out = BufWriter::new(self.file.as_file());
        for line in lines(windows, measured) {
            serde_json::to_writer(&mut out, &line).map_err(|error| failed(error.into()))?;
            out.write_all(b"\n").map_err(failed)?;
        }
        out.flush().map_err(failed)?;
        drop(out);
        let persisted = self.file.persist(&self.path);
        persisted.map_err(|error| Error::io("write", &self.path, error.error))?;
        Ok(())
    }
}

fn lines(windows: &Windows, measured: &[Measured]) -> impl Iterator<Item = Line> {
    let scored = windows.length - 1;
    (0..windows.count() * scored).map(move |index| {
        let (window, position) = (index / scored, index % scored + 1);
        let mut numbers = measured.iter().map(|m| m.log_probabilities[index]);
        Line {
            window,
            position,
            token: windows.window(window)[position],
            original: numbers.next().unwrap_or(f64::NAN),
            quantized: numbers.collect(),
        }
    })
}
