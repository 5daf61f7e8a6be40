//! Which layers are quantized.

use llm_quantize_plugin_api::hf_folder::quantized::{self, Selection, keeps_type};
use llm_quantize_plugin_api::{Fold, ModelDescription, Result};

use super::options::{GROUP_SIZES, Method, Wishes};
use crate::NAME;
use crate::layout::Shape;

/// A linear layer that is quantized.
pub type Layer = quantized::Layer<Shape>;
/// The layers of a site: all of them quantized.
pub type SiteLayers = quantized::SiteLayers<Shape>;
/// What happens to the linear layers of a model's blocks.
pub type Choice = quantized::Choice<Shape>;

/// Chooses the layers of a model that are quantized ([`quantized::choose`]).
///
/// # Errors
/// If the model's linear layers are not known, or layers do not fit and that is not wanted.
pub fn choose(model: &ModelDescription, wishes: &Wishes) -> Result<Choice> {
    let selection = Selection {
        format: NAME,
        bits: wishes.bits,
        group_size: wishes.group_size,
        group_sizes: &GROUP_SIZES,
        keep_unfit: wishes.keep_unfit,
    };
    quantized::choose(model, &selection, |outputs, inputs| Shape {
        bits: wishes.bits,
        inputs,
        outputs,
        group: selection.group(inputs),
    })
}

/// The norm that factors of a site may be folded into, if that is wanted.
#[must_use]
pub fn norm_of(model: &ModelDescription, site: &SiteLayers, wishes: &Wishes) -> Option<usize> {
    let wanted = wishes.smooth && wishes.method == Method::Gptq;
    match site.fold {
        Fold::Norm { weight } if wanted && keeps_type(model, weight) => Some(weight),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::levels::Level;
    use llm_quantize_plugin_api::testing::TestModel;
    use llm_quantize_plugin_api::{Inputs, PlanRequest};

    fn wishes(level: &str, options: &[(&str, &str)]) -> Wishes {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let request = PlanRequest {
            group_size: Some(128),
            options: options.iter().map(owned).collect(),
            ..PlanRequest::default()
        };
        Wishes::from_request(Level::find(level).unwrap(), &request).unwrap()
    }

    #[test]
    fn words_that_are_not_full_do_not_fit() {
        let mut model = TestModel::tiny_llama().model().clone();
        for tensor in &mut model.tensors {
            if tensor.name.ends_with("k_proj.weight") {
                tensor.shape[0] = 100;
            }
        }
        let error = choose(&model, &wishes("3bit", &[])).unwrap_err();
        assert!(
            error.message.contains("with 3 bits: 100 outputs do not"),
            "{error}"
        );
        let choice = choose(&model, &wishes("3bit", &[("unfit", "keep")])).unwrap();
        assert_eq!((choice.sites.len(), choice.kept.len()), (6, 6));
    }

    #[test]
    fn norms_are_for_smoothing_only() {
        let mut model = TestModel::tiny_llama().model().clone();
        let folds = |model: &ModelDescription, options: &[(&str, &str)]| {
            let wishes = wishes("4bit", options);
            let choice = choose(model, &wishes).unwrap();
            let sites = choice.sites.iter();
            let norms = sites.filter_map(|site| norm_of(model, site, &wishes));
            norms.count()
        };
        assert_eq!(folds(&model, &[]), 0);
        assert_eq!(folds(&model, &[("smooth", "true")]), 4);
        assert_eq!(folds(&model, &[("smooth", "true"), ("method", "rtn")]), 0);
        // Norms in blocks come as other numbers than they are stored as.
        for tensor in &mut model.tensors {
            if tensor.name.ends_with("input_layernorm.weight") {
                tensor.dtype = "Q8_0".into();
            }
        }
        assert_eq!(folds(&model, &[("smooth", "true")]), 2);
    }
}
