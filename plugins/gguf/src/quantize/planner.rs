//! From a draft to a plan: types, order, metadata, files, units.

use std::ops::Range;

use llm_quantize_plugin_api::{
    Container, ElementType, Error, ErrorKind, FileContent, Host, Literal, ModelDescription,
    OutputFile, Plan, PlannedTensor, Result, RowSplit, Span, Unit, UnitInput,
};

use super::draft::{Content, Draft, DraftTensor};
use super::importance::ImportanceMatrix;
use super::job::{Action, Encoding, GgufJob, is_stored_as};
use super::request::Wishes;
use crate::blocks::{BlockType, TypeLayout};
use crate::container::{Metadata, TensorSpec, layout, type_layout};
use crate::families::Transform;
use crate::levels::Level;
use crate::metadata::QUANTIZATION_VERSION;
use crate::mixture::{ModelFacts, Role, SourceTensor, Target, choose_types, walking_order};
use crate::shards;

const VERSION_KEY: &str = "general.quantization_version";
const FILE_TYPE: &str = "general.file_type";

/// A tensor whose type is chosen.
struct Typed {
    tensor: DraftTensor,
    ty: TypeLayout,
    target: Target,
    note: Option<String>,
}

/// Plans a draft at a level.
///
/// # Errors
/// If a wish does not fit, a tensor would be quantized twice without being asked for,
/// or the importance matrix belongs to another model.
pub fn plan(
    host: Host,
    draft: Draft,
    level: &Level,
    wishes: &Wishes,
    imatrix: Option<&ImportanceMatrix<'_>>,
    model: &ModelDescription,
    stem: &str,
) -> Result<GgufJob> {
    let quantizing = !is_plain(level.base);
    let mut metadata = draft.metadata;
    let mut warnings = draft.warnings;
    let mut tensors = choose(&metadata, draft.tensors, level, wishes)?;
    if !wishes.allow_requantize {
        refuse_requantizing(&tensors)?;
    }
    if draft.from_gguf || quantizing {
        // llama-quantize walks and writes in this order, and its setters move keys to
        // the end.
        tensors.sort_by(|a, b| walking_order(&a.tensor.name, &b.tensor.name));
        metadata.set(VERSION_KEY, QUANTIZATION_VERSION);
        metadata.set(FILE_TYPE, level.file_type);
    } else {
        metadata.set_in_place(FILE_TYPE, level.file_type);
    }
    if let Some(imatrix) = imatrix {
        imatrix.add_metadata(&mut metadata);
        warnings.extend(
            imatrix.check(
                tensors
                    .iter()
                    .map(|t| (t.tensor.name.as_str(), t.tensor.dims.as_slice())),
            )?,
        );
    }
    warnings.extend(fallback_warning(&tensors));
    let mut builder = Builder {
        model,
        level,
        imatrix,
        plan: Plan {
            level: level.name.into(),
            container: Container::Files,
            warnings,
            ..Plan::default()
        },
        blobs: Vec::new(),
        encodings: Vec::new(),
    };
    builder.files(&metadata, &tensors, wishes.split_max_size, stem)?;
    Ok(GgufJob {
        host,
        plan: builder.plan,
        blobs: builder.blobs,
        encodings: builder.encodings,
    })
}

fn is_plain(ty: BlockType) -> bool {
    matches!(ty, BlockType::F32 | BlockType::F16 | BlockType::BF16)
}

fn choose(
    metadata: &Metadata,
    tensors: Vec<DraftTensor>,
    level: &Level,
    wishes: &Wishes,
) -> Result<Vec<Typed>> {
    let facts = ModelFacts::from_metadata(metadata).map_err(|e| Error::corrupt(e.to_string()))?;
    let sources: Vec<SourceTensor<'_>> = tensors
        .iter()
        .map(|tensor| SourceTensor {
            name: &tensor.name,
            dims: &tensor.dims,
            ty: tensor.ty,
        })
        .collect();
    let choices = choose_types(&sources, level, &facts, &wishes.mixture)
        .map_err(|error| Error::invalid_request(error.to_string()))?;
    let typed = tensors
        .into_iter()
        .zip(choices)
        .map(|(tensor, choice)| Typed {
            ty: match choice.target {
                Target::Keep => tensor.ty,
                Target::Encode(ty) => type_layout(ty),
            },
            target: choice.target,
            note: choice.note.map(|note| note.to_string()),
            tensor,
        });
    Ok(typed.collect())
}

/// A tensor that is quantized already loses twice; llama-quantize refuses it, too.
fn refuse_requantizing(tensors: &[Typed]) -> Result<()> {
    let twice = tensors.iter().find(|typed| {
        let plain = BlockType::from_id(typed.tensor.ty.id).is_ok_and(is_plain);
        typed.target != Target::Keep && !plain
    });
    let Some(typed) = twice else { return Ok(()) };
    Err(Error::invalid_request(format!(
        "the tensor \"{}\" is quantized already ({}); quantizing it again to {} costs quality",
        typed.tensor.name, typed.tensor.ty.name, typed.ty.name
    ))
    .suggest("start from the original model, or accept the loss with --set allow-requantize=true"))
}

/// One line for all tensors whose shape demanded another type.
fn fallback_warning(tensors: &[Typed]) -> Option<String> {
    let notes: Vec<&String> = tensors.iter().filter_map(|t| t.note.as_ref()).collect();
    let first = notes.first()?;
    Some(format!(
        "{} of {} tensors have rows that do not fit their type's blocks and take another one (e.g. {first}); --dry-run lists them",
        notes.len(),
        tensors.len()
    ))
}

struct Builder<'a> {
    model: &'a ModelDescription,
    level: &'a Level,
    imatrix: Option<&'a ImportanceMatrix<'a>>,
    plan: Plan,
    blobs: Vec<Vec<u8>>,
    encodings: Vec<Encoding>,
}

impl Builder<'_> {
    fn files(
        &mut self,
        metadata: &Metadata,
        tensors: &[Typed],
        split: Option<u64>,
        stem: &str,
    ) -> Result<()> {
        let invalid = |error: shards::ShardError| Error::invalid_request(error.to_string());
        let specs: Vec<TensorSpec<'_>> = tensors.iter().map(Typed::spec).collect();
        let parts = match split {
            Some(max_size) => shards::divide(&specs, max_size).map_err(invalid)?,
            None => whole(tensors.len()),
        };
        if parts.len() == 1 {
            return self.file(format!("{stem}.gguf"), metadata, tensors);
        }
        let count = parts.len();
        let all = shards::shard_metadata(metadata, count, tensors.len()).map_err(invalid)?;
        for (no, (part, metadata)) in parts.into_iter().zip(&all).enumerate() {
            self.file(
                shards::shard_name(stem, no, count),
                metadata,
                &tensors[part],
            )?;
        }
        Ok(())
    }

    fn file(&mut self, name: String, metadata: &Metadata, tensors: &[Typed]) -> Result<()> {
        let specs: Vec<TensorSpec<'_>> = tensors.iter().map(Typed::spec).collect();
        let placed = layout(metadata, &specs).map_err(|e| Error::unsupported(e.to_string()))?;
        let file = self.plan.files.len();
        self.literal(file, 0, placed.header);
        for (typed, range) in tensors.iter().zip(placed.tensors) {
            self.tensor(file, typed, range)?;
        }
        self.plan.files.push(OutputFile {
            name,
            size: placed.file_size,
            content: FileContent::Built,
        });
        Ok(())
    }

    fn tensor(&mut self, file: usize, typed: &Typed, range: Range<u64>) -> Result<()> {
        let len = range.end - range.start;
        self.plan.tensors.push(PlannedTensor {
            name: typed.tensor.name.clone(),
            dtype: typed.ty.name.into(),
            shape: typed.tensor.dims.iter().rev().copied().collect(),
            bytes: len,
            note: typed.note.clone(),
        });
        match &typed.tensor.content {
            Content::Values(values) => {
                let bytes = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                self.literal(file, range.start, bytes);
            }
            Content::Source { index, transform } => {
                let span = Span {
                    file,
                    offset: range.start,
                    len,
                };
                self.unit(typed, *index, *transform, span)?;
            }
        }
        Ok(())
    }

    fn literal(&mut self, file: usize, offset: u64, bytes: Vec<u8>) {
        self.plan.literals.push(Literal {
            file,
            offset,
            len: bytes.len() as u64,
            blob: self.blobs.len(),
        });
        self.blobs.push(bytes);
    }

    fn unit(
        &mut self,
        typed: &Typed,
        index: usize,
        transform: Transform,
        span: Span,
    ) -> Result<()> {
        let missing = || Error::internal(format!("there is no tensor {index}"));
        let source = self.model.tensors.get(index).ok_or_else(missing)?;
        let rows = source.rows().ok_or_else(missing)?;
        let (action, raw) = self.action(typed, &source.dtype)?;
        self.plan.units.push(Unit {
            label: typed.tensor.name.clone(),
            layer: typed.tensor.layer,
            inputs: vec![UnitInput {
                raw,
                ..UnitInput::rows_of(index)
            }],
            outputs: vec![span],
            split: (rows > 0).then_some(RowSplit {
                rows,
                step: match transform {
                    Transform::PermuteRows { head_rows, .. } if rows > 1 => head_rows.max(1),
                    _ => 1,
                },
            }),
            statistics: Vec::new(),
            scratch_bytes: 0,
        });
        self.encodings.push(Encoding {
            name: typed.tensor.name.clone(),
            action,
            transform,
        });
        Ok(())
    }

    /// What is done with the rows, and whether they are wanted as stored bytes.
    fn action(&self, typed: &Typed, stored: &str) -> Result<(Action, bool)> {
        let same_type = stored.eq_ignore_ascii_case(typed.ty.name);
        // Also for types without a codec: they can only be copied.
        if self.model.format == super::FORMAT && same_type {
            return Ok((Action::Copy, true));
        }
        let ty = BlockType::from_id(typed.ty.id).map_err(|e| Error::unsupported(e.to_string()))?;
        let element = ElementType::from_dtype(stored);
        if element.is_some_and(|element| is_stored_as(element, ty)) {
            return Ok((Action::Copy, false));
        }
        let importance = match self.imatrix.filter(|_| !is_plain(ty)) {
            Some(imatrix) => imatrix.of(&typed.tensor.name, &typed.tensor.dims)?,
            None => None,
        };
        if importance.is_none() {
            self.check_required(&typed.tensor.name, ty)?;
        }
        Ok((Action::Encode { ty, importance }, false))
    }

    /// Refuses a tensor that would be of no use without importance weights.
    fn check_required(&self, tensor: &str, ty: BlockType) -> Result<()> {
        let exempt = matches!(Role::of(tensor), Role::Output | Role::TokenEmbd);
        if exempt || !self.level.requires_imatrix(ty) {
            return Ok(());
        }
        let level = self.level.name;
        let message = match self.imatrix {
            None => format!(
                "{level} needs an importance matrix: without one the tensor \"{tensor}\" at {ty} would be of no use"
            ),
            Some(_) => format!(
                "{level} needs importance weights for the tensor \"{tensor}\" ({ty}), and the importance matrix has none"
            ),
        };
        Err(Error::new(ErrorKind::ImportanceMatrix, message).suggest(
            "measure one with llama-imatrix and name it with --imatrix, or choose another level",
        ))
    }
}

impl Typed {
    fn spec(&self) -> TensorSpec<'_> {
        TensorSpec {
            name: &self.tensor.name,
            dims: &self.tensor.dims,
            ty: self.ty,
        }
    }
}

/// One part with everything.
fn whole(count: usize) -> Vec<Range<usize>> {
    std::iter::once(0..count).collect()
}
