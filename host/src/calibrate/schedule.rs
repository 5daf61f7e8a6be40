//! In which waves a plan's statistics come.
//!
//! Where the original's outputs flow on, a wave is a block, and so it is where a plugin quantizes
//! whole blocks. Where it quantizes the layers of a stage, and their outputs flow on ("true
//! sequential", as in Frantar et al., GPTQ, 2023), a wave is a stage.

use llm_quantize_plugin_api::{Flow, Grain, Plan};

use crate::graph::{Graph, Site};

/// How a calibration run proceeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Block after block, once, with the original's weights.
    #[default]
    Original,
    /// Each block twice: with the original's weights, and then with the quantized ones.
    Blocks,
    /// Stage after stage, once, with quantized weights.
    Stages,
}

impl Schedule {
    /// What a plan asks for.
    pub fn of(plan: &Plan) -> Self {
        match &plan.calibration {
            Some(plan) if plan.flow == Flow::Quantized => match plan.grain {
                Grain::Block => Self::Blocks,
                Grain::Stage => Self::Stages,
            },
            _ => Self::Original,
        }
    }

    /// Whether quantized layers' outputs flow on.
    pub fn is_quantized(self) -> bool {
        self != Self::Original
    }

    /// The wave in which a site's statistics come.
    pub fn wave(self, site: Site, graph: &Graph) -> usize {
        let each = self.each(graph);
        match site {
            Site::Block { block, stage } => block * each + stage.min(each - 1),
            Site::Head => graph.blocks.len() * each,
        }
    }

    /// The block that a wave is in; after the last one for the head.
    pub fn block(self, wave: usize, graph: &Graph) -> usize {
        wave / self.each(graph)
    }

    /// Waves of a block.
    fn each(self, graph: &Graph) -> usize {
        let stages = graph.blocks.iter().map(|block| block.stages.len());
        match self {
            Self::Stages => stages.max().unwrap_or(0).max(1),
            Self::Original | Self::Blocks => 1,
        }
    }
}
