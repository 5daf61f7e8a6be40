//! Which layers a format takes over from another one, and in which of its ways.

use std::collections::{BTreeMap, HashMap};

use super::{Choice, Kept, Layer, LayerShape, SiteLayers, WHOLE_ROW, kind_of, module_of};
use crate::hf_folder::layer_of;
use crate::interface::{
    ElementType, Error, Fold, GroupFacts, ModelDescription, Plan, Result, Route, Site, TensorInfo,
};
use crate::regroup::{Fit, Zeros};

/// The part of the quantized weights that must be held: with fewer, most of the model would stay
/// in 16 bits.
const ENOUGH: f64 = 0.5;

/// A way in which a format stores all of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way<W> {
    /// Bits of a code.
    pub bits: u32,
    /// What it can say of zeros.
    pub zeros: Zeros,
    /// What else the format knows about it.
    pub tag: W,
}

/// What a format offers.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a, W> {
    /// The format's name for people.
    pub format: &'a str,
    /// Its ways, the preferred ones first.
    pub ways: &'a [Way<W>],
    /// Its group sizes.
    pub group_sizes: &'a [i64],
    /// Whether scales may not be rounded.
    pub exact: bool,
}

/// What is taken over.
#[derive(Debug, Clone)]
pub struct Repacked<W, S> {
    /// The way.
    pub way: Way<W>,
    /// Inputs that share a scale; [`WHOLE_ROW`] for a whole row.
    pub group_size: i64,
    /// The layers.
    pub choice: Choice<S>,
    /// How well each is held, by the place of its weight.
    pub fits: HashMap<usize, Fit>,
    /// Bytes of all layers, with those that stay in 16 bits.
    bytes: u64,
    /// Weights of the layers that are taken over.
    weights: u64,
    /// Layers whose groups can be cut as needed, whether or not they are taken over.
    cut: usize,
}

/// Chooses the way and the group size with which the layers take the fewest bytes, those that are
/// not held in 16 bits; among equals the most exact one. `shape` is given the way, outputs, inputs
/// and the inputs of a group.
///
/// Layers that read the same input are one in loaders, so all or none of them are taken over.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) if less than half of the weights are held, with
/// the reasons.
pub fn repack<W: Copy, S: LayerShape>(
    model: &ModelDescription,
    offer: &Offer<'_, W>,
    shape: impl Fn(&Way<W>, usize, usize, usize) -> S,
) -> Result<Repacked<W, S>> {
    let sites = sites(model);
    let mut best: Option<Repacked<W, S>> = None;
    for way in offer.ways {
        for &group_size in offer.group_sizes {
            let attempt = Attempt {
                model,
                offer,
                way,
                group_size,
            };
            let found = attempt.run(&sites, &shape)?;
            if best.as_ref().is_none_or(|best| found.beats(best)) {
                best = Some(found);
            }
        }
    }
    let best = best.ok_or_else(|| Error::internal("a format without ways to store layers"))?;
    let all = sites.iter().flat_map(|site| &site.layers);
    let all: u64 = all.map(|layer| elements(model, *layer)).sum();
    match best.weights as f64 >= ENOUGH * all as f64 && best.weights > 0 {
        true => Ok(best),
        false => Err(refusal(model, offer.format, &best.choice)),
    }
}

fn elements(model: &ModelDescription, tensor: usize) -> u64 {
    let tensor = model.tensors.get(tensor);
    tensor.and_then(TensorInfo::elements).unwrap_or(0)
}

fn is_quantized(tensor: &TensorInfo) -> bool {
    ElementType::from_dtype(&tensor.dtype).is_none()
}

/// The sites of the model's blocks. Where the host does not know the architecture, those that the
/// source's own quantization shows: what lies in one module (attention, MLP, all experts together)
/// may be one in loaders.
fn sites(model: &ModelDescription) -> Vec<Site> {
    if !model.sites.is_empty() {
        let sites = model.sites.iter().filter(|site| site.block.is_some());
        return sites.cloned().collect();
    }
    let mut modules: BTreeMap<(u32, &str), Vec<usize>> = BTreeMap::new();
    for (place, tensor) in model.tensors.iter().enumerate() {
        let Some(block) = layer_of(&tensor.name).filter(|_| is_quantized(tensor)) else {
            continue;
        };
        if tensor.shape.len() == 2 {
            let module = parent(module_of(&tensor.name));
            modules.entry((block, module)).or_default().push(place);
        }
    }
    let sites = modules.into_iter().map(|((block, name), layers)| Site {
        name: name.into(),
        block: Some(block),
        layers,
        fold: Fold::Nowhere,
    });
    sites.collect()
}

/// The module that a layer is in.
fn parent(module: &str) -> &str {
    match module.split_once(".experts.") {
        Some((module, _)) => module,
        None => module.rsplit_once('.').map_or(module, |(parent, _)| parent),
    }
}

/// One way with one group size.
struct Attempt<'a, W> {
    model: &'a ModelDescription,
    offer: &'a Offer<'a, W>,
    way: &'a Way<W>,
    group_size: i64,
}

/// A layer and how well it is held, or why it is not.
type Held<S> = (Layer<S>, std::result::Result<Fit, String>);

impl<W: Copy> Attempt<'_, W> {
    fn run<S: LayerShape>(
        &self,
        sites: &[Site],
        shape: &impl Fn(&Way<W>, usize, usize, usize) -> S,
    ) -> Result<Repacked<W, S>> {
        let mut found = Repacked {
            way: *self.way,
            group_size: self.group_size,
            choice: Choice {
                sites: Vec::new(),
                kept: Vec::new(),
            },
            fits: HashMap::new(),
            bytes: 0,
            weights: 0,
            cut: 0,
        };
        for site in sites {
            let layers = site.layers.iter().map(|&tensor| self.layer(tensor, shape));
            let layers = layers.collect::<Result<Vec<Held<S>>>>()?;
            let cut = layers.iter().filter(|(layer, _)| self.cuts(layer));
            found.cut += cut.count();
            match layers.iter().find_map(|(_, fit)| fit.clone().err()) {
                None => found.take(self.model, site, layers)?,
                Some(reason) => found.keep(self.model, layers, &reason),
            }
        }
        Ok(found)
    }

    fn cuts<S: LayerShape>(&self, layer: &Layer<S>) -> bool {
        let inputs = layer.shape.inputs() as u64;
        let group = u64::try_from(self.group_size).unwrap_or(inputs);
        let facts = self.model.groups.get(&layer.tensor);
        facts.is_some_and(|facts| facts.can_be_cut(inputs, group))
    }

    fn layer<S: LayerShape>(
        &self,
        tensor: usize,
        shape: &impl Fn(&Way<W>, usize, usize, usize) -> S,
    ) -> Result<Held<S>> {
        let missing = || Error::internal(format!("there is no tensor {tensor}"));
        let info = self.model.tensors.get(tensor).ok_or_else(missing)?;
        let size = |place: usize| {
            info.shape
                .get(place)
                .and_then(|dim| usize::try_from(*dim).ok())
        };
        let (Some(outputs), Some(inputs), 2) = (size(0), size(1), info.shape.len()) else {
            return Err(Error::unsupported(format!(
                "the weight \"{}\" has the shape {:?}; {} has matrices only",
                info.name, info.shape, self.offer.format
            )));
        };
        let group = usize::try_from(self.group_size).unwrap_or(inputs);
        let shape = shape(self.way, outputs, inputs, group);
        let fit = match self.model.groups.get(&tensor) {
            Some(facts) => self.fit(facts, inputs, group),
            None if is_quantized(info) => {
                Err(format!("its type {} is not codes in groups", info.dtype))
            }
            None => Err("it is not quantized".to_owned()),
        };
        let fit = fit.and_then(|fit| match shape.misfit() {
            None => Ok(fit),
            Some(misfit) => Err(misfit),
        });
        let module = module_of(&info.name).to_owned();
        let layer = Layer {
            tensor,
            module,
            shape,
        };
        Ok((layer, fit))
    }

    fn fit(
        &self,
        facts: &GroupFacts,
        inputs: usize,
        group: usize,
    ) -> std::result::Result<Fit, String> {
        if !facts.in_order {
            return Err("its columns are grouped in the order of their activations".into());
        }
        if !facts.can_be_cut(inputs as u64, group as u64) {
            let size = facts.group_size;
            return Err(format!(
                "its groups of {size} cannot be cut into such of {group}"
            ));
        }
        let fit = facts.fit(self.way.bits, self.way.zeros);
        let fit = fit.filter(|fit| *fit == Fit::Exact || !self.offer.exact);
        fit.ok_or_else(|| {
            let (from, to) = (facts.bits, self.way.bits);
            format!("its {from}-bit codes, zeros or scales have no place in {to} bits")
        })
    }
}

impl<W, S: LayerShape> Repacked<W, S> {
    fn take(&mut self, model: &ModelDescription, site: &Site, layers: Vec<Held<S>>) -> Result<()> {
        let mut taken = Vec::with_capacity(layers.len());
        for (layer, fit) in layers {
            for tensor in layer.shape.tensors(&layer.module) {
                self.bytes = self.bytes.saturating_add(tensor.bytes()?);
            }
            self.weights = self.weights.saturating_add(elements(model, layer.tensor));
            self.fits.extend(fit.ok().map(|fit| (layer.tensor, fit)));
            taken.push(layer);
        }
        self.choice.sites.push(SiteLayers {
            block: site.block,
            layers: taken,
            fold: Fold::Nowhere,
        });
        Ok(())
    }

    fn keep(&mut self, model: &ModelDescription, layers: Vec<Held<S>>, reason: &str) {
        for (layer, fit) in layers {
            let numbers = elements(model, layer.tensor);
            self.bytes = self.bytes.saturating_add(numbers.saturating_mul(2));
            self.choice.kept.push(Kept {
                tensor: layer.tensor,
                inputs: layer.shape.inputs(),
                reason: fit.err().unwrap_or_else(|| {
                    format!("it is one with a layer that cannot be taken over: {reason}")
                }),
                module: layer.module,
            });
        }
    }

    /// The largest relative change of a weight.
    fn change(&self) -> f64 {
        self.fits
            .values()
            .map(|fit| fit.change())
            .fold(0.0, f64::max)
    }

    fn beats(&self, other: &Self) -> bool {
        let by_bytes = self.bytes.cmp(&other.bytes);
        by_bytes
            .then_with(|| self.change().total_cmp(&other.change()))
            // Of refusals the one that says more.
            .then_with(|| other.cut.cmp(&self.cut))
            .is_lt()
    }
}

/// Why a model is not repacked: how many layers are not held, and an example of each reason.
fn refusal<S: LayerShape>(model: &ModelDescription, format: &str, choice: &Choice<S>) -> Error {
    let (taken, kept) = (choice.layers().count(), choice.kept.len());
    if taken + kept == 0 {
        let name = &model.format;
        return Error::unsupported(format!(
            "the {name} model has no quantized layers in blocks"
        ));
    }
    let mut reasons: BTreeMap<&str, &str> = BTreeMap::new();
    for kept in &choice.kept {
        reasons.entry(&kept.reason).or_insert(kind_of(&kept.module));
    }
    let reasons = reasons
        .iter()
        .map(|(reason, kind)| format!("{reason} ({kind})"));
    Error::unsupported(format!(
        "{kept} of {} layers cannot be taken over as {format}: {}",
        taken + kept,
        reasons.collect::<Vec<String>>().join("; ")
    ))
    .suggest("quantize it anew with --route requantize, or choose another format")
}

/// Notes in a plan how quantized weights come into it: layers by their `fits`, or anew; all
/// others as plain numbers. The plan's tensors are the model's, in its order.
pub fn note_routes<S: LayerShape>(
    plan: &mut Plan,
    model: &ModelDescription,
    choice: &Choice<S>,
    fits: &HashMap<usize, Fit>,
) {
    let anew = choice
        .layers()
        .map(|layer| (layer.tensor, Route::Requantized));
    let mut routes: HashMap<usize, Route> = anew.collect();
    routes.extend(fits.iter().map(|(tensor, fit)| (*tensor, fit.route())));
    let tensors = model.tensors.iter().zip(&mut plan.tensors).enumerate();
    for (place, (tensor, planned)) in tensors.filter(|(_, (tensor, _))| is_quantized(tensor)) {
        let _ = tensor;
        planned.route = Some(routes.get(&place).copied().unwrap_or(Route::Decoded));
    }
}

/// The group sizes that may be tried: the one that was asked for, or all, a whole row first.
#[must_use]
pub fn sizes_to_try(asked: Option<i64>, known: &[i64]) -> Vec<i64> {
    match asked {
        Some(size) => vec![size],
        None => {
            let mut sizes = known.to_vec();
            // From large to small: the fewest scales first.
            sizes.sort_by_key(|size| match *size {
                WHOLE_ROW => i64::MIN,
                size => -size,
            });
            sizes
        }
    }
}

#[cfg(test)]
mod tests;
