//! Plans in which the outputs of quantized layers flow on.

use std::collections::HashMap;

use super::{Error, Flow, Grain, ModelDescription, Plan, Result, Unit};

/// A layer whose quantized outputs flow on: [`super::Job::decode`] is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowingLayer {
    /// Its weight's place in [`ModelDescription::tensors`].
    pub tensor: usize,
    /// The unit that encodes it.
    pub unit: usize,
    /// Its place among the unit's inputs.
    pub input: usize,
}

impl Plan {
    /// The layers whose quantized outputs flow on: in such a plan, the matrices of all units that
    /// ask for statistics.
    pub fn flowing_layers(&self, model: &ModelDescription) -> Vec<FlowingLayer> {
        let mut layers = Vec::new();
        if !self.flows_on_quantized() {
            return layers;
        }
        for (number, unit) in self.units.iter().enumerate() {
            if unit.statistics.is_empty() {
                continue;
            }
            for (input, read) in unit.inputs.iter().enumerate() {
                if dimensions(model, read.tensor) > 1 {
                    layers.push(FlowingLayer {
                        tensor: read.tensor,
                        unit: number,
                        input,
                    });
                }
            }
        }
        layers
    }

    fn flows_on_quantized(&self) -> bool {
        let calibration = self.calibration.as_ref();
        calibration.is_some_and(|plan| plan.flow == Flow::Quantized)
    }
}

impl Unit {
    /// The tensors of one dimension that it reads (norms): what [`super::DecodeCall::vectors`]
    /// has, in that order.
    pub fn vectors(&self, model: &ModelDescription) -> Vec<usize> {
        let numbers = self.inputs.iter().filter(|input| !input.raw);
        let tensors = numbers.map(|input| input.tensor);
        tensors
            .filter(|tensor| dimensions(model, *tensor) == 1)
            .collect()
    }
}

fn dimensions(model: &ModelDescription, tensor: usize) -> usize {
    let tensor = model.tensors.get(tensor);
    tensor.map_or(0, |tensor| tensor.shape.len())
}

/// Checks that every layer is quantized before any token passes it, and by one unit only.
///
/// # Errors
/// The first unit for which that does not hold.
pub(super) fn check(plan: &Plan, model: &ModelDescription) -> Result<()> {
    let Some(calibration) = plan.calibration.as_ref() else {
        return Ok(());
    };
    if !plan.flows_on_quantized() {
        return Ok(());
    }
    let fail = |unit: &Unit, what: String| {
        let message = format!("unit \"{}\": {what}", unit.label);
        Err(Error::internal(message))
    };
    let steps = Steps::new(calibration.grain, model);
    let mut step_of = HashMap::new();
    for (number, unit) in plan.units.iter().enumerate() {
        if unit.statistics.is_empty() {
            continue;
        }
        match steps.of_unit(unit) {
            Ok(step) => drop(step_of.insert(number, step)),
            Err(what) => return fail(unit, what),
        }
        if unit.inputs.iter().any(|input| input.raw) {
            return fail(
                unit,
                "reads stored bytes, of which nothing can flow on".into(),
            );
        }
    }
    let mut owners: HashMap<usize, &Unit> = HashMap::new();
    for layer in plan.flowing_layers(model) {
        let (unit, name) = (&plan.units[layer.unit], &model.tensors[layer.tensor].name);
        if let Some(other) = owners.insert(layer.tensor, unit) {
            let what = format!("replaces \"{name}\", as unit \"{}\" does", other.label);
            return fail(unit, what);
        }
        let steps = steps.of_tensor(layer.tensor).zip(step_of.get(&layer.unit));
        if steps.is_some_and(|(passed, known)| passed < *known) {
            let what = "which tokens pass before they reach its statistics";
            return fail(unit, format!("replaces \"{name}\", {what}"));
        }
    }
    Ok(())
}

/// When the layers are reached.
struct Steps<'a> {
    /// The step of each layer, by its weight's place.
    layers: HashMap<usize, usize>,
    model: &'a ModelDescription,
}

impl<'a> Steps<'a> {
    fn new(grain: Grain, model: &'a ModelDescription) -> Self {
        let sites = model.sites.iter().enumerate();
        let layers = sites.flat_map(|(place, site)| {
            let step = match (grain, site.block) {
                (Grain::Stage, _) => place,
                (Grain::Block, Some(block)) => block as usize,
                // The output head, after all blocks.
                (Grain::Block, None) => usize::MAX,
            };
            site.layers.iter().map(move |layer| (*layer, step))
        });
        Self {
            layers: layers.collect(),
            model,
        }
    }

    fn of_tensor(&self, tensor: usize) -> Option<usize> {
        self.layers.get(&tensor).copied()
    }

    /// When a unit's statistics are known.
    fn of_unit(&self, unit: &Unit) -> std::result::Result<usize, String> {
        let mut common = None;
        for request in &unit.statistics {
            let name = &request.site;
            let tensor = self.model.tensor_index(name);
            let step = tensor.and_then(|tensor| self.of_tensor(tensor));
            let step = step.ok_or_else(|| {
                format!("asks for statistics of \"{name}\", which is in none of the model's sites")
            })?;
            if *common.get_or_insert(step) != step {
                return Err("asks for statistics that are not known at the same time".into());
            }
        }
        common.ok_or_else(|| "asks for no statistics".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::{CalibrationPlan, Inputs, Statistic, StatisticRequest, UnitInput};
    use crate::testing::TestModel;

    const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";
    const OUTPUT: &str = "model.layers.0.self_attn.o_proj.weight";
    const NORM: &str = "model.layers.0.input_layernorm.weight";

    fn unit(model: &ModelDescription, site: &str, inputs: &[&str]) -> Unit {
        let inputs = inputs.iter().map(|name| model.tensor_index(name).unwrap());
        Unit {
            label: site.into(),
            inputs: inputs.map(UnitInput::rows_of).collect(),
            statistics: vec![StatisticRequest {
                site: site.into(),
                statistic: Statistic::Gram,
            }],
            ..Unit::default()
        }
    }

    fn plan(grain: Grain, flow: Flow, units: &[Unit]) -> Plan {
        Plan {
            units: units.to_vec(),
            calibration: Some(CalibrationPlan { grain, flow }),
            ..Plan::default()
        }
    }

    /// What is wrong with units whose quantized outputs flow on.
    fn problem(grain: Grain, units: &[Unit], model: &ModelDescription) -> Option<String> {
        // Where the original flows on, all of it is sound.
        check(&plan(grain, Flow::Original, units), model).unwrap();
        let checked = check(&plan(grain, Flow::Quantized, units), model);
        checked.err().map(|error| error.message)
    }

    #[test]
    fn layers_are_quantized_before_tokens_pass() {
        let model = TestModel::tiny_llama();
        let model = model.model();
        let (stage, block) = (Grain::Stage, Grain::Block);
        let own = [
            unit(model, QUERY, &[QUERY, NORM]),
            unit(model, OUTPUT, &[OUTPUT]),
        ];
        let late = [unit(model, OUTPUT, &[QUERY])];
        let early = [unit(model, QUERY, &[OUTPUT])];
        let later_block = "model.layers.1.self_attn.q_proj.weight";
        let much_later = [unit(model, later_block, &[QUERY])];
        let head = [unit(model, "lm_head.weight", &["lm_head.weight"])];
        let sound = [
            (stage, &own[..]),
            (block, &own),
            (stage, &early),
            (block, &late),
        ];
        for (grain, units) in sound
            .into_iter()
            .chain([(stage, &head[..]), (block, &head)])
        {
            assert_eq!(problem(grain, units, model), None);
        }
        for (grain, units) in [(stage, &late), (stage, &much_later), (block, &much_later)] {
            let problem = problem(grain, units, model).unwrap();
            assert!(problem.contains("tokens pass before"), "{problem}");
        }
    }

    #[test]
    fn units_that_nothing_can_flow_from_are_refused() {
        let model = TestModel::tiny_llama();
        let model = model.model();
        let find = |units: &[Unit]| problem(Grain::Stage, units, model).unwrap();
        let one = unit(model, QUERY, &[QUERY]);
        let twice = find(&[one.clone(), unit(model, QUERY, &[QUERY])]);
        assert!(twice.contains("as unit"), "{twice}");
        let elsewhere = find(&[unit(model, NORM, &[QUERY])]);
        assert!(
            elsewhere.contains("none of the model's sites"),
            "{elsewhere}"
        );
        let mut raw = one.clone();
        raw.inputs[0].raw = true;
        assert!(find(&[raw]).contains("stored bytes"));
        let mut both = one.clone();
        both.statistics.extend(unit(model, OUTPUT, &[]).statistics);
        assert!(find(&[both]).contains("at the same time"));
        // A norm may be read by several.
        let norms = [
            unit(model, QUERY, &[QUERY, NORM]),
            unit(model, OUTPUT, &[OUTPUT, NORM]),
        ];
        assert_eq!(problem(Grain::Stage, &norms, model), None);
        let unknown = ModelDescription {
            sites: Vec::new(),
            ..model.clone()
        };
        assert!(problem(Grain::Stage, &[one], &unknown).is_some());
    }
}
