//! What a plugin measured, summed up over a job.

use std::collections::{BTreeMap, HashMap};

use llm_quantize_plugin_api::Measure;

/// Sums of the plugin's measures by name.
pub type Measures = BTreeMap<String, f64>;

/// What was measured of a layer, or of whatever else the plugin tells figures about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerReport {
    /// The layer's name, e.g. `model.layers.0.mlp.up_proj`.
    pub name: String,
    /// Figures by their names, as the plugin ordered them.
    pub figures: Vec<(String, f64)>,
}

/// All figures of a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Those of the whole output.
    pub measures: Measures,
    /// Those of its layers, in the plan's order.
    pub layers: Vec<LayerReport>,
}

impl Measured {
    /// Sums up the measures of all pieces, in their order: so the last digit depends neither on
    /// the threads nor on a resume.
    pub fn sum(pieces: impl IntoIterator<Item = Vec<Measure>>) -> Self {
        let mut all = Self::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        for measure in pieces.into_iter().flatten() {
            if measure.subject.is_empty() {
                *all.measures.entry(measure.name).or_default() += measure.value;
                continue;
            }
            let place = *places.entry(measure.subject).or_insert_with_key(|subject| {
                all.layers.push(LayerReport {
                    name: subject.clone(),
                    ..LayerReport::default()
                });
                all.layers.len() - 1
            });
            all.layers[place].add(measure.name, measure.value);
        }
        all
    }
}

impl LayerReport {
    fn add(&mut self, name: String, value: f64) {
        match self.figures.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += value,
            None => self.figures.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_by_subject_and_name() {
        let (new, of) = (Measure::new, Measure::of);
        let summed = Measured::sum([
            vec![of("b", "y", 1.0), of("a", "y", 2.0), new("x", 3.0)],
            vec![of("a", "y", 4.0), new("x", 5.0), of("a", "x", 6.0)],
            vec![of("b", "z", 7.0)],
        ]);
        assert_eq!(summed.measures, Measures::from([("x".to_owned(), 8.0)]));
        let layer = |name: &str, figures: [(&str, f64); 2]| LayerReport {
            name: name.into(),
            figures: figures.map(|(name, value)| (name.into(), value)).into(),
        };
        let expected = [
            layer("b", [("y", 1.0), ("z", 7.0)]),
            layer("a", [("y", 6.0), ("x", 6.0)]),
        ];
        assert_eq!(summed.layers, expected);
    }
}
