//! Where a site stands in a run.

use crate::graph::{Graph, Linear, Site};

impl Site {
    /// Its first layer.
    fn linear(self, graph: &Graph) -> Option<&Linear> {
        match self {
            Self::Block { block, stage } => {
                graph.blocks.get(block)?.stages.get(stage)?.linears.first()
            }
            Self::Head => Some(&graph.head),
        }
    }

    /// Channels that its layers read.
    pub fn channels(self, graph: &Graph) -> usize {
        self.linear(graph).map_or(0, |linear| linear.inputs)
    }

    /// Name of its first layer's weight.
    pub fn weight(self, graph: &Graph) -> &str {
        self.linear(graph).map_or("", |linear| &linear.name)
    }
}
