//! Folders that other programs wrote, built word by word.
#![allow(clippy::unwrap_used)]

use llm_quantize_awq::read::AwqConverter;
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
        let converter = AwqConverter::new(Host::new(InlineHost));
        assert!(converter.detect(&self.files()));
        converter.open(&self.files(), view)
    }
}

fn config(changes: &Value) -> Value {
    let mut section = json!({
        "bits": 4, "group_size": 8, "modules_to_not_convert": null, "quant_method": "awq",
        "version": "gemm", "zero_point": true,
    });
    for (key, value) in changes.as_object().unwrap() {
        section[key] = value.clone();
    }
    json!({"model_type": "llama", "rope_theta": 5e5, "quantization_config": section})
}

const ONE: u16 = 0x3C00;
const HALF: u16 = 0x3800;

/// A layer `fc` of 16 inputs and 8 outputs in two groups of 8. Output `n` has the code `n` for
/// all inputs of the first group and `15 - n` for those of the second, the zeros `n` and 8, the
/// scales 1 and 1/2.
fn layer() -> Vec<Tensor> {
    let codes = [[0x7531_6420; 8], [0x8ACE_9BDF; 8]].concat();
    vec![
        words("fc.qweight", &[16, 1], &codes),
        words("fc.qzeros", &[2, 1], &[0x7531_6420, 0x8888_8888]),
        halves("fc.scales", &[2, 8], &[[ONE; 8], [HALF; 8]].concat()),
        halves("fc.bias", &[8], &[ONE; 8]),
        halves("norm.weight", &[2], &[ONE, HALF]),
    ]
}

fn row(reader: &dyn Reader, folder: &Folder, row: u64, inputs: usize) -> Vec<f32> {
    let place = reader.model().tensor_index("fc.weight").unwrap();
    let mut numbers = vec![f32::NAN; inputs];
    let rows = row..row + 1;
    reader
        .decode(&folder.files(), place, rows, &mut numbers)
        .unwrap();
    numbers
}

#[test]
fn a_folder_of_autoawq_is_a_hugging_face_model() {
    let folder = Folder::new(&config(&json!({})), &layer());
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
    for output in [0, 3, 7u8] {
        let second = 0.5 * (f32::from(15 - output) - 8.0);
        let expected = [[0.0; 8], [second; 8]].concat();
        assert_eq!(row(&*reader, &folder, output.into(), 16), expected);
    }
    let groups = reader.groups(&folder.files(), 0, 2..4).unwrap().unwrap();
    assert_eq!((groups.bits, groups.group_size), (4, 8));
    assert_eq!(groups.codes[14..18], [13, 13, 3, 3]);
    assert_eq!(groups.scales, [1.0, 0.5, 1.0, 0.5]);
    assert_eq!(groups.zeros, [2.0, 8.0, 3.0, 8.0]);
    assert_eq!(groups.permutation, None);
    assert_eq!(reader.groups(&folder.files(), 1, 0..1).unwrap(), None);
}

#[test]
fn as_it_is_a_folder_has_its_own_tensors() {
    let folder = Folder::new(&config(&json!({})), &layer());
    let reader = folder.open(ModelView::Native).unwrap();
    assert_eq!(reader.model().tensors.len(), 5);
    assert_eq!(reader.model().config, json!({}));
    let (file, range) = reader.stored(1).unwrap();
    let bytes = &folder.files()[file].bytes[range.start as usize..range.end as usize];
    assert_eq!(bytes, [0x20, 0x64, 0x31, 0x75, 0x88, 0x88, 0x88, 0x88]);
}

/// A layer of 64 inputs and 8 outputs in one group, as AutoAWQ's other versions have it. All codes
/// of output `n` are `n`, but the one of input 2, which is 9. Zeros are 3, the scale 1/2.
fn other_version(version: &str) -> Folder {
    let mut tensors = match version {
        "gemv" => {
            let row = |n: u32| {
                let mut row = vec![n * 0x1111_1111; 8];
                row[0] = row[0] & 0xFFFF_F0FF | 0x900;
                row
            };
            let codes: Vec<u32> = (0..8).flat_map(row).collect();
            vec![
                words("fc.qweight", &[8, 8], &codes),
                words("fc.qzeros", &[8, 2], &[3, 0].repeat(8)),
                halves(
                    "fc.scales",
                    &[8, 16],
                    &[vec![HALF], vec![0; 15]].concat().repeat(8),
                ),
            ]
        }
        _ => {
            // Input 2 is field 8 of its row: the lowest of the third word.
            let row = |n: u16| {
                let mut row = vec![n * 0x1111; 16];
                row[2] = row[2] & 0xFFF0 | 9;
                row
            };
            let codes: Vec<u8> = (0..8)
                .flat_map(row)
                .flat_map(|word| word.to_le_bytes())
                .collect();
            // -3 / 2 in the first of 16 rows.
            let padded = |first: u16| [vec![first; 8], vec![0; 120]].concat();
            vec![
                tensor("fc.qweight", "I16", &[2, 64], codes),
                halves("fc.qzeros", &[16, 8], &padded(0xBE00)),
                halves("fc.scales", &[16, 8], &padded(HALF)),
            ]
        }
    };
    tensors.push(halves("norm.weight", &[2], &[ONE, HALF]));
    let section = json!({"version": version.to_uppercase(), "group_size": 64});
    Folder::new(&config(&section), &tensors)
}

#[test]
fn the_other_versions_of_autoawq_are_read() {
    for version in ["gemv", "gemv_fast"] {
        let folder = other_version(version);
        let reader = folder.open(ModelView::HuggingFace).unwrap();
        for output in [0, 1, 5, 7u8] {
            let mut expected = vec![0.5 * (f32::from(output) - 3.0); 64];
            expected[2] = 3.0;
            let found = row(&*reader, &folder, output.into(), 64);
            assert_eq!(found, expected, "{version}");
        }
        let groups = reader.groups(&folder.files(), 0, 6..7).unwrap().unwrap();
        assert_eq!((groups.scales, groups.zeros), (vec![0.5], vec![3.0]));
        assert_eq!(groups.codes[..4], [6, 6, 9, 6]);
    }
}

#[test]
fn the_first_versions_of_autoawq_describe_themselves_in_a_file_of_their_own() {
    let mut folder = Folder::new(&json!({"model_type": "llama"}), &layer());
    let section = json!({"w_bit": 4, "q_group_size": 8, "zero_point": true, "version": "GEMM"});
    folder.extra = vec![
        ("quant_config.json", section.to_string()),
        ("tokenizer.json", "{}".into()),
    ];
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    assert_eq!(row(&*reader, &folder, 0, 16)[8], 3.5);
    assert_eq!(reader.model().files, ["tokenizer.json", "config.json"]);
}

#[test]
fn layers_may_have_other_groups_than_the_configuration_says() {
    let folder = Folder::new(&config(&json!({"group_size": 128})), &layer());
    let reader = folder.open(ModelView::HuggingFace).unwrap();
    let groups = reader.groups(&folder.files(), 0, 0..1).unwrap().unwrap();
    assert_eq!(groups.group_size, 8);
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let good = layer();
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
        (without(1), "has no tensor \"fc.qzeros\""),
        (without(2), "has no tensor \"fc.scales\""),
        (with(halves("fc.weight", &[1], &[ONE])), "has both"),
        (
            with(halves("mlp.act.scales", &[1], &[ONE])),
            "\"mlp.act.scales\" scales an activation",
        ),
        (
            replaced(0, halves("fc.qweight", &[16, 1], &[0; 16])),
            "\"fc.qweight\" is of type F16",
        ),
        (
            replaced(1, halves("fc.qzeros", &[2, 1], &[0; 2])),
            "\"fc.qzeros\" is of type F16",
        ),
        (
            replaced(2, words("fc.scales", &[2, 8], &[0; 16])),
            "\"fc.scales\" is of type I32",
        ),
        (
            replaced(0, words("fc.qweight", &[16], &[0; 16])),
            "expected a matrix",
        ),
        (
            replaced(0, words("fc.qweight", &[15, 1], &[0; 15])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(0, words("fc.qweight", &[16, 2], &[0; 32])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(1, words("fc.qzeros", &[1, 1], &[0])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(2, halves("fc.scales", &[3, 8], &[0; 24])),
            "\"fc\" do not fit each other",
        ),
        (
            replaced(2, halves("fc.scales", &[0, 8], &[])),
            "\"fc\" do not fit each other",
        ),
    ] {
        let folder = Folder::new(&config(&json!({})), &tensors);
        let error = folder.open(ModelView::HuggingFace).err().unwrap();
        assert!(error.message.contains(what), "{what}: {error}");
    }
    // The same tensors are no layer of another version.
    for version in ["gemv", "gemv_fast"] {
        let folder = Folder::new(&config(&json!({"version": version})), &good);
        let error = folder.open(ModelView::HuggingFace).err().unwrap();
        assert!(error.message.contains("do not fit each other"), "{error}");
    }
}

#[test]
fn every_cut_of_a_folder_is_an_error() {
    let folder = Folder::new(&config(&json!({})), &layer());
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
        let converter = AwqConverter::new(Host::new(InlineHost));
        for view in [ModelView::Native, ModelView::HuggingFace] {
            assert!(converter.open(&files, view).is_err(), "{length}");
        }
    }
}

fn folders() -> [Folder; 3] {
    [
        Folder::new(&config(&json!({})), &layer()),
        other_version("gemv"),
        other_version("gemv_fast"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Bytes of the weights' file or of the configuration, changed at will: an error or numbers,
    /// never a panic.
    #[test]
    fn damaged_folders_are_read_or_refused(
        which in 0usize..3,
        in_config in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128), 1..4),
    ) {
        let [first, second, third] = folders();
        let mut folder = [first, second, third].into_iter().nth(which).unwrap();
        let mut config = folder.config.clone().into_bytes();
        for (place, byte) in changes {
            if in_config {
                let at = place.index(config.len());
                config[at] = byte;
            } else {
                // The header, mostly.
                let at = place.index(folder.weights.len().min(400));
                folder.weights[at] = byte;
            }
        }
        folder.config = String::from_utf8(config).unwrap();
        let files = folder.files();
        let converter = AwqConverter::new(Host::new(InlineHost));
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
