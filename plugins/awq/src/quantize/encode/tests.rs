use llm_quantize_plugin_api::testing::{BuiltFile, TestModel, build, views};
use llm_quantize_plugin_api::{
    Converter, FileView, InlineHost, Inputs, Job, ModelView, PlanRequest, Quantizer, Reader,
};

use super::*;
use crate::layout::SCALES;
use crate::quantize::AwqQuantizer;
use crate::quantize::plan::tests::rounding;
use crate::read::AwqConverter;

mod folding;
mod searching;

fn built(model: &TestModel, request: &PlanRequest) -> (Box<dyn Job>, Vec<BuiltFile>) {
    let quantizer = AwqQuantizer::new(Host::new(InlineHost));
    let (job, files) = build(&quantizer, model, request, 3, 0xAA).unwrap();
    job.verify(&views(&files)).unwrap();
    (job, files)
}

/// All numbers of a tensor of the model.
fn original(model: &TestModel, name: &str) -> Array2<f32> {
    let tensor = model.model().tensor_index(name).unwrap();
    let view = model.view(tensor, None, false).unwrap();
    convert::widen(&llm_quantize_plugin_api::kernels::Serial, &view).unwrap()
}

/// A finished folder, read back.
struct Folder<'a> {
    files: Vec<FileView<'a>>,
    reader: Box<dyn Reader>,
}

impl<'a> Folder<'a> {
    fn open(files: &'a [BuiltFile]) -> Self {
        let files = views(files);
        let reader = AwqConverter::new(Host::new(InlineHost));
        let reader = reader.open(&files, ModelView::HuggingFace).unwrap();
        Self { files, reader }
    }

    /// All numbers of a tensor.
    fn numbers(&self, name: &str) -> Array2<f32> {
        let model = self.reader.model();
        let place = model.tensor_index(name).unwrap();
        let (rows, cols) = (model.tensors[place].rows(), model.tensors[place].cols());
        let mut numbers = Array2::from_elem((rows.unwrap() as usize, cols as usize), f32::NAN);
        let out = numbers.as_slice_mut().unwrap();
        let decoded = self
            .reader
            .decode(&self.files, place, 0..rows.unwrap(), out);
        decoded.unwrap();
        numbers
    }

    /// The scales of a layer, one for each row and group; `None` of what is no layer.
    fn scales(&self, name: &str) -> Option<Array2<f32>> {
        let model = self.reader.model();
        let place = model.tensor_index(name).unwrap();
        let rows = model.tensors[place].rows().unwrap();
        let groups = self.reader.groups(&self.files, place, 0..rows).unwrap()?;
        let shape = (rows as usize, groups.scales.len() / rows as usize);
        Some(Array2::from_shape_vec(shape, groups.scales).unwrap())
    }
}

/// What a reader decodes is as near to the weights as a grid of sixteen steps allows.
#[test]
fn weights_are_rounded_within_a_step() {
    let model = TestModel::tiny_llama();
    let (_, files) = built(&model, &rounding());
    let folder = Folder::open(&files);
    let mut layers = 0;
    for tensor in &model.model().tensors {
        let (exact, stored) = (original(&model, &tensor.name), folder.numbers(&tensor.name));
        let Some(scales) = folder.scales(&tensor.name) else {
            assert_eq!(stored, exact, "{}", tensor.name);
            continue;
        };
        for ((row, column), number) in stored.indexed_iter() {
            let step = scales[[row, column / 64]];
            let off = (number - exact[[row, column]]).abs();
            assert!(off <= step * 0.51, "{}: {row} {column}", tensor.name);
        }
        layers += 1;
    }
    assert_eq!(layers, 14);
}

#[test]
fn layers_are_reported() {
    let model = TestModel::tiny_llama();
    let job = AwqQuantizer::new(Host::new(InlineHost));
    let job = job.plan(&model, &rounding()).unwrap();
    let units = &job.plan().units;
    let unit = units.iter().position(|unit| unit.split.is_none()).unwrap();
    let inputs = units[unit].inputs.iter();
    let inputs = inputs.map(|input| model.view(input.tensor, None, false).unwrap());
    let inputs: Vec<TensorView<'_>> = inputs.collect();
    let lengths = units[unit].outputs.iter().map(|span| span.len as usize);
    let lengths: Vec<usize> = lengths.collect();
    let encode = |inputs: &[TensorView<'_>]| {
        let mut buffers: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0; *length]).collect();
        let mut outputs: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        job.encode(EncodeCall {
            unit,
            rows: 0..1,
            inputs,
            statistics: &[],
            outputs: &mut outputs,
        })
    };
    let report = encode(&inputs).unwrap();
    let errors = report.measures.iter().filter(|m| m.name == "weight_error");
    assert_eq!(errors.clone().count(), 7);
    assert!(errors.clone().all(|m| m.value > 1e-4 && m.value < 0.02));
    assert_eq!(
        report.measures[0].subject,
        "model.layers.0.self_attn.q_proj"
    );
    assert!(encode(&inputs[1..]).is_err());
    let mut exchanged = inputs.clone();
    exchanged.swap(0, 6);
    assert!(encode(&exchanged).is_err());
    // A weight that is no number.
    let mut bytes = inputs[2].bytes().to_vec();
    bytes[2 * 300..2 * 301].copy_from_slice(&[0xC0, 0x7F]);
    let mut broken = inputs.clone();
    let (rows, cols) = (inputs[2].rows(), inputs[2].cols());
    broken[2] = TensorView::new(inputs[2].element(), rows, cols, &bytes).unwrap();
    let error = encode(&broken).unwrap_err();
    assert_eq!(error.kind, ErrorKind::CorruptInput);
    assert!(
        error
            .message
            .contains("v_proj: the weight in row 1, column 44"),
        "{error}"
    );
}

#[test]
fn damaged_folders_are_not_verified() {
    let (job, files) = built(&TestModel::tiny_llama(), &rounding());
    let header = 8 + u64::from_le_bytes(files[0].bytes[..8].try_into().unwrap()) as usize;
    let refused = |file: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = files.clone();
        change(&mut files[file].bytes);
        let error = job.verify(&views(&files)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::VerificationFailed, "{error}");
        error.message
    };
    for at in (0..header).step_by(97) {
        refused(0, &|bytes| bytes[at] ^= 0x20);
    }
    for at in 0..files[1].bytes.len() {
        refused(1, &|bytes| bytes[at] ^= 1);
    }
    refused(0, &|bytes| bytes.truncate(bytes.len() - 1));
    // Scales that are none.
    let reader = AwqConverter::new(Host::new(InlineHost));
    let reader = reader.open(&views(&files), ModelView::Native).unwrap();
    let name = format!("model.layers.1.mlp.up_proj{SCALES}");
    let scales = reader.model().tensor_index(&name).unwrap();
    let (_, range) = reader.stored(scales).unwrap();
    for half in [[0, 0], [0, 0x7C], [1, 0x7C]] {
        let found = refused(0, &|bytes| {
            // The scale of output 3 of the second group.
            let at = range.start as usize + 2 * (512 + 3);
            bytes[at..at + 2].copy_from_slice(&half);
        });
        assert!(
            found.contains("up_proj: the scale of row 3, group 1"),
            "{found}"
        );
    }
}
