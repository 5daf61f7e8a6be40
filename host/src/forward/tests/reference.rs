//! The forward pass as plainly as it can be written, in double precision.

use crate::forward::load_vector;
use crate::graph::{Activation, Attention, Block, Graph, Linear, Norm, Then};
use crate::source::SourceModel;

/// Rows of numbers.
type Rows = Vec<Vec<f64>>;

/// The final norm's output for each token of one sample.
pub(super) fn run(graph: &Graph, source: &SourceModel, tokens: &[u32]) -> Rows {
    let model = Model { graph, source };
    let table = model.vector(graph.embedding);
    let row = |token: &u32| {
        let from = *token as usize * graph.hidden;
        table[from..from + graph.hidden].to_vec()
    };
    let mut residual: Rows = tokens.iter().map(row).collect();
    for block in &graph.blocks {
        model.block(block, &mut residual);
    }
    let norm = graph.final_norm;
    model.norm(norm, &residual)
}

struct Model<'a> {
    graph: &'a Graph,
    source: &'a SourceModel,
}

impl Model<'_> {
    fn vector(&self, tensor: usize) -> Vec<f64> {
        let vector = load_vector(self.source, tensor).unwrap();
        vector.into_iter().map(f64::from).collect()
    }

    fn block(&self, block: &Block, residual: &mut Rows) {
        let mut input = self.norm(block.norm, residual);
        for stage in &block.stages {
            let outputs: Vec<Rows> = stage
                .linears
                .iter()
                .map(|linear| self.linear(linear, &input))
                .collect();
            match &stage.then {
                Then::Attention(attention) => {
                    input = self.attention(attention, &outputs[0], &outputs[1], &outputs[2]);
                }
                Then::Gate(activation) => input = gate(*activation, &outputs[0], &outputs[1]),
                Then::AddAndNorm(norm) => {
                    add(residual, &outputs[0]);
                    input = self.norm(*norm, residual);
                }
                Then::Add => add(residual, &outputs[0]),
            }
        }
    }

    fn linear(&self, linear: &Linear, input: &Rows) -> Rows {
        let weight = self.vector(linear.weight);
        let bias = linear.bias.map(|bias| self.vector(bias));
        let apply = |x: &Vec<f64>| {
            let outputs = weight.chunks(linear.inputs).enumerate();
            let output =
                |(o, row): (usize, &[f64])| dot(row, x) + bias.as_ref().map_or(0.0, |b| b[o]);
            outputs.map(output).collect()
        };
        input.iter().map(apply).collect()
    }

    fn norm(&self, norm: Norm, rows: &Rows) -> Rows {
        let weight = self.vector(norm.weight);
        rows.iter().map(|row| self.norm_row(row, &weight)).collect()
    }

    fn norm_row(&self, row: &[f64], weight: &[f64]) -> Vec<f64> {
        let mean = dot(row, row) / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(self.graph.norm_epsilon)).sqrt();
        row.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }

    fn head(&self, row: &[f64], position: usize, norm: Option<Norm>, rotary: bool) -> Vec<f64> {
        let mut head = match norm {
            Some(norm) => self.norm_row(row, &self.vector(norm.weight)),
            None => row.to_vec(),
        };
        let pairs = head.len() / 2;
        let magnitude = f64::from(self.graph.rotary.magnitude);
        for (i, frequency) in self.graph.rotary.frequencies.iter().enumerate() {
            if rotary {
                let (sin, cos) = (position as f64 * f64::from(*frequency)).sin_cos();
                let (a, b) = (head[i], head[i + pairs]);
                head[i] = (a * cos - b * sin) * magnitude;
                head[i + pairs] = (b * cos + a * sin) * magnitude;
            }
        }
        head
    }

    fn attention(&self, attention: &Attention, q: &Rows, k: &Rows, v: &Rows) -> Rows {
        let (dim, group) = (self.graph.head_dim, self.graph.heads / self.graph.kv_heads);
        let mut gathered = vec![Vec::new(); q.len()];
        for head in 0..self.graph.heads {
            let query_part = head * dim..(head + 1) * dim;
            let part = head / group * dim..(head / group + 1) * dim;
            let turned = |rows: &Rows, part: &std::ops::Range<usize>, norm| -> Rows {
                let rows = rows.iter().enumerate();
                rows.map(|(p, row)| self.head(&row[part.clone()], p, norm, attention.rotary))
                    .collect()
            };
            let queries = turned(q, &query_part, attention.q_norm);
            let keys = turned(k, &part, attention.k_norm);
            for (token, query) in queries.iter().enumerate() {
                let window = attention.window.unwrap_or(usize::MAX);
                let seen = (token + 1).saturating_sub(window)..token + 1;
                let score = |key: &Vec<f64>| (dot(query, key) / (dim as f64).sqrt()).exp();
                let powers: Vec<f64> = keys[seen.clone()].iter().map(score).collect();
                let sum: f64 = powers.iter().sum();
                for i in part.clone() {
                    let values = powers.iter().zip(&v[seen.clone()]);
                    gathered[token].push(values.map(|(p, v)| p * v[i]).sum::<f64>() / sum);
                }
            }
        }
        gathered
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(residual: &mut Rows, output: &Rows) {
    for (residual, output) in residual.iter_mut().flatten().zip(output.iter().flatten()) {
        *residual += output;
    }
}

fn gate(activation: Activation, gate: &Rows, up: &Rows) -> Rows {
    let one = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
    };
    let rows = gate.iter().zip(up);
    rows.map(|(gate, up)| gate.iter().zip(up).map(|(g, u)| one(*g) * u).collect())
        .collect()
}

/// By its series, for small numbers.
fn erf(z: f64) -> f64 {
    let (mut term, mut sum) = (z, z);
    for n in 1..100 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}
