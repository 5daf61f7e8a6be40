//! What a plan asks of a calibration run, by block and stage.

use std::collections::BTreeMap;

use llm_quantize_plugin_api::{Flow, Plan};

use super::Wanted;
use crate::error::{Error, ExitCode, Result};
use crate::graph::{Graph, Site};

/// What is wanted at each site.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wants(BTreeMap<Site, Wanted>);

impl Wants {
    /// What the units of a plan ask for.
    ///
    /// # Errors
    /// If there is no such layer, or the plan wants to see the outputs of quantized layers.
    pub fn of(plan: &Plan, graph: &Graph) -> Result<Self> {
        let flow = plan
            .calibration
            .as_ref()
            .map(|calibration| calibration.flow);
        if flow == Some(Flow::Quantized) {
            return Err(Error::unsupported(
                "this version calibrates with the outputs of the original layers only",
            ));
        }
        let mut wants = Self::default();
        for unit in &plan.units {
            for request in &unit.statistics {
                let site = graph.site_of(&request.site).ok_or_else(|| {
                    Error::new(
                        ExitCode::PluginFailed,
                        format!(
                            "\"{}\" asks for statistics of \"{}\", which is no linear layer of \
                             this model",
                            unit.label, request.site
                        ),
                    )
                })?;
                let wanted = wants.0.entry(site).or_default();
                *wanted = wanted.and(Wanted::by(&request.statistic));
            }
        }
        Ok(wants)
    }

    /// The sites of a wave with what is wanted there.
    pub fn of_wave(&self, wave: usize, graph: &Graph) -> BTreeMap<Site, Wanted> {
        let all = self.0.iter();
        all.filter(|(site, _)| site.wave(graph) == wave)
            .map(|(site, wanted)| (*site, *wanted))
            .collect()
    }

    /// Bytes that the most demanding wave takes.
    pub fn most_bytes(&self, graph: &Graph) -> u64 {
        let mut waves: BTreeMap<usize, u64> = BTreeMap::new();
        for (site, wanted) in &self.0 {
            let bytes = wanted.bytes(site.channels(graph));
            *waves.entry(site.wave(graph)).or_default() += bytes;
        }
        waves.into_values().max().unwrap_or(0)
    }

    /// Adds to what is wanted at every site that anything is wanted at.
    pub fn everywhere(&mut self, wanted: Wanted) {
        for own in self.0.values_mut() {
            *own = own.and(wanted);
        }
    }
}
