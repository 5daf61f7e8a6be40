//! What a plan asks of a calibration run, by block and stage.

use std::collections::{BTreeMap, BTreeSet};

use llm_quantize_plugin_api::{Plan, Unit};

use super::Wanted;
use super::schedule::Schedule;
use crate::error::{Error, ExitCode, Result};
use crate::graph::{Graph, Site};

/// What is wanted at each site.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wants {
    schedule: Schedule,
    sites: BTreeMap<Site, Wanted>,
}

impl Wants {
    /// What the units of a plan ask for.
    ///
    /// # Errors
    /// If there is no such layer, or a unit's statistics do not come together.
    pub fn of(plan: &Plan, graph: &Graph) -> Result<Self> {
        let mut wants = Self {
            schedule: Schedule::of(plan),
            ..Self::default()
        };
        for unit in &plan.units {
            wants.add(unit, graph)?;
        }
        Ok(wants)
    }

    fn add(&mut self, unit: &Unit, graph: &Graph) -> Result<()> {
        let refuse = |what: String| {
            let message = format!("\"{}\" asks for statistics of {what}", unit.label);
            Error::new(ExitCode::PluginFailed, message)
        };
        let mut waves = BTreeSet::new();
        for request in &unit.statistics {
            let name = &request.site;
            let lacking = || {
                refuse(format!(
                    "\"{name}\", which is no linear layer of this model"
                ))
            };
            let site = graph.site_of(name).ok_or_else(lacking)?;
            let wanted = self.sites.entry(site).or_default();
            *wanted = wanted.and(Wanted::by(&request.statistic));
            waves.insert(self.schedule.wave(site, graph));
        }
        match waves.len() {
            0 | 1 => Ok(()),
            _ => Err(refuse(
                "layers whose inputs are not known at the same time".into(),
            )),
        }
    }

    /// How the run must proceed.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// The stages of a block before which all samples stop.
    pub fn stops(&self, block: usize, graph: &Graph) -> Vec<usize> {
        if self.schedule != Schedule::Stages || block >= graph.blocks.len() {
            return Vec::new();
        }
        let stages = (0..graph.blocks[block].stages.len())
            .filter(|&stage| self.sites.contains_key(&Site::Block { block, stage }));
        stages.collect()
    }

    /// The sites of a wave with what is wanted there.
    pub fn of_wave(&self, wave: usize, graph: &Graph) -> BTreeMap<Site, Wanted> {
        let all = self.sites.iter();
        all.filter(|(site, _)| self.schedule.wave(**site, graph) == wave)
            .map(|(site, wanted)| (*site, *wanted))
            .collect()
    }

    /// Bytes that the most demanding wave takes.
    pub fn most_bytes(&self, graph: &Graph) -> u64 {
        let mut waves: BTreeMap<usize, u64> = BTreeMap::new();
        for (site, wanted) in &self.sites {
            let bytes = wanted.bytes(site.channels(graph));
            *waves.entry(self.schedule.wave(*site, graph)).or_default() += bytes;
        }
        waves.into_values().max().unwrap_or(0)
    }

    /// Adds to what is wanted at every site that anything is wanted at.
    pub fn everywhere(&mut self, wanted: Wanted) {
        for own in self.sites.values_mut() {
            *own = own.and(wanted);
        }
    }
}
