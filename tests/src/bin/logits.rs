//! Runs a model's folder on token ids from stdin and writes its logits to stdout: tokens ×
//! vocabulary, single precision, little endian. For checks against other programs.

use std::error::Error;
use std::io::{Read, Write};
use std::process::ExitCode;

use llm_quantize::forward::{Batch, BlockWeights, Forward, load_norm, load_vector};
use llm_quantize::graph::Graph;
use llm_quantize::job::Threads;
use llm_quantize::source::SourceModel;
use llm_quantize_plugin_api::kernels::product::{Before, linear};
use llm_quantize_plugin_api::{Inputs, ModelView};
use ndarray::{Array2, ArrayView2};

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: logits FOLDER < TOKEN_IDS");
        return ExitCode::FAILURE;
    };
    match run(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &str) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let tokens: Vec<u32> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let source = SourceModel::open(folder, &[], ModelView::HuggingFace)?;
    let logits = logits(&source, &tokens)?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::io::stdout().lock().write_all(&bytes)?;
    Ok(())
}

fn logits(source: &SourceModel, tokens: &[u32]) -> Result<Array2<f32>, Box<dyn Error>> {
    let graph = Graph::of(source.model())?;
    let threads = Threads::new(2)?;
    let forward = Forward::new(&graph, tokens.len(), &threads);
    let mut batch = Batch::new(tokens.len());
    batch.residual = vec![0.0; tokens.len() * graph.hidden];
    forward.embed(source, tokens, &mut batch.residual)?;
    for block in 0..graph.blocks.len() {
        let weights = BlockWeights::load(&graph, block, source, &threads)?;
        forward.enter(&weights, &mut batch);
        for stage in 0..graph.blocks[block].stages.len() {
            forward.advance(&weights, stage, &mut batch);
        }
    }
    forward.finish(&load_norm(source, graph.final_norm)?, &mut batch.residual);
    let head = load_vector(source, graph.head.weight)?;
    let mut logits = Array2::zeros((tokens.len(), graph.vocabulary));
    linear(
        &threads,
        ArrayView2::from_shape((tokens.len(), graph.hidden), &batch.residual)?,
        ArrayView2::from_shape((graph.vocabulary, graph.hidden), &head)?,
        None,
        Before::Forget,
        logits.view_mut(),
    );
    Ok(logits)
}
