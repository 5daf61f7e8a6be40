//! Which layers are quantized.

use std::collections::{BTreeMap, BTreeSet};

use super::{WEIGHT, WHOLE_ROW};
use crate::hf_folder::NewTensor;
use crate::interface::{
    ElementType, Error, Fold, ModelDescription, PlanRequest, Result, Site, TensorInfo,
};

/// How a format stores a linear layer of some sizes.
pub trait LayerShape: Copy {
    /// Columns of the weight.
    fn inputs(&self) -> usize;

    /// Why a layer of these sizes cannot be stored, as the end of a sentence about it; `None` if
    /// it can.
    fn misfit(&self) -> Option<String>;

    /// The tensors in the place of the weight. Only asked for sizes without
    /// [`misfit`](Self::misfit).
    fn tensors(&self, module: &str) -> Vec<NewTensor>;

    /// What the type of such a weight is called.
    fn type_name(&self) -> String;
}

/// A linear layer that is quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer<S> {
    /// Place of the weight in the model.
    pub tensor: usize,
    /// Name of the layer: the weight's without its ending.
    pub module: String,
    /// How it is stored.
    pub shape: S,
}

/// The layers of a site: all of them quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteLayers<S> {
    /// The transformer block that they are in.
    pub block: Option<u32>,
    /// The layers; never empty.
    pub layers: Vec<Layer<S>>,
    /// What computes their inputs.
    pub fold: Fold,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<S> {
    /// Those that are quantized, in the order in which the model runs them.
    pub sites: Vec<SiteLayers<S>>,
    /// Those that stay.
    pub kept: Vec<Kept>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// The format's name for people.
    pub format: &'a str,
    /// Bits of a code.
    pub bits: u32,
    /// Inputs that share a scale; [`WHOLE_ROW`] for a whole row.
    pub group_size: i64,
    /// What the format has of those, from small to large.
    pub group_sizes: &'a [i64],
    /// Whether layers that do not fit stay as they are, instead of being an error.
    pub keep_unfit: bool,
}

impl Selection<'_> {
    /// Inputs of a group of a layer.
    #[must_use]
    pub fn group(&self, inputs: usize) -> usize {
        usize::try_from(self.group_size).unwrap_or(inputs)
    }
}

/// What [`groups_misfit`] begins with.
const GROUPS: &str = "groups of";

/// Why a row cannot be cut into groups, if so: a part of [`LayerShape::misfit`].
#[must_use]
pub fn groups_misfit(group: usize, inputs: usize) -> Option<String> {
    let divides = group > 0 && inputs.is_multiple_of(group);
    (!divides).then(|| format!("{GROUPS} {group} do not divide {inputs} inputs"))
}

/// Chooses the layers of a model that are quantized: all linear layers of its blocks. Embeddings
/// and the output head stay as they are, as everyone's do. `shape` is given outputs and inputs.
///
/// Layers that read the same input are one in loaders (q, k and v; gate and up), so all or none
/// of them are quantized.
///
/// # Errors
/// If the model's linear layers are not known, or layers do not fit and that is not wanted.
pub fn choose<S: LayerShape>(
    model: &ModelDescription,
    selection: &Selection<'_>,
    shape: impl Fn(usize, usize) -> S,
) -> Result<Choice<S>> {
    if model.sites.is_empty() {
        return Err(unknown(model, selection.format));
    }
    let mut choice = Choice {
        sites: Vec::new(),
        kept: Vec::new(),
    };
    for site in model.sites.iter().filter(|site| site.block.is_some()) {
        let layers = layers_of(model, site, selection.format, &shape)?;
        match layers.iter().find_map(|layer| layer.shape.misfit()) {
            None => choice.sites.push(SiteLayers {
                block: site.block,
                layers,
                fold: site.fold,
            }),
            Some(reason) => choice.kept.extend(layers.into_iter().map(|layer| Kept {
                tensor: layer.tensor,
                inputs: layer.shape.inputs(),
                reason: layer.shape.misfit().unwrap_or_else(|| {
                    format!("it reads what a layer reads that does not fit: {reason}")
                }),
                module: layer.module,
            })),
        }
    }
    if choice.sites.is_empty() || !(choice.kept.is_empty() || selection.keep_unfit) {
        return Err(choice.unfit(selection));
    }
    Ok(choice)
}

/// Refuses a folder of the format itself in its native view: its tensors are no weights.
///
/// # Errors
/// If the model is one.
pub fn refuse_own_folder(model: &ModelDescription, format: &str, name: &str) -> Result<()> {
    let config = model.config.as_object();
    let unconfigured = config.is_none_or(serde_json::Map::is_empty);
    match model.format == format && unconfigured {
        true => Err(
            Error::unsupported(format!("the model is a folder of {name} already"))
                .suggest("start from the original model"),
        ),
        false => Ok(()),
    }
}

fn layers_of<S: LayerShape>(
    model: &ModelDescription,
    site: &Site,
    format: &str,
    shape: &impl Fn(usize, usize) -> S,
) -> Result<Vec<Layer<S>>> {
    let layers = site.layers.iter().map(|&tensor| {
        let missing = || Error::internal(format!("there is no tensor {tensor}"));
        let info = model.tensors.get(tensor).ok_or_else(missing)?;
        let [outputs, inputs] = sizes(info, format)?;
        Ok(Layer {
            tensor,
            module: module_of(&info.name).to_owned(),
            shape: shape(outputs, inputs),
        })
    });
    layers.collect()
}

fn sizes(info: &TensorInfo, format: &str) -> Result<[usize; 2]> {
    let size = |dim: u64| usize::try_from(dim).ok();
    let sizes = match info.shape[..] {
        [outputs, inputs] => size(outputs).zip(size(inputs)),
        _ => None,
    };
    let sizes = sizes.map(|(outputs, inputs)| [outputs, inputs]);
    sizes.ok_or_else(|| {
        Error::unsupported(format!(
            "the weight \"{}\" has the shape {:?}; {format} has matrices only",
            info.name, info.shape
        ))
    })
}

fn unknown(model: &ModelDescription, format: &str) -> Error {
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
    Error::unsupported(format!("{what}, so it cannot be quantized to {format}")).suggest(
        "dense models of the families Llama, Mistral, Qwen2, Qwen3, SmolLM3, Gemma and Phi 3 can be \
         quantized",
    )
}

impl<S: LayerShape> Choice<S> {
    /// The layers that are quantized, in the order in which the model runs them.
    pub fn layers(&self) -> impl Iterator<Item = &Layer<S>> {
        self.sites.iter().flat_map(|site| &site.layers)
    }

    /// Kinds of layers that are quantized in some block and kept in another.
    #[must_use]
    pub fn mixed_kinds(&self) -> BTreeSet<&str> {
        let kept = self.kept.iter().map(|kept| kind_of(&kept.module));
        let kept: BTreeSet<&str> = kept.collect();
        let kinds = self.layers().map(|layer| kind_of(&layer.module));
        kinds.filter(|kind| kept.contains(kind)).collect()
    }

    /// The shortest names that mean all layers that are quantized and no other: their kinds, or
    /// where a kind is mixed, full names.
    #[must_use]
    pub fn quantized_names(&self) -> Vec<&str> {
        self.names(self.layers().map(|layer| &*layer.module))
    }

    /// The shortest names that mean all layers that stay and no other.
    #[must_use]
    pub fn kept_names(&self) -> Vec<&str> {
        self.names(self.kept.iter().map(|kept| &*kept.module))
    }

    fn names<'a>(&'a self, modules: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let mixed = self.mixed_kinds();
        let mut names = Vec::new();
        for module in modules {
            let kind = kind_of(module);
            let name = match mixed.contains(kind) {
                true => module,
                false => kind,
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// What a user should know of layers that stay, if there are any.
    #[must_use]
    pub fn kept_warning(&self) -> Option<String> {
        let first = self.kept.first()?;
        Some(format!(
            "{} layers stay as they are (e.g. {}: {}); --dry-run lists them",
            self.kept.len(),
            first.module,
            first.reason
        ))
    }

    /// Refuses layers that are quantized already: they lose twice.
    ///
    /// # Errors
    /// The first such layer, unless the request agrees.
    pub fn refuse_requantizing(
        &self,
        model: &ModelDescription,
        request: &PlanRequest,
    ) -> Result<()> {
        if super::options::may_requantize(request) {
            return Ok(());
        }
        let mut tensors = self
            .layers()
            .filter_map(|layer| model.tensors.get(layer.tensor));
        let twice = tensors.find(|tensor| ElementType::from_dtype(&tensor.dtype).is_none());
        let Some(tensor) = twice else { return Ok(()) };
        Err(Error::invalid_request(format!(
            "the tensor \"{}\" is quantized already ({}); quantizing it again costs quality",
            tensor.name, tensor.dtype
        ))
        .suggest(
            "start from the original model, or accept the loss with --set allow-requantize=true",
        ))
    }

    /// An error that says which layers do not fit, and what would.
    fn unfit(&self, selection: &Selection<'_>) -> Error {
        if self.kept.is_empty() {
            return Error::unsupported("the model has no linear layers that could be quantized");
        }
        let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for kept in &self.kept {
            let kinds = reasons.entry(&kept.reason).or_default();
            kinds.insert(kind_of(&kept.module));
        }
        let reasons = reasons.into_iter().map(|(reason, kinds)| {
            let kinds: Vec<&str> = kinds.into_iter().collect();
            format!("{reason} ({})", kinds.join(", "))
        });
        let (count, all) = (self.kept.len(), self.layers().count() + self.kept.len());
        let error = Error::unsupported(format!(
            "{count} of {all} layers cannot be quantized in groups of {} with {} bits: {}",
            selection.group_size,
            selection.bits,
            reasons.collect::<Vec<String>>().join("; ")
        ));
        let keep = "leave them as they are with --set unfit=keep";
        let partly = !self.sites.is_empty() && !selection.keep_unfit;
        match (self.fitting_group(selection), partly) {
            (Some(size), true) => error.suggest(format!("use --group-size {size}, or {keep}")),
            (Some(size), false) => error.suggest(format!("use --group-size {size}")),
            (None, true) => error.suggest(keep),
            (None, false) => error.suggest("use another format or level"),
        }
    }

    /// The largest other group size that divides the inputs of all layers that do not fit, if
    /// that was the trouble.
    fn fitting_group(&self, selection: &Selection<'_>) -> Option<i64> {
        let divides = |size: i64| {
            let size = usize::try_from(size).ok();
            let mut kept = self.kept.iter();
            kept.all(|kept| size.is_some_and(|size| kept.inputs.is_multiple_of(size)))
        };
        let by_group = |kept: &Kept| kept.reason.starts_with(GROUPS);
        let mut sizes = selection.group_sizes.iter().rev().copied();
        sizes.find(|&size| {
            size != selection.group_size
                && size != WHOLE_ROW
                && divides(size)
                && self.kept.iter().any(by_group)
        })
    }
}

/// A weight's name without its ending: the name of the layer.
#[must_use]
pub fn module_of(weight: &str) -> &str {
    weight.strip_suffix(WEIGHT).unwrap_or(weight)
}

/// What a layer is called in every block: what comes after the block's number.
#[must_use]
pub fn kind_of(module: &str) -> &str {
    let rest = module.split_once("layers.").map(|(_, rest)| rest);
    let kind = rest.and_then(|rest| rest.split_once('.'));
    kind.map_or(module, |(_, kind)| kind)
}

#[cfg(test)]
pub(super) mod tests;
