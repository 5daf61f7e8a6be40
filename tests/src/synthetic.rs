//! A Llama of any depth, to measure speed and memory with.
//!
//! The weights are deterministic noise in the shape of real ones: heavy tails, columns of
//! unequal size, a spread of about one over the root of the inputs. The model says nothing
//! sensible, but quantizers take the same paths as on a real one.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

use super::{copy_folder, edit_json, tiny_llama};

/// Sizes of a model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Width of the model.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Attention heads; `hidden` is a multiple.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Tokens; at least the 2048 of the built-in model.
    pub vocabulary: usize,
    /// Layers.
    pub layers: usize,
    /// Bytes of a shard, more or less.
    pub shard: usize,
}

impl Shape {
    /// TinyLlama's sizes with a vocabulary of 49152: 1.07 billion parameters at 22 layers.
    pub fn of_layers(layers: usize) -> Self {
        Self {
            hidden: 2048,
            feed_forward: 5632,
            heads: 32,
            kv_heads: 4,
            vocabulary: 49152,
            layers,
            shard: 500_000_000,
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(Tensor::len).sum()
    }

    /// All tensors, in the order of the files; the output head is the embedding.
    fn tensors(&self) -> Vec<Tensor> {
        let (hidden, wide) = (self.hidden, self.feed_forward);
        let kv = hidden / self.heads * self.kv_heads;
        let matrix = |name: String, rows, cols| Tensor {
            name,
            rows: Some(rows),
            cols,
        };
        let norm = |name: String| Tensor {
            name,
            rows: None,
            cols: hidden,
        };
        let mut all = vec![matrix(
            "model.embed_tokens.weight".into(),
            self.vocabulary,
            hidden,
        )];
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            all.extend([
                norm(name("input_layernorm")),
                matrix(name("self_attn.q_proj"), hidden, hidden),
                matrix(name("self_attn.k_proj"), kv, hidden),
                matrix(name("self_attn.v_proj"), kv, hidden),
                matrix(name("self_attn.o_proj"), hidden, hidden),
                norm(name("post_attention_layernorm")),
                matrix(name("mlp.gate_proj"), wide, hidden),
                matrix(name("mlp.up_proj"), wide, hidden),
                matrix(name("mlp.down_proj"), hidden, wide),
            ]);
        }
        all.push(norm("model.norm.weight".into()));
        all
    }
}

/// A tensor to be made.
struct Tensor {
    name: String,
    /// `None` for a vector.
    rows: Option<usize>,
    cols: usize,
}

impl Tensor {
    fn len(&self) -> usize {
        self.rows.unwrap_or(1) * self.cols
    }

    fn shape(&self) -> Vec<usize> {
        self.rows.into_iter().chain([self.cols]).collect()
    }

    /// Writes the weights as bfloat16, a row at a time.
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut noise = Noise::named(&self.name);
        let mut row = vec![0; 2 * self.cols];
        let Some(rows) = self.rows else {
            fill(&mut row, |_| (0.2 * noise.normal()).exp());
            return out.write_all(&row);
        };
        let spread = (self.cols as f32).sqrt().recip();
        let columns: Vec<f32> = (0..self.cols)
            .map(|_| (0.3 * noise.normal()).exp() * spread)
            .collect();
        for _ in 0..rows {
            fill(&mut row, |column| {
                let number = noise.normal();
                // The cubic term makes the tails heavy.
                number * (1.0 + 0.05 * number * number) * columns[column]
            });
            out.write_all(&row)?;
        }
        Ok(())
    }
}

fn fill(row: &mut [u8], mut number: impl FnMut(usize) -> f32) {
    for (column, bytes) in row.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *bytes = bf16::from_f32(number(column)).to_le_bytes();
    }
}

/// Pseudorandom numbers (xorshift64*), the same for the same name.
struct Noise(u64);

impl Noise {
    fn named(name: &str) -> Self {
        // FNV-1a; never zero, where the generator would stay.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash | 1)
    }

    /// Nearly normal, with mean 0 and spread 1: the sum of four uniform numbers.
    fn normal(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let sum: u64 = (0..4).map(|lane| bits >> (16 * lane) & 0xffff).sum();
        // Four uniform numbers below 1 have the mean 2 and the variance 4/12.
        (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
    }
}

/// Writes the model as a Hugging Face folder with sharded bfloat16 safetensors.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_llama(folder: &Path, shape: &Shape) -> std::io::Result<()> {
    copy_folder(&tiny_llama(), folder);
    std::fs::remove_file(folder.join("model.safetensors"))?;
    edit_json(&folder.join("config.json"), |config| {
        for (key, value) in [
            ("hidden_size", shape.hidden),
            ("intermediate_size", shape.feed_forward),
            ("num_attention_heads", shape.heads),
            ("num_key_value_heads", shape.kv_heads),
            ("head_dim", shape.hidden / shape.heads),
            ("num_hidden_layers", shape.layers),
            ("vocab_size", shape.vocabulary),
        ] {
            config[key] = value.into();
        }
        config["tie_word_embeddings"] = true.into();
    });
    edit_json(&folder.join("tokenizer.json"), |tokenizer| {
        grow_vocabulary(&mut tokenizer["model"], shape.vocabulary);
    });
    let shards = split(shape.tensors(), shape.shard);
    let mut map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let (number, all) = (index + 1, shards.len());
        let name = format!("model-{number:05}-of-{all:05}.safetensors");
        write_shard(&folder.join(&name), shard)?;
        let places = shard.iter().map(|t| (t.name.clone(), json!(name)));
        map.extend(places);
    }
    let index = json!({"metadata": {"total_size": 2 * shape.parameters()}, "weight_map": map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
}

/// Adds merges of two single characters until there are so many tokens.
fn grow_vocabulary(model: &mut Value, tokens: usize) {
    let mut vocabulary = model["vocab"].as_object().expect("a vocabulary").clone();
    let mut merges = model["merges"].as_array().expect("merges").clone();
    let characters: Vec<String> = vocabulary
        .keys()
        .filter(|token| token.chars().count() == 1)
        .cloned()
        .collect();
    let pairs = characters
        .iter()
        .flat_map(|a| characters.iter().map(move |b| (a, b)));
    for (a, b) in pairs {
        let next = vocabulary.len();
        if next >= tokens {
            break;
        }
        let token = format!("{a}{b}");
        if !vocabulary.contains_key(&token) {
            vocabulary.insert(token, next.into());
            merges.push(json!([a, b]));
        }
    }
    model["vocab"] = vocabulary.into();
    model["merges"] = merges.into();
}

fn split(tensors: Vec<Tensor>, most: usize) -> Vec<Vec<Tensor>> {
    let (mut shards, mut used) = (vec![Vec::new()], 0);
    for tensor in tensors {
        let size = 2 * tensor.len();
        if used > 0 && used + size > most {
            shards.push(Vec::new());
            used = 0;
        }
        used += size;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

fn write_shard(path: &Path, tensors: &[Tensor]) -> std::io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    for tensor in tensors {
        let start = end;
        end += 2 * tensor.len();
        let info = json!({"dtype": "BF16", "shape": tensor.shape(), "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), info);
    }
    let mut header = Value::from(header).to_string();
    // The numbers begin at a multiple of 8, as in other files.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    tensors
        .iter()
        .try_for_each(|tensor| tensor.write(&mut out))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors::read_safetensors;

    #[test]
    fn the_documented_model_has_a_billion_parameters() {
        let millions = Shape::of_layers(22).parameters() / 1_000_000;
        assert_eq!(millions, 1069);
    }

    #[test]
    fn noise_has_mean_zero_and_spread_one() {
        let mut noise = Noise::named("model.norm.weight");
        let numbers: Vec<f64> = (0..100_000).map(|_| noise.normal().into()).collect();
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let square = numbers.iter().map(|x| x * x).sum::<f64>() / numbers.len() as f64;
        assert!(
            mean.abs() < 0.02 && (square - 1.0).abs() < 0.02,
            "{mean} {square}"
        );
    }

    #[test]
    fn shards_and_index_agree() {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape {
            hidden: 256,
            feed_forward: 512,
            heads: 4,
            kv_heads: 2,
            vocabulary: 3000,
            layers: 2,
            shard: 1_000_000,
        };
        write_llama(folder.path(), &shape).unwrap();
        let json = |name: &str| -> Value {
            let bytes = std::fs::read(folder.path().join(name)).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        let index = json("model.safetensors.index.json");
        let map = index["weight_map"].as_object().unwrap();
        assert_eq!(map.len(), 20);
        for (name, file) in map {
            let file = folder.path().join(file.as_str().unwrap());
            assert!(read_safetensors(&file).iter().any(|t| t.name == *name));
        }
        let tokenizer = json("tokenizer.json");
        assert_eq!(tokenizer["model"]["vocab"].as_object().unwrap().len(), 3000);
    }
}
