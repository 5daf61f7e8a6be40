//! Compares a finished folder with its plan, as far as that needs no knowledge of the format.

use super::Weights;
use crate::interface::{Error, FileView, Plan, Result};

/// Checks that the files are there with their planned sizes and literals, and that the weights'
/// headers hold; returns the weights. The files come in the plan's order.
///
/// # Errors
/// The first difference.
pub fn verify(plan: &Plan, blobs: &[Vec<u8>], files: &[FileView<'_>]) -> Result<Weights> {
    if files.len() != plan.files.len() {
        return Err(Error::verification(format!(
            "there are {} files, planned were {}",
            files.len(),
            plan.files.len()
        )));
    }
    for (planned, file) in plan.files.iter().zip(files) {
        if file.bytes.len() as u64 != planned.size {
            return Err(Error::verification(format!(
                "\"{}\" has {} bytes, planned were {}",
                planned.name,
                file.bytes.len(),
                planned.size
            )));
        }
    }
    for literal in &plan.literals {
        let blob = blobs.get(literal.blob).map(Vec::as_slice);
        let file = files.get(literal.file);
        let written = file.and_then(|file| {
            let start = usize::try_from(literal.offset).ok()?;
            file.bytes
                .get(start..)?
                .get(..usize::try_from(literal.len).ok()?)
        });
        if blob.is_none() || written != blob {
            return Err(Error::verification(format!(
                "bytes {}..{} of \"{}\" are not as planned",
                literal.offset,
                literal.offset.saturating_add(literal.len),
                file.map_or("", |file| file.name)
            )));
        }
    }
    Weights::open(files).map_err(|error| Error::verification(error.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf_folder::{FolderBuilder, NewTensor};
    use crate::interface::{ErrorKind, PlanRequest};

    #[test]
    fn every_difference_is_found() {
        let mut builder = FolderBuilder::new("level", "out".into());
        let tensors = [NewTensor::new("a", "F32", &[2])];
        builder.weights(&tensors, &PlanRequest::default()).unwrap();
        builder
            .json_file("config.json", &serde_json::json!({"b": 1}))
            .unwrap();
        let (plan, blobs) = builder.finish();
        let weights = [blobs[0].clone(), vec![7; 8]].concat();
        let config = blobs[1].clone();
        let check = |weights: &[u8], config: &[u8]| {
            let views = [
                FileView {
                    name: "model.safetensors",
                    bytes: weights,
                },
                FileView {
                    name: "config.json",
                    bytes: config,
                },
            ];
            verify(&plan, &blobs, &views)
        };
        assert_eq!(check(&weights, &config).unwrap().tensors().len(), 1);
        for damaged in 0..weights.len() - 8 {
            let mut bytes = weights.clone();
            bytes[damaged] ^= 1;
            let error = check(&bytes, &config).unwrap_err();
            assert_eq!(error.kind, ErrorKind::VerificationFailed);
        }
        let mut changed = config.clone();
        changed[2] ^= 1;
        assert!(check(&weights, &changed).is_err());
        assert!(check(&weights[..weights.len() - 1], &config).is_err());
        assert!(verify(&plan, &blobs, &[]).is_err());
    }
}
