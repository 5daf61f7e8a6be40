//! Safetensors files in memory, to make other models out of the built-in one.

use std::path::Path;

use serde_json::{Map, Value, json};

/// A tensor as it is stored.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dtype and shape, in the file's own words.
    info: Value,
    bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor of a type, a shape and its bytes.
    pub fn new(name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            info: json!({"dtype": dtype, "shape": shape}),
            bytes,
        }
    }

    /// The same under another name.
    #[must_use]
    pub fn renamed(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self.clone()
        }
    }

    /// Its outermost dimension.
    pub fn rows(&self) -> usize {
        let rows = self.info["shape"][0].as_u64().expect("a dimension");
        usize::try_from(rows).expect("a small dimension")
    }

    /// Its stored type.
    pub fn dtype(&self) -> &str {
        self.info["dtype"].as_str().expect("a type")
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        serde_json::from_value(self.info["shape"].clone()).expect("dimensions")
    }

    /// Its stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drops all columns of a matrix but the first ones.
    pub fn keep_columns(&mut self, columns: usize) {
        let [rows, before] = self.shape()[..] else {
            panic!("{} is no matrix", self.name)
        };
        let element = self.bytes.len() / (rows * before);
        let kept = self.bytes.chunks(before * element);
        self.bytes = kept
            .flat_map(|row| &row[..columns * element])
            .copied()
            .collect();
        self.info["shape"][1] = Value::from(columns);
    }

    /// Drops all rows but the first ones.
    pub fn keep_rows(&mut self, rows: usize) {
        let bytes = self.bytes.len() / self.rows() * rows;
        self.bytes.truncate(bytes);
        self.info["shape"][0] = Value::from(rows);
    }

    /// Gives it another type and shape; numbers are dropped, or added as zeros.
    pub fn reshape(&mut self, dtype: &str, shape: &[usize]) {
        let element = match dtype {
            "F16" | "BF16" => 2,
            "F32" | "I32" => 4,
            other => panic!("{other} is of no known size"),
        };
        self.bytes
            .resize(shape.iter().product::<usize>() * element, 0);
        self.info["dtype"] = Value::from(dtype);
        self.info["shape"] = Value::from(shape);
    }

    /// Replaces its first bytes.
    pub fn start_with(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
    }

    /// Replaces one number of a tensor in bfloat16, counted from its beginning.
    pub fn set_bf16(&mut self, index: usize, value: f32) {
        assert_eq!(self.info["dtype"], "BF16", "{}", self.name);
        let bytes = half::bf16::from_f32(value).to_le_bytes();
        self.bytes[2 * index..2 * index + 2].copy_from_slice(&bytes);
    }
}

/// All tensors of a file, in the header's order.
pub fn read_safetensors(path: &Path) -> Vec<Tensor> {
    let file = std::fs::read(path).expect("a file");
    let (length, rest) = file.split_first_chunk().expect("a length");
    let length = usize::try_from(u64::from_le_bytes(*length)).expect("a short header");
    let (header, data) = rest.split_at(length);
    let header: Map<String, Value> = serde_json::from_slice(header).expect("a header");
    let tensors = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__");
    tensors
        .map(|(name, info)| {
            let offsets: [usize; 2] =
                serde_json::from_value(info["data_offsets"].clone()).expect("offsets");
            Tensor {
                name,
                info,
                bytes: data[offsets[0]..offsets[1]].to_vec(),
            }
        })
        .collect()
}

/// Writes a file with these tensors.
pub fn write_safetensors(path: &Path, tensors: &[Tensor]) {
    let mut header = Map::new();
    let mut data: Vec<u8> = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let (dtype, shape) = (&tensor.info["dtype"], &tensor.info["shape"]);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::from(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let file = [&length, header.as_bytes(), &data].concat();
    std::fs::write(path, file).expect("space on the disk");
}
