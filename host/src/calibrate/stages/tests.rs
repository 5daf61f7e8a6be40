use llm_quantize_plugin_api::{Inputs, ModelView};

use super::*;
use crate::source::SourceModel;

const LENGTH: usize = 16;
const TOKENS: usize = 3 * LENGTH;

/// The tiny model with three samples at its first block.
struct Bench {
    source: SourceModel,
    graph: Graph,
    threads: Threads,
}

impl Bench {
    fn new() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-llama");
        let source = SourceModel::open(folder, &[], ModelView::HuggingFace).unwrap();
        let graph = Graph::of(source.model()).unwrap();
        let threads = Threads::new(2).unwrap();
        Self {
            source,
            graph,
            threads,
        }
    }

    fn weights(&self) -> BlockWeights {
        BlockWeights::load(&self.graph, 0, &self.source, &self.threads).unwrap()
    }

    fn activations(&self, forward: &Forward<'_>) -> Activations {
        let tokens: Vec<u32> = (0..TOKENS as u32).map(|n| n * 37 % 2048).collect();
        let mut rows = vec![0.0; TOKENS * self.graph.hidden];
        forward.embed(&self.source, &tokens, &mut rows).unwrap();
        let mut activations = Activations::new(TOKENS, self.graph.hidden, None).unwrap();
        activations.write(0, &rows).unwrap();
        activations
    }

    /// The outputs of block 0 after a run by stages.
    fn by_stages(&self, batch_tokens: usize, visitor: &mut dyn Visitor) -> Vec<f32> {
        let forward = Forward::new(&self.graph, LENGTH, &self.threads);
        let mut activations = self.activations(&forward);
        let stages = Stages {
            graph: &self.graph,
            forward: &forward,
            length: LENGTH,
            batch_tokens,
            seed: 1,
            threads: &self.threads,
        };
        stages
            .run(0, &mut self.weights(), &mut activations, visitor)
            .unwrap();
        all(&activations, self.graph.hidden)
    }

    /// The outputs of block 0 with these weights, in one go; `look` sees what enters each
    /// stage.
    fn at_once(&self, weights: &BlockWeights, mut look: impl FnMut(usize, &[f32])) -> Vec<f32> {
        let forward = Forward::new(&self.graph, LENGTH, &self.threads);
        let mut batch = Batch::new(LENGTH);
        batch.residual = all(&self.activations(&forward), self.graph.hidden);
        forward.enter(weights, &mut batch);
        for stage in 0..self.graph.blocks[0].stages.len() {
            look(stage, &batch.input);
            forward.advance(weights, stage, &mut batch);
        }
        batch.residual
    }
}

fn all(activations: &Activations, cols: usize) -> Vec<f32> {
    let mut rows = vec![0.0; activations.rows() * cols];
    activations.read(0, &mut rows).unwrap();
    rows
}

/// Puts rounded weights in the place of the original ones, and notes what it saw.
#[derive(Default)]
struct Rounding {
    rounds: bool,
    seen: Vec<(Site, SiteStatistics)>,
}

impl Visitor for Rounding {
    fn wanted(&self, _: Site) -> Wanted {
        Wanted {
            gram: true,
            rows: 4,
        }
    }

    fn visit(
        &mut self,
        site: Site,
        statistics: SiteStatistics,
        weights: &mut BlockWeights,
    ) -> Result<()> {
        self.seen.push((site, statistics));
        let Site::Block { stage, .. } = site else {
            panic!("the head is no stage");
        };
        if self.rounds {
            round(weights, stage);
        }
        Ok(())
    }
}

const LINEARS: [usize; 4] = [3, 1, 2, 1];

fn round(weights: &mut BlockWeights, stage: usize) {
    for linear in 0..LINEARS[stage] {
        for weight in weights.weight_mut(stage, linear) {
            *weight = (*weight * 16.0).round() / 16.0;
        }
    }
}

#[test]
fn by_stages_it_is_the_same_as_at_once() {
    let bench = Bench::new();
    let expected = bench.at_once(&bench.weights(), |_, _| {});
    for batch_tokens in [LENGTH, 2 * LENGTH, TOKENS] {
        let mut visitor = Rounding::default();
        assert!(bench.by_stages(batch_tokens, &mut visitor) == expected);
        let sites: Vec<Site> = visitor.seen.iter().map(|(site, _)| *site).collect();
        let block = |stage| Site::Block { block: 0, stage };
        assert_eq!(sites, [block(0), block(1), block(2), block(3)]);
    }
}

#[test]
fn what_is_put_back_in_mid_block_is_what_the_next_stages_see() {
    let bench = Bench::new();
    let mut weights = bench.weights();
    (0..4).for_each(|stage| round(&mut weights, stage));
    // What enters each stage of the block with rounded weights, summed by hand.
    let mut sums: Vec<Vec<f64>> = Vec::new();
    let expected = bench.at_once(&weights, |_, input| {
        let channels = input.len() / TOKENS;
        let mut sum = vec![0.0; channels];
        for (index, x) in input.iter().enumerate() {
            sum[index % channels] += f64::from(*x) * f64::from(*x);
        }
        sums.push(sum);
    });
    let mut visitor = Rounding {
        rounds: true,
        ..Rounding::default()
    };
    assert!(bench.by_stages(LENGTH, &mut visitor) == expected);
    let original = bench.at_once(&bench.weights(), |_, _| {});
    assert!(expected != original);
    for ((_, statistics), sums) in visitor.seen.iter().zip(&sums) {
        assert_eq!(statistics.tokens, TOKENS as u64);
        assert_eq!(statistics.rows.as_ref().unwrap().len(), 4 * sums.len());
        let gram = statistics.gram.as_ref().unwrap();
        for (channel, sum) in sums.iter().enumerate() {
            let measured = f64::from(statistics.square_sum[channel]);
            assert!((measured - sum).abs() <= 1e-4 * sum, "{measured} {sum}");
            let diagonal = f64::from(gram[channel * sums.len() + channel]);
            assert!((diagonal - sum).abs() <= 1e-4 * sum, "{diagonal} {sum}");
        }
    }
}

#[test]
fn a_visitor_can_end_the_run() {
    struct Failing;
    impl Visitor for Failing {
        fn wanted(&self, _: Site) -> Wanted {
            Wanted::default()
        }
        fn visit(&mut self, _: Site, _: SiteStatistics, _: &mut BlockWeights) -> Result<()> {
            Err(crate::Error::other("enough"))
        }
    }
    let bench = Bench::new();
    let forward = Forward::new(&bench.graph, LENGTH, &bench.threads);
    let mut activations = bench.activations(&forward);
    let stages = Stages {
        graph: &bench.graph,
        forward: &forward,
        length: LENGTH,
        batch_tokens: LENGTH,
        seed: 1,
        threads: &bench.threads,
    };
    let mut weights = bench.weights();
    let error = stages.run(0, &mut weights, &mut activations, &mut Failing);
    assert_eq!(error.unwrap_err().message, "enough");
}
