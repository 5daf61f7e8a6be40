//! Which tensors of a family a model was seen to have.

use llm_quantize_plugin_api::{Error, Result};

use super::rules::{Presence, TensorRule, fit};
use super::{Family, Hyperparameters, Transform};

/// Names a message lists before it says how many more there are.
const LISTED: usize = 5;

/// One of the two sides of a mapping.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    /// Names as in a Hugging Face model, numbers from its configuration.
    HuggingFace,
    /// Names as in a GGUF file, numbers from its keys.
    Gguf,
}

impl Side {
    fn pattern(self, rule: &TensorRule) -> &'static str {
        match self {
            Self::HuggingFace => rule.hf,
            Self::Gguf => rule.gguf,
        }
    }

    /// Tensors of a rule in a layer.
    fn per_layer(self, rule: &TensorRule, model: &Hyperparameters) -> usize {
        let experts = model.experts.map_or(0, |experts| experts.count);
        match (self, rule.per_expert()) {
            (Self::HuggingFace, true) => usize::try_from(experts).unwrap_or(usize::MAX),
            _ => 1,
        }
    }

    /// The name of the tensor in a slot of a rule that has so many in each layer.
    fn name(self, rule: &TensorRule, slot: usize, per_layer: usize) -> String {
        let [layer, expert] = [slot / per_layer.max(1), slot % per_layer.max(1)];
        match self {
            Self::HuggingFace => rule.hf_name(layer as u32, expert as u32),
            Self::Gguf => rule.gguf_name(layer as u32),
        }
    }

    /// Where the numbers come from, for messages.
    pub(super) fn numbers(self) -> &'static str {
        match self {
            Self::HuggingFace => "config.json",
            Self::Gguf => "the file's metadata",
        }
    }
}

/// A family's rules, and for each the layers in which its tensor was seen.
pub(super) struct Ledger<'a> {
    family: &'static Family,
    model: &'a Hyperparameters,
    side: Side,
    entries: Vec<Entry>,
}

struct Entry {
    presence: Presence,
    rule: &'static TensorRule,
    /// Tensors in each layer: one, or one of each expert.
    per_layer: usize,
    seen: Vec<bool>,
}

/// A tensor's place in its family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    entry: usize,
    /// The rule.
    pub(super) rule: &'static TensorRule,
    /// The layer, if there is one tensor in each.
    pub(super) layer: Option<u32>,
    /// The expert, if there is one tensor of each.
    pub(super) expert: Option<u32>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(family: &'static Family, model: &'a Hyperparameters, side: Side) -> Self {
        // Layers and experts have been checked to be no more than llama.cpp loads.
        let entries = family.rules().map(|(presence, rule)| {
            let per_layer = side.per_layer(rule, model);
            let layers = match rule.per_layer() {
                true => model.layers as usize,
                false => 1,
            };
            Entry {
                presence,
                rule,
                per_layer,
                seen: vec![false; layers * per_layer],
            }
        });
        Self {
            family,
            model,
            side,
            entries: entries.collect(),
        }
    }

    /// The place of the tensor with this name; `None` if the family has none.
    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.entries.iter().enumerate().find_map(|(at, entry)| {
            fit(self.side.pattern(entry.rule), name).map(|numbers| Place {
                entry: at,
                rule: entry.rule,
                layer: numbers.layer,
                expert: numbers.expert,
            })
        })
    }

    /// Notes that a tensor is there.
    ///
    /// # Errors
    /// If it is there twice, or in a layer or of an expert that the model does not have.
    pub(super) fn note(&mut self, place: Place, name: &str) -> Result<()> {
        let [layer, expert] = [place.layer, place.expert].map(|n| n.unwrap_or(0) as usize);
        let entry = self.entries.get_mut(place.entry);
        let slot = entry
            .filter(|entry| expert < entry.per_layer)
            .and_then(|entry| {
                let first = layer.checked_mul(entry.per_layer)?;
                entry.seen.get_mut(first..)?.get_mut(expert)
            });
        let Some(slot) = slot else {
            let what = match place.expert {
                Some(_) => "a layer or an expert beyond those",
                None => "a layer beyond those",
            };
            return Err(Error::corrupt(format!(
                "the tensor \"{name}\" belongs to {what} that {} names ({} layers)",
                self.side.numbers(),
                self.model.layers,
            )));
        };
        if std::mem::replace(slot, true) {
            return Err(Error::corrupt(format!(
                "the tensor \"{name}\" is there twice"
            )));
        }
        Ok(())
    }

    /// What is to be done with the rows of a tensor.
    pub(super) fn transform(&self, rule: &TensorRule) -> Transform {
        if self.family.norms_plus_one && rule.gguf.ends_with("norm.weight") {
            return Transform::AddOne;
        }
        if !(self.family.interleaved && rule.rotary) {
            return Transform::None;
        }
        let rows = rule.shape(self.model).first().copied().unwrap_or(0);
        Transform::PermuteRows {
            heads: rows / self.model.head_dim,
            head_rows: self.model.head_dim,
        }
    }

    /// Whether the embeddings serve as output head, because there is no other.
    pub(super) fn tied(&self) -> bool {
        let mut heads = self.with(|presence| presence == Presence::UnlessTied);
        heads.all(|entry| !entry.any())
    }

    /// The configuration's flags that tensors depend on, and whether any such is there.
    pub(super) fn flags(&self) -> Vec<(&'static str, bool)> {
        let mut flags: Vec<(&'static str, bool)> = Vec::new();
        for entry in &self.entries {
            let Presence::Flag(key) = entry.presence else {
                continue;
            };
            match flags.iter_mut().find(|(known, _)| *known == key) {
                Some((_, set)) => *set |= entry.any(),
                None => flags.push((key, entry.any())),
            }
        }
        flags
    }

    /// Checks that all needed tensors are there, and others in all layers or in none.
    ///
    /// # Errors
    /// Names what is missing.
    pub(super) fn complete(&self, needed: impl Fn(Presence) -> bool) -> Result<()> {
        let mut missing = Vec::new();
        for entry in self.with(|_| true) {
            if entry.any() || needed(entry.presence) {
                let slots = entry.seen.iter().enumerate().filter(|(_, seen)| !**seen);
                let name = |slot| self.side.name(entry.rule, slot, entry.per_layer);
                missing.extend(slots.map(|(slot, _)| name(slot)));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "the model lacks {} of its tensors: {}",
            missing.len(),
            listed(&missing)
        ))
        .suggest(format!(
            "check that all files of the model are there and that {} is right",
            self.side.numbers()
        )))
    }

    fn with(&self, wanted: impl Fn(Presence) -> bool) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| wanted(entry.presence))
    }
}

impl Entry {
    fn any(&self) -> bool {
        self.seen.contains(&true)
    }
}

/// The first names of a list, in quotes, and how many more there are.
pub(super) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let shown = names.iter().take(LISTED);
    let shown: Vec<String> = shown.map(|name| format!("\"{}\"", name.as_ref())).collect();
    let rest = match names.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &rest
}
