//! Folders that other programs wrote, built word by word.
#![allow(clippy::unwrap_used)]

use llm_quantize_gptq::read::GptqConverter;
use llm_quantize_plugin_api::hf_folder::write_header;
use llm_quantize_plugin_api::{
    Converter, Error, FileView, Host, InlineHost, ModelView, Reader, TensorInfo,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A tensor with its bytes.
type Tensor = (TensorInfo, Vec<u8>);

fn tensor(name: &str, dtype: &str, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    let info = TensorInfo {
        name: name.into(),
        dtype: dtype.into(),
        shape: shape.to_vec(),
        bytes: bytes.len() as u64,
    };
    (info, bytes)
}

fn words(name: &str, shape: &[u64], words: &[u32]) -> Tensor {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    tensor(name, "I32", shape, bytes)
}

fn halves(name: &str, shape: &[u64], halves: &[u16]) -> Tensor {
    let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
    tensor(name, "F16", shape, bytes)
}

struct Folder {
    config: String,
    extra: Vec<(&'static str, String)>,
    weights: Vec<u8>,
}

impl Folder {
    fn new(config: &Value, tensors: &[Tensor]) -> Self {
        let mut weights = write_header(tensors.iter().map(|(info, _)| info)).unwrap();
        for (_, bytes) in tensors {
            weights.extend(bytes);
        }
        Self {
            config: config.to_string(),
            extra: Vec::new(),
            weights,
        }
    }

    fn files(&self) -> Vec<FileView<'_>> {
        let view = |name, bytes| FileView { name, bytes };
        let extra = self.extra.iter();
        let mut files: Vec<FileView<'_>> = extra
            .map(|(name, text)| view(*name, text.as_bytes()))
            .collect();
        files.push(view("config.json", self.config.as_bytes()));
        files.push(view("model.safetensors", &self.weights));
        files
    }

    fn open(&self, view: ModelView) -> Result<Box<dyn Reader>, Error> {
        let converter = GptqConverter::new(Host::new(InlineHost));
        assert!(converter.detect(&self.files()));
        converter.open(&self.files(), view)
    }
}

fn config(changes: &Value) -> Value {
    let mut section = json!({
        "bits": 4, "group_size": 8, "damp_percent": 0.01, "desc_act": false, "sym": false,
        "static_groups": false, "true_sequential": true, "model_name_or_path": null,
        "model_file_base_name": "model", "quant_method": "gptq", "checkpoint_format": "gptq",
    });
    for (key, value) in changes.as_object().unwrap() {
        section[key] = value.clone();
    }
    json!({"model_type": "llama", "rope_theta": 5e5, "quantization_config": section})
}

const ONE: u16 = 0x3C00;
const MINUS_HALF: u16 = 0xB800;

/// A layer `fc` of 16 inputs and 8 outputs in two groups of 8. Every output has the codes 0 to 7,
/// then 8 to 15. Output `n` has the zeros `n + 1` and 8, the scales 1 and -1/2.
fn layer(g_idx: &[u32]) -> Vec<Tensor> {
    vec![
        words("fc.g_idx", &[16], g_idx),
        words(
            "fc.qweight",
            &[2, 8],
            &[[0x7654_3210; 8], [0xFEDC_BA98; 8]].concat(),
        ),
        words("fc.qzeros", &[2, 1], &[0x7654_3210, 0x7777_7777]),
        halves("fc.scales", &[2, 8], &[[ONE; 8], [MINUS_HALF; 8]].concat()),
        halves("fc.bias", &[8], &[ONE; 8]),
        halves("norm.weight", &[2], &[ONE, MINUS_HALF]),
    ]
}

const TRIVIAL: [u32; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];

fn row(reader: &dyn Reader, folder: &Folder, row: u64) -> Vec<f32> {
    let place = reader.model().tensor_index("fc.weight").unwrap();
    let mut numbers = vec![0.0; 16];
    let rows = row..row + 1;
    reader
        .decode(&folder.files(), place, rows, &mut numbers)
        .unwrap();
    numbers
}

#[test]
fn a_folder_of_autogptq_is_a_hugging_face_model() {
    let folder = Folder::new(&config(&json!({})), &layer(&TRIVIAL));
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    let model = reader.model();
    let names: Vec<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["fc.weight", "fc.bias", "norm.weight"]);
    assert_eq!(
        (model.tensors[0].dtype.as_str(), &model.tensors[0].shape[..]),
        ("4bit", &[8, 16][..])
    );
    assert_eq!(
        model.config,
        json!({"model_type": "llama", "rope_theta": 5e5})
    );
    assert_eq!(model.files, ["config.json"]);
    let written = reader
        .file(&folder.files(), "config.json")
        .unwrap()
        .unwrap();
    assert!(!String::from_utf8(written).unwrap().contains("quantization"));
    assert!(
        reader
            .file(&folder.files(), "model.safetensors")
            .unwrap()
            .is_none()
    );

    for output in [0, 3, 7u8] {
        let first = (0..8u8).map(|code| f32::from(code) - f32::from(output + 1));
        let second = (8..16u8).map(|code| -0.5 * (f32::from(code) - 8.0));
        let expected: Vec<f32> = first.chain(second).collect::<Vec<f32>>();
        assert_eq!(row(&*reader, &folder, output.into()), expected);
    }
    let mut norm = [0.0; 2];
    reader.decode(&folder.files(), 2, 0..1, &mut norm).unwrap();
    assert_eq!(norm, [1.0, -0.5]);
}

#[test]
fn the_second_version_stores_zeros_as_they_are() {
    let folder = Folder::new(
        &config(&json!({"checkpoint_format": "gptq_v2"})),
        &layer(&TRIVIAL),
    );
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    assert_eq!(row(&*reader, &folder, 3)[..4], [-3.0, -2.0, -1.0, 0.0]);
    let groups = reader.groups(&folder.files(), 0, 2..4).unwrap().unwrap();
    assert_eq!((groups.bits, groups.group_size), (4, 8));
    assert_eq!(groups.codes[16..], (0..16).collect::<Vec<u8>>());
    assert_eq!(groups.scales, [1.0, -0.5, 1.0, -0.5]);
    assert_eq!(groups.zeros, [2.0, 7.0, 3.0, 7.0]);
    assert_eq!(groups.permutation, None);
    assert_eq!(reader.groups(&folder.files(), 1, 0..1).unwrap(), None);
}

#[test]
fn groups_in_the_order_of_activations_are_followed() {
    let swapped: Vec<u32> = (0..16).map(|input| input % 2).collect();
    let folder = Folder::new(&config(&json!({"desc_act": true})), &layer(&swapped));
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    let numbers = row(&*reader, &folder, 0);
    for (input, number) in numbers.iter().enumerate() {
        let expected = match input % 2 {
            0 => input as f32 - 1.0,
            _ => -0.5 * (input as f32 - 8.0),
        };
        assert_eq!(*number, expected, "{input}");
    }
    let groups = reader.groups(&folder.files(), 0, 0..1).unwrap().unwrap();
    assert_eq!(groups.permutation, Some(swapped));
}

#[test]
fn layers_may_have_other_bits_and_groups_than_the_configuration_says() {
    let tensors = [
        // Four inputs of eight bits, one group.
        words("fc.qweight", &[1, 4], &[0x0302_0100; 4]),
        words("fc.qzeros", &[1, 1], &[0x7F7F_7F7F]),
        halves("fc.scales", &[1, 4], &[ONE; 4]),
    ];
    let rules = json!({"dynamic": {"+:.*fc": {"bits": 8, "group_size": 4}}});
    let folder = Folder::new(&config(&rules), &tensors);
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    assert_eq!(reader.model().tensors[0].dtype, "8bit");
    let mut numbers = [0.0; 4];
    reader
        .decode(&folder.files(), 0, 3..4, &mut numbers)
        .unwrap();
    assert_eq!(numbers, [-128.0, -127.0, -126.0, -125.0]);
}

#[test]
fn a_last_group_may_be_shorter() {
    let mut g_idx = TRIVIAL;
    g_idx[8..12].fill(0);
    let folder = Folder::new(&config(&json!({"group_size": 12})), &layer(&g_idx));
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    assert_eq!(row(&*reader, &folder, 0)[11..13], [10.0, -2.0]);
    let groups = reader.groups(&folder.files(), 0, 0..1).unwrap().unwrap();
    assert_eq!(groups.permutation.unwrap()[11..13], [0, 1]);
}

#[test]
fn the_native_view_is_the_folder_itself() {
    let folder = Folder::new(&config(&json!({})), &layer(&TRIVIAL));
    let reader = folder.open(ModelView::Native).unwrap();
    assert_eq!(reader.model().tensors.len(), 6);
    let place = reader.model().tensor_index("fc.scales").unwrap();
    let (file, range) = reader.stored(place).unwrap();
    let bytes = &folder.files()[file].bytes[range.start as usize..range.end as usize];
    assert_eq!(bytes[..2], ONE.to_le_bytes());
    let codes = reader.model().tensor_index("fc.qweight").unwrap();
    assert!(
        reader
            .decode(&folder.files(), codes, 0..1, &mut [0.0; 8])
            .is_err()
    );
}

#[test]
fn the_first_versions_of_autogptq_describe_themselves_in_a_file_of_their_own() {
    let mut folder = Folder::new(&json!({"model_type": "llama"}), &layer(&TRIVIAL));
    let section = json!({"bits": 4, "group_size": 8, "damp_percent": 0.01, "desc_act": false});
    folder.extra = vec![
        ("quantize_config.json", section.to_string()),
        ("tokenizer.json", "{}".into()),
    ];
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    assert_eq!(row(&*reader, &folder, 0)[..2], [-1.0, 0.0]);
    assert_eq!(reader.model().files, ["tokenizer.json", "config.json"]);
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let good = layer(&TRIVIAL);
    let replaced = |place: usize, tensor: Tensor| {
        let mut tensors = good.clone();
        tensors[place] = tensor;
        tensors
    };
    let without = |place: usize| {
        let mut tensors = good.clone();
        tensors.remove(place);
        tensors
    };
    let with = |tensor: Tensor| [good.clone(), vec![tensor]].concat();
    for (tensors, what) in [
        (without(1), "has no tensor \"fc.qweight\""),
        (without(2), "has no tensor \"fc.qzeros\""),
        (without(3), "has no tensor \"fc.scales\""),
        (with(halves("fc.weight", &[1], &[ONE])), "has both"),
        (
            replaced(1, halves("fc.qweight", &[2, 8], &[0; 16])),
            "\"fc.qweight\" is of type F16",
        ),
        (
            replaced(3, words("fc.scales", &[2, 8], &[0; 16])),
            "\"fc.scales\" is of type I32",
        ),
        (
            replaced(1, words("fc.qweight", &[16], &[0; 16])),
            "expected a matrix",
        ),
        (
            replaced(1, words("fc.qweight", &[1, 8], &[0; 8])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(2, words("fc.qzeros", &[1, 1], &[0])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(2, words("fc.qzeros", &[2, 2], &[0; 4])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(3, halves("fc.scales", &[3, 8], &[0; 24])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(0, words("fc.g_idx", &[15], &[0; 15])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(0, words("fc.g_idx", &[4, 4], &[0; 16])),
            "\"fc\" do not fit each other",
        ),
    ] {
        let folder = Folder::new(&config(&json!({})), &tensors);
        let error = folder.open(ModelView::HuggingFace).err().unwrap();
        assert!(error.message.contains(what), "{what}: {error}");
    }
    // What only the data shows comes up when it is read.
    let mut groups = TRIVIAL;
    groups[5] = 9;
    let folder = Folder::new(&config(&json!({})), &layer(&groups));
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    let place = reader.model().tensor_index("fc.weight").unwrap();
    let error = reader
        .decode(&folder.files(), place, 0..1, &mut [0.0; 16])
        .unwrap_err();
    assert!(
        error.message.contains("\"fc\"") && error.message.contains("input 5"),
        "{error}"
    );
}

#[test]
fn every_cut_of_a_folder_is_an_error() {
    let folder = Folder::new(&config(&json!({})), &layer(&TRIVIAL));
    let config = folder.config.as_bytes();
    for length in 0..folder.weights.len() {
        let files = [
            FileView {
                name: "config.json",
                bytes: config,
            },
            FileView {
                name: "model.safetensors",
                bytes: &folder.weights[..length],
            },
        ];
        let converter = GptqConverter::new(Host::new(InlineHost));
        for view in [ModelView::Native, ModelView::HuggingFace] {
            assert!(converter.open(&files, view).is_err(), "{length}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Bytes of the header and of the groups, changed at will: an error or numbers, never a panic.
    #[test]
    fn damaged_folders_are_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut folder = Folder::new(&config(&json!({})), &layer(&TRIVIAL));
        // The header comes first, then the groups.
        let end = folder.weights.len() - 8 * 4 * 2;
        for (place, byte) in changes {
            folder.weights[place.index(end)] = byte;
        }
        let files = folder.files();
        let converter = GptqConverter::new(Host::new(InlineHost));
        let Ok(reader) = converter.open(&files, ModelView::HuggingFace) else {
            return Ok(());
        };
        for (index, tensor) in reader.model().tensors.iter().enumerate() {
            let mut row = vec![0.0; tensor.cols() as usize];
            let _ = reader.decode(&files, index, 0..1, &mut row);
            if let Ok(Some(groups)) = reader.groups(&files, index, 0..1) {
                prop_assert_eq!(groups.codes.len() as u64, tensor.cols());
                prop_assert_eq!(groups.scales.len(), groups.zeros.len());
            }
        }
    }
}
