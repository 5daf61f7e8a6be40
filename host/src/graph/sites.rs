//! The linear layers by the inputs that they read, as plugins are told about them.

use llm_quantize_plugin_api::{Fold, ModelDescription, Site};

use super::{Block, Graph, Linear, Norm, Stage, Then};

/// Name of the output head's site.
const HEAD: &str = "output head";

/// The sites of a model in the Hugging Face view, in the order in which the model runs them; none
/// if it cannot be run by this program.
///
/// An output head that is tied to the embeddings is left out: who changes it changes those.
#[must_use]
pub fn sites_of(model: &ModelDescription) -> Vec<Site> {
    Graph::of(model).map_or_else(|_| Vec::new(), |graph| sites(&graph))
}

fn sites(graph: &Graph) -> Vec<Site> {
    let blocks = graph.blocks.iter().enumerate();
    let mut sites: Vec<Site> = blocks
        .flat_map(|(number, block)| sites_of_block(graph, number, block))
        .collect();
    if graph.head.weight != graph.embedding {
        sites.push(Site {
            name: HEAD.into(),
            block: None,
            layers: vec![graph.head.weight],
            fold: fold_into(graph.final_norm),
        });
    }
    sites
}

fn sites_of_block<'a>(
    graph: &'a Graph,
    number: usize,
    block: &'a Block,
) -> impl Iterator<Item = Site> + 'a {
    let first = fold_into(block.norm);
    let after = block.stages.iter().map(|stage| fold_after(graph, stage));
    let folds = std::iter::once(first).chain(after);
    block
        .stages
        .iter()
        .zip(folds)
        .map(move |(stage, fold)| Site {
            name: stage.name.into(),
            block: u32::try_from(number).ok(),
            layers: stage.linears.iter().map(|linear| linear.weight).collect(),
            fold,
        })
}

/// What computes the input of the stage after this one.
fn fold_after(graph: &Graph, stage: &Stage) -> Fold {
    match (&stage.then, &stage.linears[..]) {
        // Queries and keys only decide how much of which value is gathered.
        (Then::Attention(_), [_, _, values]) => Fold::Values {
            weight: values.weight,
            bias: values.bias,
            head_dim: graph.head_dim,
            shared_by: graph.heads / graph.kv_heads,
        },
        (Then::Gate(_), [_, up]) => rows(up),
        (Then::AddAndNorm(norm), _) => fold_into(*norm),
        _ => Fold::Nowhere,
    }
}

/// Plugins know norms only that multiply with the weight itself.
fn fold_into(norm: Norm) -> Fold {
    match norm.plus_one {
        true => Fold::Nowhere,
        false => Fold::Norm {
            weight: norm.weight,
        },
    }
}

fn rows(linear: &Linear) -> Fold {
    Fold::Rows {
        weight: linear.weight,
        bias: linear.bias,
    }
}

#[cfg(test)]
mod tests;
