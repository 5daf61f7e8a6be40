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

    fn name(self, rule: &TensorRule, layer: u32) -> String {
        match self {
            Self::HuggingFace => rule.hf_name(layer),
            Self::Gguf => rule.gguf_name(layer),
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
}

impl<'a> Ledger<'a> {
    pub(super) fn new(family: &'static Family, model: &'a Hyperparameters, side: Side) -> Self {
        let slots = |rule: &TensorRule| match rule.per_layer() {
            true => model.layers as usize,
            false => 1,
        };
        let entries = family.rules().map(|(presence, rule)| Entry {
            presence,
            rule,
            seen: vec![false; slots(rule)],
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
            fit(self.side.pattern(entry.rule), name).map(|layer| Place {
                entry: at,
                rule: entry.rule,
                layer,
            })
        })
    }

    /// Notes that a tensor is there.
    ///
    /// # Errors
    /// If it is there twice, or in a layer that the model does not have.
    pub(super) fn note(&mut self, place: Place, name: &str) -> Result<()> {
        let slots = self
            .entries
            .get_mut(place.entry)
            .map(|entry| &mut entry.seen);
        let slot = slots.and_then(|slots| slots.get_mut(place.layer.unwrap_or(0) as usize));
        let Some(slot) = slot else {
            return Err(Error::corrupt(format!(
                "the tensor \"{name}\" belongs to a layer beyond the {} that {} names",
                self.model.layers,
                self.side.numbers()
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
        heads.any(|entry| !entry.any())
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
                let layers = entry.seen.iter().zip(0u32..).filter(|(seen, _)| !**seen);
                missing.extend(layers.map(|(_, layer)| self.side.name(entry.rule, layer)));
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
