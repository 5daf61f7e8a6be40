//! A converter for a made-up format, for tests: a file that begins with `TEXT ` and
//! holds one digit for each weight of a tensor with two rows.

use std::ops::Range;
use std::sync::Arc;

use llm_quantize_plugin_api::{
    Converter, Error, FileView, ModelDescription, ModelView, Reader, Result, TensorInfo,
};

use super::NamedConverter;

const MAGIC: &[u8] = b"TEXT ";

/// The converter.
pub struct TextConverter;

struct TextReader {
    model: ModelDescription,
    view: ModelView,
}

/// The converter as the host gets it.
pub fn converters() -> Vec<NamedConverter> {
    vec![NamedConverter {
        plugin: "text".into(),
        version: "1.0.0".into(),
        converter: Arc::new(TextConverter),
    }]
}

impl Converter for TextConverter {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        files.iter().any(|file| file.bytes.starts_with(MAGIC))
    }

    fn open(&self, files: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>> {
        let file = files.iter().find(|file| file.bytes.starts_with(MAGIC));
        let file = file.ok_or_else(|| Error::corrupt("no text"))?;
        let digits = (file.bytes.len() - MAGIC.len()) as u64;
        if !digits.is_multiple_of(2) {
            return Err(Error::corrupt("the number of digits is odd"));
        }
        let tensor = TensorInfo {
            name: "layers.0.weight".into(),
            dtype: "DIGIT".into(),
            shape: vec![2, digits / 2],
            bytes: digits,
        };
        let model = ModelDescription {
            format: "text".into(),
            config: serde_json::json!({}),
            tensors: vec![tensor],
            files: vec!["vocab.txt".into()],
            sites: Vec::new(),
            facts: vec![("text.version".into(), "1".into())],
            ..ModelDescription::default()
        };
        Ok(Box::new(TextReader { model, view }))
    }
}

impl Reader for TextReader {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, _files: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>> {
        Ok((name == "vocab.txt").then(|| b"words".to_vec()))
    }

    fn decode(
        &self,
        files: &[FileView<'_>],
        _tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let cols = self.model.tensors[0].cols() as usize;
        let digits = &files[0].bytes[MAGIC.len() + rows.start as usize * cols..];
        for (number, digit) in out.iter_mut().zip(digits) {
            *number = f32::from(digit - b'0');
        }
        Ok(())
    }

    fn stored(&self, _tensor: usize) -> Option<(usize, Range<u64>)> {
        let end = MAGIC.len() as u64 + self.model.tensors[0].bytes;
        (self.view == ModelView::Native).then_some((0, MAGIC.len() as u64..end))
    }
}
