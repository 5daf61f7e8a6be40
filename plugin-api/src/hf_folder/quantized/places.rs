//! Where everything lies in a folder with quantized layers.

use std::collections::{HashMap, HashSet};

use super::{Choice, Layer, LayerShape};
use crate::hf_folder::copy::dtype_name;
use crate::hf_folder::{FolderBuilder, NewTensor, copy_unit, plain_dtype};
use crate::interface::{
    ElementType, Error, ModelDescription, PlanRequest, PlannedTensor, Result, Span, TensorInfo,
};

/// What [`FolderBuilder::quantized_weights`] has laid out.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// By the place of a weight in the model: its tensors, in [`LayerShape::tensors`]' order.
    layers: HashMap<usize, Vec<Span>>,
    /// By the place of a tensor that a unit of the format writes.
    held: HashMap<usize, Span>,
    /// The type of what each of the units so far copies.
    pub copies: Vec<ElementType>,
}

impl Places {
    /// Where the tensors of a layer belong.
    ///
    /// # Errors
    /// If that is none of the choice.
    pub fn layer<S>(&self, layer: &Layer<S>) -> Result<&[Span]> {
        let places = self.layers.get(&layer.tensor).map(Vec::as_slice);
        places.ok_or_else(|| Error::internal("a layer without a place"))
    }

    /// Where a plain tensor belongs that a unit of the format writes.
    ///
    /// # Errors
    /// If that is none of them.
    pub fn held(&self, tensor: usize) -> Result<Span> {
        let place = self.held.get(&tensor).copied();
        place.ok_or_else(|| Error::internal("a tensor without a place"))
    }
}

/// Whether a tensor of the model is written in the type that it is read in, so that a format may
/// fold factors into it: numbers that are stored in blocks are read as others.
#[must_use]
pub fn keeps_type(model: &ModelDescription, tensor: usize) -> bool {
    let info = model.tensors.get(tensor);
    info.is_some_and(|info| ElementType::from_dtype(&info.dtype).is_some())
}

/// A tensor of the model, and what becomes of it.
struct Output<'a, S> {
    info: &'a TensorInfo,
    /// As what it is quantized.
    layer: Option<&'a Layer<S>>,
    /// Its type if it stays.
    element: ElementType,
    /// Why it stays although it could be quantized.
    note: Option<&'a str>,
}

impl<S: LayerShape> Output<'_, S> {
    fn stored(&self) -> Vec<NewTensor> {
        match self.layer {
            Some(layer) => layer.shape.tensors(&layer.module),
            None => vec![NewTensor::new(
                self.info.name.as_str(),
                dtype_name(self.element),
                &self.info.shape,
            )],
        }
    }

    fn planned(&self, bytes: u64) -> PlannedTensor {
        PlannedTensor {
            name: self.info.name.clone(),
            dtype: match self.layer {
                Some(layer) => layer.shape.type_name(),
                None => dtype_name(self.element).into(),
            },
            shape: self.info.shape.clone(),
            bytes,
            note: self.note.map(Into::into),
            route: None,
        }
    }
}

impl FolderBuilder {
    /// Adds the weights of a model in which some layers are quantized, in the model's order: the
    /// files, the list of tensors, and a unit ([`copy_unit`]) for each that stays as it is, but
    /// for those that the format writes in units of its own (`held`).
    ///
    /// # Errors
    /// As [`weights`](Self::weights), and if there is no such tensor.
    pub fn quantized_weights<S: LayerShape>(
        &mut self,
        model: &ModelDescription,
        choice: &Choice<S>,
        held: &HashSet<usize>,
        request: &PlanRequest,
    ) -> Result<Places> {
        let outputs = outputs(model, choice);
        let stored: Vec<Vec<NewTensor>> = outputs.iter().map(Output::stored).collect();
        let mut spans = self.weights(&stored.concat(), request)?.into_iter();
        let mut places = Places::default();
        for (tensor, (output, stored)) in outputs.iter().zip(&stored).enumerate() {
            let spans: Vec<Span> = spans.by_ref().take(stored.len()).collect();
            let bytes = spans.iter().map(|span| span.len).sum();
            self.plan_mut().tensors.push(output.planned(bytes));
            match (output.layer, &spans[..]) {
                (Some(_), _) => {
                    places.layers.insert(tensor, spans);
                }
                (None, &[span]) if held.contains(&tensor) => {
                    places.held.insert(tensor, span);
                }
                (None, &[span]) => {
                    let unit = copy_unit(model, tensor, span)?;
                    self.plan_mut().units.push(unit);
                    places.copies.push(output.element);
                }
                (None, _) => return Err(Error::internal("a tensor without a place")),
            }
        }
        Ok(places)
    }
}

/// All tensors in the model's order.
fn outputs<'a, S: LayerShape>(
    model: &'a ModelDescription,
    choice: &'a Choice<S>,
) -> Vec<Output<'a, S>> {
    let layers = choice.layers().map(|layer| (layer.tensor, layer));
    let layers: HashMap<usize, &Layer<S>> = layers.collect();
    let kept = choice.kept.iter().map(|kept| (kept.tensor, &*kept.reason));
    let notes: HashMap<usize, &str> = kept.collect();
    let tensors = model.tensors.iter().enumerate();
    tensors
        .map(|(tensor, info)| Output {
            info,
            layer: layers.get(&tensor).copied(),
            element: plain_dtype(model, info),
            note: notes.get(&tensor).copied(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::layers::tests::selected;
    use super::*;
    use crate::interface::Inputs;
    use crate::testing::TestModel;

    #[test]
    fn layers_are_replaced_and_the_rest_is_copied_or_held() {
        let model = TestModel::tiny_llama();
        let model = model.model();
        let choice = selected(model, 64, false).unwrap();
        let norm = model.tensor_index("model.norm.weight").unwrap();
        let mut builder = FolderBuilder::new("byte", "out".into());
        let held = HashSet::from([norm]);
        let request = PlanRequest::default();
        let places = builder
            .quantized_weights(model, &choice, &held, &request)
            .unwrap();
        let layer = choice.layers().next().unwrap();
        let spans = places.layer(layer).unwrap();
        // One byte a code, two a scale.
        let lengths: Vec<u64> = spans.iter().map(|span| span.len).collect();
        assert_eq!(lengths, [256 * 256, 256 * 4 * 2]);
        assert_eq!(places.held(norm).unwrap().len, 512);
        assert!(places.held(norm + 1).is_err());
        // Embeddings, head, and two norms in each block.
        let (plan, _) = builder.finish();
        assert_eq!((plan.units.len(), places.copies.len()), (6, 6));
        let find = |name: &str| plan.tensors.iter().find(|t| t.name == name).unwrap();
        let planned = find("model.layers.0.self_attn.q_proj.weight");
        assert_eq!((planned.dtype.as_str(), planned.bytes), ("byte", 256 * 264));
        assert_eq!(find("lm_head.weight").dtype, "BF16");
        let total: u64 = plan.tensors.iter().map(|tensor| tensor.bytes).sum();
        let header = plan.literals[0].len;
        assert_eq!(plan.files[0].size, header + total);
    }
}
