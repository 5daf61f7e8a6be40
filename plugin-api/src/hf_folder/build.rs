//! Plans the files of a folder.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::header::{bits_of, first_duplicate, write_header};
use super::read::is_side_file;
use super::{CONFIG, INDEX, SINGLE};
use crate::interface::{
    Container, Error, FileContent, Inputs, Literal, OptionInfo, OptionType, OutputFile, Plan,
    PlanRequest, Result, Span, TensorInfo, parse_size,
};

/// As large as the shards that others write.
pub const DEFAULT_SHARD_SIZE: u64 = 5 << 30;
const SHARD_SIZE: &str = "max-shard-size";

/// The option by which users limit the size of the weight files.
pub fn shard_size_option() -> OptionInfo {
    OptionInfo {
        key: SHARD_SIZE.into(),
        value_type: OptionType::Size,
        default: "5G".into(),
        help: "split the weights into files of at most this size".into(),
        repeatable: false,
    }
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Full name.
    pub name: String,
    /// Type by its safetensors name, e.g. `I32`.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
}

impl NewTensor {
    /// A tensor; its bytes follow from the rest.
    pub fn new(name: impl Into<String>, dtype: &str, shape: &[u64]) -> Self {
        Self {
            name: name.into(),
            dtype: dtype.into(),
            shape: shape.to_vec(),
        }
    }

    /// Bytes that it takes.
    ///
    /// # Errors
    /// If there is no such type, or they cannot be counted.
    pub fn bytes(&self) -> Result<u64> {
        self.sized().map(|info| info.bytes)
    }

    fn sized(&self) -> Result<TensorInfo> {
        let mut info = TensorInfo {
            name: self.name.clone(),
            dtype: self.dtype.clone(),
            shape: self.shape.clone(),
            bytes: 0,
        };
        let bits = bits_of(&self.dtype).and_then(|bits| info.elements()?.checked_mul(bits));
        info.bytes = bits.map(|bits| bits.div_ceil(8)).ok_or_else(|| {
            Error::unsupported(format!(
                "the tensor \"{}\" of type {} and shape {:?} cannot be stored",
                self.name, self.dtype, self.shape
            ))
        })?;
        Ok(info)
    }
}

/// A plan that grows, with the bytes of its literals.
///
/// Files come in the order in which they are added; the weights first, as a plan's first file is
/// the output's main one.
#[derive(Debug, Default)]
pub struct FolderBuilder {
    plan: Plan,
    blobs: Vec<Vec<u8>>,
}

impl FolderBuilder {
    /// An empty folder of this name, for a level.
    pub fn new(level: &str, folder: String) -> Self {
        Self {
            plan: Plan {
                level: level.into(),
                container: Container::Folder(folder),
                ..Plan::default()
            },
            blobs: Vec::new(),
        }
    }

    /// Adds the files that hold these tensors, in their order: one, or as many as a request
    /// ([`shard_size_option`]) makes necessary, and then an index. Returns where the bytes of
    /// each tensor belong.
    ///
    /// # Errors
    /// If two tensors share a name, a type is unknown, or a size overflows.
    pub fn weights(&mut self, tensors: &[NewTensor], request: &PlanRequest) -> Result<Vec<Span>> {
        let limit = request.option(SHARD_SIZE).and_then(parse_size);
        let sized = tensors.iter().map(NewTensor::sized);
        let sized = sized.collect::<Result<Vec<TensorInfo>>>()?;
        if let Some(name) = first_duplicate(tensors.iter().map(|tensor| &*tensor.name)) {
            return Err(Error::corrupt(format!("two tensors are named \"{name}\"")));
        }
        let shards = divide(&sized, limit.unwrap_or(DEFAULT_SHARD_SIZE));
        let mut spans = Vec::with_capacity(tensors.len());
        let mut weight_map = Map::new();
        let mut total = 0u64;
        for (number, shard) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => SINGLE.to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let tensors = &sized[shard.clone()];
            for tensor in tensors {
                weight_map.insert(tensor.name.clone(), json!(name));
                total = total.saturating_add(tensor.bytes);
            }
            spans.extend(self.shard(name, tensors)?);
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            self.json_file(INDEX, &index)?;
        }
        Ok(spans)
    }

    /// Adds one file of weights; returns the tensors' places.
    fn shard(&mut self, name: String, tensors: &[TensorInfo]) -> Result<Vec<Span>> {
        let order = aligned_order(tensors);
        let header = write_header(order.iter().map(|&index| &tensors[index]))?;
        let file = self.plan.files.len();
        let mut end = header.len() as u64;
        let mut spans = vec![None; tensors.len()];
        for index in order {
            let len = tensors[index].bytes;
            spans[index] = Some(Span {
                file,
                offset: end,
                len,
            });
            end = end
                .checked_add(len)
                .ok_or_else(|| Error::unsupported("the model is too large"))?;
        }
        self.built_file(&name, end);
        self.literal(file, 0, header);
        Ok(spans.into_iter().flatten().collect())
    }

    /// Adds a file of JSON.
    ///
    /// # Errors
    /// If the value cannot be written, which no value out of a document is.
    pub fn json_file(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = serde_json::to_string_pretty(value);
        let text = text.map_err(|error| Error::internal(error.to_string()))?;
        let bytes = (text + "\n").into_bytes();
        let file = self.plan.files.len();
        self.built_file(name, bytes.len() as u64);
        self.literal(file, 0, bytes);
        Ok(())
    }

    /// Adds copies of the source's files (tokenizer, templates, generation defaults), but for
    /// those that the plan has already, that speak of the source's weights, or that lie in
    /// folders of their own, which an output cannot have.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn copies(&mut self, inputs: &dyn Inputs) -> Result<()> {
        for name in &inputs.model().files {
            let planned = self.plan.files.iter().any(|file| file.name == *name);
            if planned || name == CONFIG || !is_side_file(name) {
                continue;
            }
            if let Some(bytes) = inputs.file(name)? {
                self.plan.files.push(OutputFile {
                    name: name.clone(),
                    size: bytes.len() as u64,
                    content: FileContent::CopyOf(name.clone()),
                });
            }
        }
        Ok(())
    }

    /// Adds bytes for a range of a file that no unit writes.
    pub fn literal(&mut self, file: usize, offset: u64, bytes: Vec<u8>) {
        let blob = self.blob(bytes);
        let len = self.blobs[blob].len() as u64;
        self.plan.literals.push(Literal {
            file,
            offset,
            len,
            blob,
        });
    }

    /// The number of a blob with these bytes; equal ones are kept once.
    fn blob(&mut self, bytes: Vec<u8>) -> usize {
        let known = self.blobs.iter().position(|blob| *blob == bytes);
        known.unwrap_or_else(|| {
            self.blobs.push(bytes);
            self.blobs.len() - 1
        })
    }

    fn built_file(&mut self, name: &str, size: u64) {
        self.plan.files.push(OutputFile {
            name: name.into(),
            size,
            content: FileContent::Built,
        });
    }

    /// The plan so far: for units, tensors, warnings, and the calibration.
    pub fn plan_mut(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// The plan and the bytes of its literals, by their number.
    pub fn finish(self) -> (Plan, Vec<Vec<u8>>) {
        (self.plan, self.blobs)
    }
}

/// Tensors of each file: filled in order up to the limit, at least one each.
fn divide(tensors: &[TensorInfo], limit: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut filled) = (0, 0u64);
    for (index, tensor) in tensors.iter().enumerate() {
        if filled > 0 && filled.saturating_add(tensor.bytes) > limit {
            shards.push(start..index);
            (start, filled) = (index, 0);
        }
        filled = filled.saturating_add(tensor.bytes);
    }
    shards.push(start..tensors.len());
    shards
}

/// The order of a file's tensors: their own, unless one of them would not be aligned; then those
/// with larger elements come first, which aligns all.
fn aligned_order(tensors: &[TensorInfo]) -> Vec<usize> {
    let element = |index: usize| bits_of(&tensors[index].dtype).unwrap_or(8).div_ceil(8);
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    let mut at = 0u64;
    let aligned = order.iter().all(|&index| {
        let here = at.is_multiple_of(element(index));
        at = at.saturating_add(tensors[index].bytes);
        here
    });
    if !aligned {
        order.sort_by_key(|&index| std::cmp::Reverse(element(index)));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf_folder::parse_header;
    use crate::testing::TestModel;

    fn request(limit: &str) -> PlanRequest {
        PlanRequest {
            options: vec![(SHARD_SIZE.into(), limit.into())],
            ..PlanRequest::default()
        }
    }

    /// The files as far as literals make them; the rest is zero.
    fn literal_files(builder: FolderBuilder) -> Vec<(String, Vec<u8>)> {
        let (plan, blobs) = builder.finish();
        let mut files: Vec<(String, Vec<u8>)> = plan
            .files
            .iter()
            .map(|file| (file.name.clone(), vec![0; file.size as usize]))
            .collect();
        for literal in &plan.literals {
            let start = literal.offset as usize;
            files[literal.file].1[start..start + literal.len as usize]
                .copy_from_slice(&blobs[literal.blob]);
        }
        files
    }

    #[test]
    fn one_file_has_the_tensors_where_the_spans_say() {
        let tensors = [
            NewTensor::new("a", "I32", &[3]),
            NewTensor::new("b", "F16", &[2, 2]),
        ];
        let mut builder = FolderBuilder::new("4bit", "out".into());
        let spans = builder.weights(&tensors, &PlanRequest::default()).unwrap();
        let files = literal_files(builder);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].0, SINGLE);
        let found = parse_header(&files[0].1).unwrap();
        for ((info, range), (span, tensor)) in found.iter().zip(spans.iter().zip(&tensors)) {
            assert_eq!(info.name, tensor.name);
            assert_eq!(*range, span.offset..span.offset + span.len);
        }
    }

    #[test]
    fn shards_are_filled_in_order_and_indexed() {
        let tensors: Vec<NewTensor> = [4, 4, 100, 1]
            .iter()
            .enumerate()
            .map(|(number, rows)| NewTensor::new(format!("t{number}"), "F32", &[*rows]))
            .collect();
        let mut builder = FolderBuilder::new("4bit", "out".into());
        let spans = builder.weights(&tensors, &request("32")).unwrap();
        let places: Vec<usize> = spans.iter().map(|span| span.file).collect();
        assert_eq!(places, [0, 0, 1, 2]);
        let files = literal_files(builder);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[1], "model-00002-of-00003.safetensors");
        assert_eq!(names[3], INDEX);
        let index: Value = serde_json::from_slice(&files[3].1).unwrap();
        assert_eq!(index["weight_map"]["t3"], names[2]);
        assert_eq!(index["metadata"]["total_size"], 4 * 109);
        for (_, bytes) in &files[..3] {
            parse_header(bytes).unwrap();
        }
    }

    #[test]
    fn tensors_that_would_not_be_aligned_are_sorted() {
        let tensors = [
            NewTensor::new("odd", "F16", &[1]),
            NewTensor::new("word", "I32", &[1]),
        ];
        let mut builder = FolderBuilder::new("4bit", "out".into());
        let spans = builder.weights(&tensors, &PlanRequest::default()).unwrap();
        assert_eq!(spans[0].offset, spans[1].offset + 4);
        let found = parse_header(&literal_files(builder)[0].1).unwrap();
        assert_eq!(found[0].0.name, "word");
    }

    #[test]
    fn impossible_tensors_are_refused() {
        for tensors in [
            vec![NewTensor::new("a", "F32", &[u64::MAX, 2])],
            vec![NewTensor::new("a", "F99", &[1])],
            vec![NewTensor::new("a", "F32", &[1]); 2],
            vec![
                NewTensor::new("a", "U8", &[u64::MAX / 2]),
                NewTensor::new("b", "U8", &[u64::MAX / 2 + 9]),
            ],
        ] {
            let mut builder = FolderBuilder::default();
            let planned = builder.weights(&tensors, &PlanRequest::default());
            assert!(planned.is_err(), "{tensors:?}");
        }
    }

    #[test]
    fn only_what_belongs_to_any_weights_is_copied() {
        let mut model = TestModel::tiny_llama();
        for name in [
            "chat_template.jinja",
            "quantize_config.json",
            "templates/tool.jinja",
            INDEX,
            "x.safetensors",
        ] {
            model.add_file(name, b"x".to_vec());
        }
        let mut builder = FolderBuilder::default();
        builder.copies(&model).unwrap();
        let (plan, _) = builder.finish();
        let names: Vec<&str> = plan.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "chat_template.jinja",
                "tokenizer.json",
                "tokenizer_config.json"
            ]
        );
        assert_eq!(plan.files[0].size, 1);
    }

    #[test]
    fn equal_literals_share_their_bytes() {
        let mut builder = FolderBuilder::default();
        builder.literal(0, 0, vec![1, 2]);
        builder.literal(0, 2, vec![1, 2]);
        builder.literal(0, 4, vec![3]);
        let (plan, blobs) = builder.finish();
        let numbers: Vec<usize> = plan.literals.iter().map(|literal| literal.blob).collect();
        assert_eq!((numbers, blobs.len()), (vec![0, 0, 1], 2));
    }
}
