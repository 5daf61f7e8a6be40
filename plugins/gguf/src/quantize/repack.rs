//! Which tensors take over the groups of another format, and as what type.

use std::collections::{BTreeMap, HashMap};

use llm_quantize_plugin_api::hf_folder::plain_dtype;
use llm_quantize_plugin_api::regroup::{Fit, Grouped};
use llm_quantize_plugin_api::{
    ElementType, Error, GroupFacts, ModelDescription, PlanRequest, Result,
};

use super::draft::{Content, DraftTensor};
use super::planner::Typed;
use super::request;
use crate::blocks::BlockType;
use crate::blocks::groups::{GROUP, GROUPED, arrangement, pack};
use crate::container::type_layout;
use crate::levels::Level;
use crate::mixture::{MixtureOptions, Role, Target, is_quantized};

/// The part of the quantized weights that must be held: with fewer, most of the model would stay
/// in 16 bits.
const ENOUGH: f64 = 0.5;

/// What may be done.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The one level that was asked for, if any: then the one type.
    pub level: Option<&'static Level>,
    /// Whether scales and zeros may not be rounded.
    pub exact: bool,
    /// Types that were asked for of tensors that are not quantized in the source.
    pub types: &'a MixtureOptions,
}

impl<'a> Terms<'a> {
    /// What a request leaves open.
    ///
    /// # Errors
    /// If the level is none that holds groups, or an option has no meaning here.
    pub fn of(request: &PlanRequest, types: &'a MixtureOptions, exact: bool) -> Result<Self> {
        request::refuse_mixing(request)?;
        let level = match request.level.is_empty() {
            true => None,
            false => Some(super::level(&request.level)?),
        };
        let holds = level.is_none_or(|level| arrangement(level.base).is_some());
        if let (Some(level), false) = (level, holds) {
            let names = GROUPED.map(BlockType::name).join(", ");
            return Err(Error::unsupported(format!(
                "{} does not hold groups of codes as they are; {names} do",
                level.name
            ))
            .suggest("quantize it anew with --route requantize"));
        }
        Ok(Self {
            level,
            exact,
            types,
        })
    }

    /// The smallest type that holds the groups of all these tensors, and how well.
    fn best(
        &self,
        model: &ModelDescription,
        sources: &[usize],
    ) -> std::result::Result<(BlockType, Fit), String> {
        let mut all = Vec::with_capacity(sources.len());
        for source in sources {
            let Some(info) = model.tensors.get(*source) else {
                return Err("it is not there".into());
            };
            let Some(facts) = model.groups.get(source) else {
                return Err(format!("its type {} is not codes in groups", info.dtype));
            };
            if !facts.in_order {
                return Err("its columns are grouped in the order of their activations".into());
            }
            if !facts.can_be_cut(info.cols(), GROUP as u64) {
                let size = facts.group_size;
                return Err(format!(
                    "its groups of {size} cannot be cut into such of {GROUP}"
                ));
            }
            all.push(facts);
        }
        self.smallest(&all).ok_or_else(|| {
            let bits = all.iter().map(|facts| facts.bits).max().unwrap_or(0);
            format!("its {bits}-bit codes, zeros or scales have no place in that type")
        })
    }

    fn smallest(&self, all: &[&GroupFacts]) -> Option<(BlockType, Fit)> {
        let allowed = GROUPED.into_iter();
        let allowed = allowed.filter(|ty| self.level.is_none_or(|level| level.base == *ty));
        let mut types = allowed.filter_map(|ty| {
            let (bits, zeros) = arrangement(ty)?;
            let fits = all.iter().map(|facts| facts.fit(bits, zeros));
            let fits = fits.collect::<Option<Vec<Fit>>>()?;
            let worst = fits.into_iter().max_by(|a, b| a.compare(*b))?;
            (worst == Fit::Exact || !self.exact).then_some((ty, worst))
        });
        types.next()
    }
}

/// Gives every tensor its type: of those that are quantized in the source the smallest that holds
/// their groups, else 16 bits. Returns also the level that most of them make.
///
/// # Errors
/// [`Unsupported`](llm_quantize_plugin_api::ErrorKind::Unsupported) if less than half of the
/// quantized weights are held, with the reasons.
pub fn choose(
    architecture: &str,
    tensors: Vec<DraftTensor>,
    model: &ModelDescription,
    terms: &Terms<'_>,
) -> Result<(Vec<Typed>, &'static Level)> {
    let mut tally = Tally::default();
    let typed = tensors.into_iter().map(|tensor| {
        let choice = Choice::of(architecture, &tensor, model, terms);
        tally.add(&tensor, &choice);
        Typed {
            ty: choice.ty.map_or(tensor.ty, type_layout),
            target: choice.ty.map_or(Target::Keep, Target::Encode),
            note: choice.reason,
            fit: choice.fit,
            tensor,
        }
    });
    let typed = typed.collect();
    let level = tally.level(terms)?;
    Ok((typed, level))
}

/// What becomes of a tensor.
struct Choice {
    /// Its type; `None` to keep the draft's.
    ty: Option<BlockType>,
    fit: Option<Fit>,
    /// Why its groups are not taken over, if it is quantized.
    reason: Option<String>,
}

impl Choice {
    fn of(
        architecture: &str,
        tensor: &DraftTensor,
        model: &ModelDescription,
        terms: &Terms<'_>,
    ) -> Self {
        let keep = Self {
            ty: None,
            fit: None,
            reason: None,
        };
        let Content::Source { sources, .. } = &tensor.content else {
            return keep;
        };
        let first = sources.first().and_then(|first| model.tensors.get(*first));
        let Some(source) = first else {
            return keep;
        };
        let wanted = match Role::of(&tensor.name) {
            Role::Output => terms.types.output_type,
            Role::TokenEmbd => terms.types.token_embedding_type,
            _ => None,
        };
        if ElementType::from_dtype(&source.dtype).is_some() {
            return Self { ty: wanted, ..keep };
        }
        if !is_quantized(architecture, &tensor.name, &tensor.dims) {
            return keep;
        }
        match terms.best(model, sources) {
            Ok((ty, fit)) => Self {
                ty: Some(ty),
                fit: Some(fit),
                reason: None,
            },
            Err(reason) => Self {
                ty: Some(wanted.unwrap_or(match plain_dtype(model, source) {
                    ElementType::F16 => BlockType::F16,
                    ElementType::F32 => BlockType::F32,
                    ElementType::BF16 | ElementType::Raw => BlockType::BF16,
                })),
                fit: None,
                reason: Some(reason),
            },
        }
    }
}

/// What became of all quantized weights.
#[derive(Default)]
struct Tally {
    /// Weights by their type.
    held: HashMap<BlockType, u64>,
    weights: u64,
    tensors: usize,
    /// Tensors that are not held by the reason, with the name of the first.
    reasons: BTreeMap<String, (usize, String)>,
}

impl Tally {
    fn add(&mut self, tensor: &DraftTensor, choice: &Choice) {
        let weights = tensor
            .dims
            .iter()
            .fold(1u64, |n, dim| n.saturating_mul(*dim));
        if let (Some(ty), Some(_)) = (choice.ty, choice.fit) {
            let held = self.held.entry(ty).or_default();
            *held = held.saturating_add(weights);
        } else if let Some(reason) = &choice.reason {
            let first = || (0, tensor.name.clone());
            self.reasons.entry(reason.clone()).or_insert_with(first).0 += 1;
        } else {
            return;
        }
        self.tensors += 1;
        self.weights = self.weights.saturating_add(weights);
    }

    /// The level whose type most weights have.
    fn level(&self, terms: &Terms<'_>) -> Result<&'static Level> {
        let held: u64 = self.held.values().sum();
        if held == 0 || (held as f64) < ENOUGH * self.weights as f64 {
            return Err(self.refusal());
        }
        let most = self
            .held
            .iter()
            .max_by_key(|(ty, weights)| (**weights, **ty));
        let level = most.and_then(|(ty, _)| Level::find(ty.name()));
        let level = terms.level.or(level);
        level.ok_or_else(|| Error::internal("a type without a level"))
    }

    fn refusal(&self) -> Error {
        let count: usize = self.reasons.values().map(|(count, _)| count).sum();
        if count == 0 {
            return Error::unsupported("the model has no quantized weights");
        }
        let reasons = self.reasons.iter();
        let reasons = reasons.map(|(reason, (_, name))| format!("{reason} ({name})"));
        Error::unsupported(format!(
            "{count} of {} quantized tensors cannot be taken over as GGUF: {}",
            self.tensors,
            reasons.collect::<Vec<String>>().join("; ")
        ))
        .suggest("quantize it anew with --route requantize")
    }
}

/// Packs a row of groups into blocks of a type.
///
/// # Errors
/// If they do not fit: they are others than what was planned with.
pub fn pack_row(groups: &Grouped<'_>, row: usize, ty: BlockType, out: &mut [u8]) -> Result<()> {
    let blocks = out.chunks_exact_mut(ty.block_bytes());
    for ((codes, scale, zero), block) in groups.row(row, GROUP).zip(blocks) {
        if !pack(ty, codes, scale, zero, block) {
            return Err(Error::internal(format!("a group does not fit into {ty}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
