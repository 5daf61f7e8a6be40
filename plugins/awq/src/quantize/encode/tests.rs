use llm_quantize_plugin_api::testing::{BuiltFile, TestModel, build, decode, views};
use llm_quantize_plugin_api::{
    Converter, FlowingLayer, InlineHost, Inputs, Job, ModelView, Quantizer,
};

use super::*;
use crate::layout::SCALES;
use crate::quantize::AwqQuantizer;
use crate::quantize::plan::tests::request;
use crate::read::AwqConverter;

fn built(model: &TestModel) -> (Box<dyn Job>, Vec<BuiltFile>) {
    let quantizer = AwqQuantizer::new(Host::new(InlineHost));
    build(&quantizer, model, &request(&[]), 3, 0xAA).unwrap()
}

/// What a reader decodes is what the job does, and both are as near to the weights as a grid of
/// sixteen steps allows.
#[test]
fn what_a_job_decodes_is_what_the_finished_folder_holds() {
    let model = TestModel::tiny_llama();
    let (job, files) = built(&model);
    let views = views(&files);
    job.verify(&views).unwrap();
    let converter = AwqConverter::new(Host::new(InlineHost));
    let reader = converter.open(&views, ModelView::HuggingFace).unwrap();
    let mut checked = 0;
    for (number, unit) in job.plan().units.iter().enumerate() {
        for (input, read) in unit.inputs.iter().enumerate() {
            let info = &model.model().tensors[read.tensor];
            let place = reader.model().tensor_index(&info.name).unwrap();
            let mut folder = vec![f32::NAN; info.elements().unwrap() as usize];
            let rows = info.rows().unwrap();
            reader.decode(&views, place, 0..rows, &mut folder).unwrap();
            let view = model.view(read.tensor, None, false).unwrap();
            let exact = convert::widen(&llm_quantize_plugin_api::kernels::Serial, &view).unwrap();
            if unit.split.is_some() {
                assert!(folder.iter().eq(&exact), "{}", info.name);
                continue;
            }
            let layer = FlowingLayer {
                tensor: read.tensor,
                unit: number,
                input,
            };
            let decoded = decode(&*job, &model, &files, layer, 0..rows).unwrap();
            assert_eq!(decoded, folder, "{}", info.name);
            let part = decode(&*job, &model, &files, layer, 5..9).unwrap();
            let cols = info.cols() as usize;
            assert_eq!(part, folder[5 * cols..9 * cols]);
            let groups = reader.groups(&views, place, 0..rows).unwrap().unwrap();
            for (at, (rounded, exact)) in folder.iter().zip(&exact).enumerate() {
                let scale = groups.scales[at / 64];
                assert!(
                    (rounded - exact).abs() <= scale * 0.51,
                    "{}: {at}",
                    info.name
                );
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 14);
}

#[test]
fn layers_are_reported() {
    let model = TestModel::tiny_llama();
    let job = AwqQuantizer::new(Host::new(InlineHost));
    let job = job.plan(&model, &request(&[])).unwrap();
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
    let (job, files) = built(&TestModel::tiny_llama());
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
