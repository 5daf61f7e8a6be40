use super::*;
use llm_quantize_plugin_api::testing::{TestModel, build};
use llm_quantize_plugin_api::{
    AffineGroups, ErrorKind, FileView, Inputs, ModelView, Quantizer, Reader, Route, Routing,
};

use crate::quantize::GgufQuantizer;
use llm_quantize_plugin_api::{Converter, Host, InlineHost};

/// A reader of the small model whose layers in blocks are groups of 64 weights, with zeros that a
/// function of their number gives.
struct Grouped4 {
    model: ModelDescription,
    zero: fn(usize) -> f32,
    permuted: bool,
}

impl Grouped4 {
    fn new(zero: fn(usize) -> f32) -> Self {
        let mut model = TestModel::tiny_llama().model().clone();
        model.format = "grouped".into();
        for tensor in &mut model.tensors {
            if tensor.name.contains("_proj") {
                tensor.dtype = "4bit".into();
            }
        }
        Self {
            model,
            zero,
            permuted: false,
        }
    }

    fn test_model(&self) -> TestModel {
        let files = TestModel::tiny_llama();
        let mut model = TestModel::of_reader(self, &[]).unwrap();
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            model.add_file(name, files.file(name).unwrap().unwrap().to_vec());
        }
        model.take_groups(self, &[]).unwrap();
        model
    }
}

impl Reader for Grouped4 {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, _: &[FileView<'_>], _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn decode(
        &self,
        _: &[FileView<'_>],
        _: usize,
        _: std::ops::Range<u64>,
        _: &mut [f32],
    ) -> Result<()> {
        Err(Error::internal("not asked for here"))
    }

    fn groups(
        &self,
        _: &[FileView<'_>],
        tensor: usize,
        rows: std::ops::Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        let cols = self.model.tensors[tensor].cols() as usize;
        let rows = rows.start as usize..rows.end as usize;
        let each = |per_row: usize| rows.start * per_row..rows.end * per_row;
        Ok(Some(AffineGroups {
            bits: 4,
            group_size: 64,
            codes: each(cols).map(|n| (n * 7 % 16) as u8).collect(),
            scales: each(cols / 64).map(|n| (n % 5 + 1) as f32 / 64.0).collect(),
            zeros: each(cols / 64).map(self.zero).collect(),
            permutation: self.permuted.then(|| vec![0; cols]),
        }))
    }
}

fn request(level: &str, exact: bool, options: &[(&str, &str)]) -> PlanRequest {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    PlanRequest {
        format: "gguf".into(),
        level: level.into(),
        routing: Routing::Repack { exact },
        options: options.iter().map(owned).collect(),
        ..PlanRequest::default()
    }
}

fn quantizer() -> GgufQuantizer {
    GgufQuantizer::new(Host::new(InlineHost))
}

/// Types and routes of the layers in blocks.
fn planned(reader: &Grouped4, request: &PlanRequest) -> Result<(String, Vec<(String, Route)>)> {
    let job = quantizer().plan(&reader.test_model(), request)?;
    let tensors = job.plan().tensors.iter();
    let routes = tensors.filter_map(|t| Some((t.dtype.clone(), t.route?)));
    Ok((job.plan().level.clone(), routes.collect()))
}

#[test]
fn the_smallest_type_is_taken() {
    let symmetric = Grouped4::new(|_| 8.0);
    let (level, routes) = planned(&symmetric, &request("", false, &[])).unwrap();
    assert_eq!((level.as_str(), routes.len()), ("Q4_0", 14));
    assert!(
        routes
            .iter()
            .all(|found| *found == ("Q4_0".into(), Route::Exact))
    );
    // Products of these scales and zeros are numbers of half precision.
    let zeros = Grouped4::new(|n| (n % 16) as f32);
    let (level, routes) = planned(&zeros, &request("", false, &[])).unwrap();
    assert_eq!((level.as_str(), routes[0].1), ("Q4_1", Route::Exact));
    let (level, routes) = planned(&symmetric, &request("q8_0", true, &[])).unwrap();
    assert_eq!((level.as_str(), routes[0].1), ("Q8_0", Route::Exact));
}

#[test]
fn what_cannot_be_held_is_refused() {
    let odd = Grouped4::new(|n| n as f32 % 16.0);
    let mut permuted = Grouped4::new(|_| 8.0);
    permuted.permuted = true;
    for (reader, request, what) in [
        (
            &odd,
            request("Q4_0", false, &[]),
            "14 of 14 quantized tensors",
        ),
        (
            &odd,
            request("Q4_K_M", false, &[]),
            "Q4_K_M does not hold groups",
        ),
        (
            &odd,
            request("", false, &[("pure", "true")]),
            "\"pure\" means nothing",
        ),
        (
            &permuted,
            request("", false, &[]),
            "order of their activations",
        ),
    ] {
        let error = planned(reader, &request).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.message.contains(what), "{error}");
    }
}

#[test]
fn plain_tensors_take_the_types_that_are_asked_for() {
    let reader = Grouped4::new(|_| 8.0);
    let wanted = [
        ("token-embedding-type", "q8_0"),
        ("output-tensor-type", "q6_k"),
    ];
    let request = request("", false, &wanted);
    let job = quantizer().plan(&reader.test_model(), &request).unwrap();
    let find = |name: &str| job.plan().tensors.iter().find(|t| t.name == name).unwrap();
    assert_eq!(find("token_embd.weight").dtype, "Q8_0");
    assert_eq!(find("output.weight").dtype, "Q6_K");
    assert_eq!(find("blk.0.attn_norm.weight").dtype, "F32");
}

#[test]
fn numbers_come_back_out_of_blocks() {
    for zero in [(|_| 8.0) as fn(usize) -> f32, |n| (n % 16) as f32] {
        let reader = Grouped4::new(zero);
        let model = reader.test_model();
        let job = quantizer().plan(&model, &request("", false, &[])).unwrap();
        let ty = job
            .plan()
            .tensors
            .iter()
            .find(|t| t.name.contains("attn_q"));
        let ty = BlockType::from_name(&ty.unwrap().dtype).unwrap();
        for name in ["self_attn.q_proj", "mlp.down_proj"] {
            let place = model
                .model()
                .tensor_index(&format!("model.layers.1.{name}.weight"));
            let place = place.unwrap();
            let (rows, cols) = (
                model.model().tensors[place].rows().unwrap(),
                model.model().tensors[place].cols() as usize,
            );
            let groups = reader.groups(&[], place, 0..rows).unwrap().unwrap();
            let views = groups.views(rows as usize).unwrap();
            let grouped = Grouped::of(&views).unwrap();
            let mut bytes = vec![0; ty.row_bytes(cols).unwrap()];
            let mut numbers = vec![0.0; cols];
            for row in 0..rows as usize {
                pack_row(&grouped, row, ty, &mut bytes).unwrap();
                crate::blocks::decode_row(ty, &bytes, &mut numbers).unwrap();
                for (column, number) in numbers.iter().enumerate() {
                    let (group, at) = (row * (cols / 64) + column / 64, row * cols + column);
                    let exact =
                        groups.scales[group] * (f32::from(groups.codes[at]) - groups.zeros[group]);
                    assert_eq!(*number, exact, "{name} {row} {column}");
                }
            }
        }
    }
}

#[test]
fn files_give_the_groups_back_that_they_were_made_of() {
    let reader = Grouped4::new(|_| 8.0);
    let model = TestModel::tiny_llama();
    let request = PlanRequest {
        format: "gguf".into(),
        level: "Q4_0".into(),
        options: vec![("pure".into(), "true".into())],
        ..PlanRequest::default()
    };
    let (_, files) = build(&quantizer(), &model, &request, 3, 0).unwrap();
    let views = llm_quantize_plugin_api::testing::views(&files);
    let converter = crate::read::GgufConverter::new(Host::new(InlineHost));
    let opened = converter.open(&views, ModelView::HuggingFace).unwrap();
    let name = "model.layers.1.self_attn.q_proj.weight";
    let place = opened.model().tensor_index(name).unwrap();
    let rows = opened.model().tensors[place].rows().unwrap();
    let groups = opened.groups(&views, place, 3..rows).unwrap().unwrap();
    let cols = reader.model.tensors[1].cols() as usize;
    groups.check(rows as usize - 3, cols).unwrap();
    let mut decoded = vec![0.0; (rows as usize - 3) * cols];
    opened.decode(&views, place, 3..rows, &mut decoded).unwrap();
    for (index, number) in decoded.iter().enumerate() {
        let group = index / 32;
        let exact = groups.scales[group] * (f32::from(groups.codes[index]) - groups.zeros[group]);
        assert_eq!(*number, exact);
    }
    let norm = opened.model().tensor_index("model.norm.weight").unwrap();
    assert_eq!(opened.groups(&views, norm, 0..1).unwrap(), None);
}
