//! Which layers are quantized.

use std::collections::{BTreeMap, BTreeSet};

use llm_quantize_plugin_api::{Error, Fold, ModelDescription, Result, Site, TensorInfo};

use super::options::{GROUP_SIZES, Method, WHOLE_ROW, Wishes};
use crate::layout::{Shape, module_of};

/// A linear layer that is quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Place of the weight in the model.
    pub tensor: usize,
    /// Name of the layer: the weight's without its ending.
    pub module: String,
    /// How it is stored.
    pub shape: Shape,
}

/// The layers of a site: all of them quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteLayers {
    /// The transformer block that they are in.
    pub block: Option<u32>,
    /// The layers; never empty.
    pub layers: Vec<Layer>,
    /// The weight of the norm that their inputs come from, if factors may be folded into it.
    pub norm: Option<usize>,
}

/// A linear layer that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Place of the weight in the model.
    pub tensor: usize,
    /// Name of the layer.
    pub module: String,
    /// Its inputs.
    pub inputs: usize,
    /// Why.
    pub reason: String,
}

/// What happens to the linear layers of a model's blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Those that are quantized, in the order in which the model runs them.
    pub sites: Vec<SiteLayers>,
    /// Those that stay.
    pub kept: Vec<Kept>,
}

/// Chooses the layers of a model that are quantized: all linear layers of its blocks. Embeddings
/// and the output head stay as they are, as everyone's do.
///
/// Layers that read the same input are one in loaders (q, k and v; gate and up), so all or none
/// of them are quantized.
///
/// # Errors
/// If the model's linear layers are not known, or layers do not fit and that is not wanted.
pub fn choose(model: &ModelDescription, wishes: &Wishes) -> Result<Choice> {
    let mut choice = Choice::default();
    for site in model.sites.iter().filter(|site| site.block.is_some()) {
        let layers = layers_of(model, site, wishes)?;
        match layers.iter().find_map(|layer| layer.shape.misfit()) {
            None => choice.sites.push(SiteLayers {
                block: site.block,
                layers,
                norm: norm_of(site, wishes),
            }),
            Some(reason) => choice.kept.extend(layers.into_iter().map(|layer| Kept {
                tensor: layer.tensor,
                inputs: layer.shape.inputs,
                reason: layer.shape.misfit().unwrap_or_else(|| {
                    format!("it reads what a layer reads that does not fit: {reason}")
                }),
                module: layer.module,
            })),
        }
    }
    if model.sites.is_empty() {
        return Err(unknown(model));
    }
    if choice.sites.is_empty() || !(choice.kept.is_empty() || wishes.keep_unfit) {
        return Err(unfit(&choice, wishes));
    }
    Ok(choice)
}

/// The norm that factors of this site may be folded into.
fn norm_of(site: &Site, wishes: &Wishes) -> Option<usize> {
    match site.fold {
        Fold::Norm { weight } if wishes.smooth && wishes.method == Method::Gptq => Some(weight),
        _ => None,
    }
}

fn layers_of(model: &ModelDescription, site: &Site, wishes: &Wishes) -> Result<Vec<Layer>> {
    let layers = site.layers.iter().map(|&tensor| {
        let missing = || Error::internal(format!("there is no tensor {tensor}"));
        layer(
            tensor,
            model.tensors.get(tensor).ok_or_else(missing)?,
            wishes,
        )
    });
    layers.collect()
}

fn layer(tensor: usize, info: &TensorInfo, wishes: &Wishes) -> Result<Layer> {
    let size = |dim: u64| usize::try_from(dim).ok();
    let sizes = match info.shape[..] {
        [outputs, inputs] => size(outputs).zip(size(inputs)),
        _ => None,
    };
    let Some((outputs, inputs)) = sizes else {
        return Err(Error::unsupported(format!(
            "the weight \"{}\" has the shape {:?}; GPTQ has matrices only",
            info.name, info.shape
        )));
    };
    Ok(Layer {
        tensor,
        module: module_of(&info.name).to_owned(),
        shape: Shape {
            bits: wishes.bits,
            inputs,
            outputs,
            group: wishes.group(inputs),
        },
    })
}

fn unknown(model: &ModelDescription) -> Error {
    let named = |key: &str| model.config.get(key).filter(|value| !value.is_null());
    let architecture = named("architectures")
        .and_then(|list| list.get(0))
        .or_else(|| named("model_type"))
        .and_then(|name| name.as_str());
    let what = match architecture {
        Some(name) => format!("the linear layers of the architecture \"{name}\" are not known"),
        None => "the model's linear layers are not known: its configuration names no architecture"
            .to_owned(),
    };
    Error::unsupported(format!("{what}, so it cannot be quantized to GPTQ")).suggest(
        "dense models of the families Llama, Mistral, Qwen2, Qwen3 and SmolLM3 can be quantized",
    )
}

/// An error that says which layers do not fit, and what would.
fn unfit(choice: &Choice, wishes: &Wishes) -> Error {
    if choice.kept.is_empty() {
        return Error::unsupported("the model has no linear layers that could be quantized");
    }
    let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for kept in &choice.kept {
        let kinds = reasons.entry(&kept.reason).or_default();
        kinds.insert(kind_of(&kept.module));
    }
    let reasons = reasons.into_iter().map(|(reason, kinds)| {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        format!("{reason} ({})", kinds.join(", "))
    });
    let (count, all) = (choice.kept.len(), quantized(choice) + choice.kept.len());
    let error = Error::unsupported(format!(
        "{count} of {all} layers cannot be quantized in groups of {} with {} bits: {}",
        wishes.group_size,
        wishes.bits,
        reasons.collect::<Vec<String>>().join("; ")
    ));
    let fitting = GROUP_SIZES.into_iter().rev().find(|&size| {
        let divides = |kept: &Kept| match usize::try_from(size) {
            Ok(size) => kept.inputs.is_multiple_of(size),
            Err(_) => true,
        };
        size != wishes.group_size
            && size != WHOLE_ROW
            && choice.kept.iter().all(divides)
            && choice
                .kept
                .iter()
                .any(|kept| kept.reason.starts_with("groups"))
    });
    let keep = "leave them as they are with --set unfit=keep";
    let partly = !choice.sites.is_empty() && !wishes.keep_unfit;
    match (fitting, partly) {
        (Some(size), true) => error.suggest(format!("use --group-size {size}, or {keep}")),
        (Some(size), false) => error.suggest(format!("use --group-size {size}")),
        (None, true) => error.suggest(keep),
        (None, false) => error.suggest("use another format or level"),
    }
}

fn quantized(choice: &Choice) -> usize {
    choice.sites.iter().map(|site| site.layers.len()).sum()
}

/// What a layer is called in every block: what comes after the block's number.
#[must_use]
pub fn kind_of(module: &str) -> &str {
    let rest = module.split_once("layers.").map(|(_, rest)| rest);
    let kind = rest.and_then(|rest| rest.split_once('.'));
    kind.map_or(module, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::levels::Level;
    use llm_quantize_plugin_api::testing::TestModel;
    use llm_quantize_plugin_api::{ErrorKind, Inputs, PlanRequest};

    fn wishes(level: &str, group: i64, keep: bool) -> Wishes {
        let request = PlanRequest {
            group_size: Some(group),
            options: vec![("unfit".into(), if keep { "keep" } else { "refuse" }.into())],
            ..PlanRequest::default()
        };
        Wishes::from_request(Level::find(level).unwrap(), &request).unwrap()
    }

    /// The small model with other inputs of the MLP's last layer.
    fn model(inputs: u64) -> ModelDescription {
        let mut model = TestModel::tiny_llama().model().clone();
        for tensor in &mut model.tensors {
            if tensor.name.ends_with("down_proj.weight") {
                tensor.shape[1] = inputs;
            }
        }
        model
    }

    #[test]
    fn all_linear_layers_of_blocks_are_quantized() {
        let choice = choose(&model(512), &wishes("4bit", 128, false)).unwrap();
        assert_eq!(choice.sites.len(), 8);
        assert!(choice.kept.is_empty());
        let first = &choice.sites[0];
        let names: Vec<&str> = first.layers.iter().map(|layer| &*layer.module).collect();
        assert_eq!(names[2], "model.layers.0.self_attn.v_proj");
        assert_eq!((names.len(), first.block), (3, Some(0)));
        assert_eq!(first.layers[2].shape.outputs, 128);
    }

    #[test]
    fn layers_that_do_not_fit_are_an_error_that_helps() {
        let error = choose(&model(576), &wishes("4bit", 128, false)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert_eq!(
            error.message,
            "2 of 14 layers cannot be quantized in groups of 128 with 4 bits: groups of 128 do not \
             divide 576 inputs (mlp.down_proj)"
        );
        assert_eq!(
            error.suggestion.unwrap(),
            "use --group-size 64, or leave them as they are with --set unfit=keep"
        );
        let error = choose(&model(520), &wishes("4bit", 128, false)).unwrap_err();
        assert!(!error.suggestion.unwrap().contains("group-size"));
    }

    #[test]
    fn they_may_stay_as_they_are_with_all_that_read_the_same() {
        let choice = choose(&model(576), &wishes("4bit", 128, true)).unwrap();
        assert_eq!((choice.sites.len(), choice.kept.len()), (6, 2));
        assert_eq!(choice.kept[1].module, "model.layers.1.mlp.down_proj");

        let mut narrow = model(512);
        for tensor in &mut narrow.tensors {
            if tensor.name.ends_with("k_proj.weight") {
                tensor.shape[0] = 100;
            }
        }
        let choice = choose(&narrow, &wishes("3bit", 128, true)).unwrap();
        let reasons: Vec<&str> = choice.kept.iter().map(|kept| &*kept.reason).collect();
        assert_eq!(reasons.len(), 6);
        assert!(reasons[0].starts_with("it reads what"), "{}", reasons[0]);
        assert!(
            reasons[1].starts_with("100 outputs do not"),
            "{}",
            reasons[1]
        );
    }

    #[test]
    fn nothing_left_to_quantize_is_an_error() {
        let mut odd = model(512);
        odd.tensors
            .iter_mut()
            .for_each(|tensor| tensor.shape = vec![7, 7]);
        assert!(choose(&odd, &wishes("4bit", 32, true)).is_err());
    }

    #[test]
    fn unknown_architectures_are_named() {
        let mut model = model(512);
        model.sites.clear();
        model.config = serde_json::json!({"architectures": ["FalconForCausalLM"]});
        let error = choose(&model, &wishes("4bit", 128, false)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("\"FalconForCausalLM\""), "{error}");
        assert!(error.suggestion.unwrap().contains("Qwen3"));
    }

    #[test]
    fn kinds_are_what_blocks_have_in_common() {
        assert_eq!(kind_of("model.layers.12.mlp.up_proj"), "mlp.up_proj");
        assert_eq!(kind_of("lm_head"), "lm_head");
    }
}
