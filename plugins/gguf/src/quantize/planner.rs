//! From a draft to a plan: types, order, metadata, files, units.

use std::ops::Range;

use llm_quantize_plugin_api::regroup::Fit;
use llm_quantize_plugin_api::{
    CalibrationPlan, Container, ElementType, Error, FileContent, Flow, Grain, Host, Literal,
    ModelDescription, OutputFile, Plan, PlanRequest, PlannedTensor, Result, Route, Routing,
    RowSplit, Span, TensorInfo, Unit, UnitInput,
};

use super::draft::{Content, Draft, DraftTensor};
use super::importance::{ImportanceSource, Weighing};
use super::job::{Action, Encoding, GgufJob, is_stored_as};
use super::repack::{self, Terms};
use super::request::Wishes;
use super::sites::{is_measured, site_of};
use crate::blocks::{BlockType, TypeLayout};
use crate::container::{Metadata, TensorSpec, layout, type_layout};
use crate::families::{Family, Transform};
use crate::imatrix::{record_measurement, statistics};
use crate::levels::Level;
use crate::metadata::QUANTIZATION_VERSION;
use crate::mixture::{ModelFacts, Role, SourceTensor, Target, choose_types, walking_order};
use crate::shards;

const VERSION_KEY: &str = "general.quantization_version";
const FILE_TYPE: &str = "general.file_type";

/// A tensor whose type is chosen.
pub(super) struct Typed {
    pub tensor: DraftTensor,
    pub ty: TypeLayout,
    pub target: Target,
    pub note: Option<String>,
    /// How well it holds the source's groups, if it takes them over.
    pub fit: Option<Fit>,
}

/// Plans a draft at the level of a request, or at the one that its groups make.
///
/// # Errors
/// If a wish does not fit, a tensor would be quantized twice without being asked for,
/// or the importance matrix belongs to another model.
pub fn plan(
    host: Host,
    draft: Draft,
    wishes: &Wishes,
    importance: &ImportanceSource<'_>,
    model: &ModelDescription,
    request: &PlanRequest,
) -> Result<GgufJob> {
    let mut metadata = draft.metadata;
    let mut warnings = draft.warnings;
    let facts = ModelFacts::from_metadata(&metadata).map_err(|e| Error::corrupt(e.to_string()))?;
    let (mut tensors, level) = match request.routing {
        Routing::Quantize => {
            let level = super::level(&request.level)?;
            (choose(&facts, draft.tensors, level, wishes)?, level)
        }
        Routing::Repack { exact } => {
            let terms = Terms::of(request, &wishes.mixture, exact)?;
            repack::choose(&facts.architecture, draft.tensors, model, &terms)?
        }
    };
    if !wishes.allow_requantize {
        refuse_requantizing(&tensors)?;
    }
    let quantizing = !is_plain(level.base);
    if draft.from_gguf || quantizing {
        // llama-quantize walks and writes in this order, and its setters move keys to
        // the end.
        tensors.sort_by(|a, b| walking_order(&a.tensor.name, &b.tensor.name));
        metadata.set(VERSION_KEY, QUANTIZATION_VERSION);
        metadata.set(FILE_TYPE, level.file_type);
    } else {
        metadata.set_in_place(FILE_TYPE, level.file_type);
    }
    let mut builder = Builder {
        model,
        level,
        importance,
        family: draft.family,
        architecture: facts.architecture,
        native: draft.from_gguf,
        plan: Plan {
            level: level.name.into(),
            container: Container::Files,
            ..Plan::default()
        },
        blobs: Vec::new(),
        encodings: Vec::new(),
    };
    warnings.extend(builder.note_importance(&tensors, &mut metadata)?);
    warnings.extend(match request.routing {
        Routing::Quantize => fallback_warning(&tensors),
        Routing::Repack { .. } => kept_warning(&tensors),
    });
    builder.plan.warnings = warnings;
    let stem = super::output_stem(request, &model.name, level);
    builder.files(&metadata, &tensors, wishes.split_max_size, &stem)?;
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
    facts: &ModelFacts,
    tensors: Vec<DraftTensor>,
    level: &Level,
    wishes: &Wishes,
) -> Result<Vec<Typed>> {
    let sources: Vec<SourceTensor<'_>> = tensors
        .iter()
        .map(|tensor| SourceTensor {
            name: &tensor.name,
            dims: &tensor.dims,
            ty: tensor.ty,
        })
        .collect();
    let choices = choose_types(&sources, level, facts, &wishes.mixture)
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
            fit: None,
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

/// One line for all tensors whose groups are not taken over.
fn kept_warning(tensors: &[Typed]) -> Option<String> {
    let notes = tensors.iter().filter(|typed| typed.note.is_some());
    let first = notes.clone().next()?;
    let (name, note) = (&first.tensor.name, first.note.as_deref()?);
    Some(format!(
        "{} tensors stay in 16 bits (e.g. {name}: {note}); --dry-run lists them",
        notes.count()
    ))
}

struct Builder<'a> {
    model: &'a ModelDescription,
    level: &'a Level,
    importance: &'a ImportanceSource<'a>,
    family: Option<&'static Family>,
    architecture: String,
    /// Whether the source's view is the native one of a GGUF file.
    native: bool,
    plan: Plan,
    blobs: Vec<Vec<u8>>,
    encodings: Vec<Encoding>,
}

/// How the source's rows become those of the file.
enum Conversion {
    /// They are the same bytes, of whatever type.
    Stored,
    /// They are numbers of this plain type already.
    Numbers(BlockType),
    /// They are encoded.
    Encode(BlockType),
    /// Their groups are packed.
    Repack(BlockType),
}

impl Builder<'_> {
    /// Notes in the metadata where the importance of columns comes from, and in the plan how
    /// statistics are to be had if units will ask for them; returns what the user should know.
    fn note_importance(
        &mut self,
        tensors: &[Typed],
        metadata: &mut Metadata,
    ) -> Result<Vec<String>> {
        match self.importance {
            ImportanceSource::None => Ok(Vec::new()),
            ImportanceSource::Matrix(matrix) => {
                matrix.add_metadata(metadata);
                let tensors = tensors.iter().map(|typed| &typed.tensor);
                matrix.check(tensors.map(|t| (t.name.as_str(), t.dims.as_slice())))
            }
            ImportanceSource::Calibration(text) => {
                let measured = tensors.iter().filter(|typed| self.is_measured(typed));
                let entries = measured.clone().count();
                let asking = measured.map(|typed| self.asks(typed));
                // The host tells the user if nothing comes of the text.
                if asking.collect::<Result<Vec<_>>>()?.contains(&true) {
                    let dataset = Some(text.dataset.as_bytes());
                    record_measurement(metadata, dataset, entries, text.samples);
                    self.plan.calibration = Some(CalibrationPlan {
                        grain: Grain::Block,
                        flow: Flow::Original,
                    });
                }
                Ok(Vec::new())
            }
        }
    }

    /// Whether an analysis of the model has an entry for the tensor.
    fn is_measured(&self, typed: &Typed) -> bool {
        is_measured(&self.architecture, &typed.tensor.name, &typed.tensor.dims)
    }

    /// Whether a tensor that is measured is of a type that makes use of it.
    fn asks(&self, typed: &Typed) -> Result<bool> {
        let Content::Source { sources, .. } = &typed.tensor.content else {
            return Ok(false);
        };
        let conversion = self.conversion(typed, self.first_source(sources)?)?;
        Ok(matches!(conversion, Conversion::Encode(ty) if ty.takes_importance()))
    }

    /// What a tensor is made of; of a stack the first expert's, which stands for all.
    fn first_source(&self, sources: &[usize]) -> Result<&TensorInfo> {
        self.source(sources.first().copied().unwrap_or(usize::MAX))
    }

    fn source(&self, index: usize) -> Result<&TensorInfo> {
        let found = self.model.tensors.get(index);
        found.ok_or_else(|| Error::internal(format!("there is no tensor {index}")))
    }

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
            route: self.route(typed)?,
        });
        match &typed.tensor.content {
            Content::Values(values) => {
                let bytes = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                self.literal(file, range.start, bytes);
            }
            Content::Source { sources, transform } => {
                // Experts lie one after the other, each as long as the others.
                let part = len / (sources.len() as u64).max(1);
                for (number, source) in (0u64..).zip(sources) {
                    let span = Span {
                        file,
                        offset: range.start + number * part,
                        len: part,
                    };
                    self.unit(typed, *source, number, *transform, span)?;
                }
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
        expert: u64,
        transform: Transform,
        span: Span,
    ) -> Result<()> {
        let source = self.source(index)?;
        let uncounted = || Error::internal(format!("\"{}\" has too many rows", source.name));
        let rows = source.rows().ok_or_else(uncounted)?;
        let conversion = self.conversion(typed, source)?;
        let action = self.action(typed, &conversion)?;
        let statistics = match &action {
            Action::Encode {
                weighing: Weighing::Measured,
                ..
            } => statistics(&site_of(
                self.family,
                &self.architecture,
                &typed.tensor.name,
            )?),
            _ => Vec::new(),
        };
        self.plan.units.push(Unit {
            label: typed.tensor.name.clone(),
            layer: typed.tensor.layer,
            inputs: vec![UnitInput {
                raw: matches!(conversion, Conversion::Stored),
                groups: matches!(conversion, Conversion::Repack(_)),
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
            statistics,
            scratch_bytes: 0,
        });
        self.encodings.push(Encoding {
            name: typed.tensor.name.clone(),
            action,
            transform,
            first_row: expert.saturating_mul(rows),
        });
        Ok(())
    }

    /// How the source's rows become those of the file.
    fn conversion(&self, typed: &Typed, source: &TensorInfo) -> Result<Conversion> {
        let same_type = source.dtype.eq_ignore_ascii_case(typed.ty.name);
        // Also for types without a codec: they can only be copied.
        if self.native && same_type {
            return Ok(Conversion::Stored);
        }
        let ty = BlockType::from_id(typed.ty.id).map_err(|e| Error::unsupported(e.to_string()))?;
        if typed.fit.is_some() {
            return Ok(Conversion::Repack(ty));
        }
        let element = ElementType::from_dtype(&source.dtype);
        Ok(match element {
            Some(element) if is_stored_as(element, ty) => Conversion::Numbers(ty),
            _ => Conversion::Encode(ty),
        })
    }

    /// How a tensor's quantized numbers come into the file, if they are quantized.
    fn route(&self, typed: &Typed) -> Result<Option<Route>> {
        let Content::Source { sources, .. } = &typed.tensor.content else {
            return Ok(None);
        };
        let source = self.first_source(sources)?;
        if ElementType::from_dtype(&source.dtype).is_some() {
            return Ok(None);
        }
        Ok(Some(match (typed.fit, self.conversion(typed, source)?) {
            (Some(fit), _) => fit.route(),
            (None, Conversion::Encode(ty)) if !is_plain(ty) => Route::Requantized,
            (None, Conversion::Encode(_)) => Route::Decoded,
            (None, _) => Route::Exact,
        }))
    }

    /// What is done with the rows.
    fn action(&self, typed: &Typed, conversion: &Conversion) -> Result<Action> {
        let ty = match *conversion {
            Conversion::Encode(ty) => ty,
            Conversion::Repack(ty) => return Ok(Action::Repack(ty)),
            Conversion::Stored => return Ok(Action::Copy),
            // Where a plugin reads the source they come in single precision all the same.
            Conversion::Numbers(ty) => {
                let weighing = Weighing::Even;
                return Ok(Action::Encode { ty, weighing });
            }
        };
        let name = &typed.tensor.name;
        let weighing = match self.importance {
            ImportanceSource::Matrix(matrix) if !is_plain(ty) => {
                let importance = matrix.of(name, &typed.tensor.dims)?;
                importance.map_or(Weighing::Even, Weighing::Given)
            }
            ImportanceSource::Calibration(_)
                if ty.takes_importance() && self.is_measured(typed) =>
            {
                Weighing::Measured
            }
            _ => Weighing::Even,
        };
        let exempt = matches!(Role::of(name), Role::Output | Role::TokenEmbd);
        if matches!(weighing, Weighing::Even) && !exempt && self.level.requires_imatrix(ty) {
            return Err(self.importance.lack(self.level.name, name, ty.name()));
        }
        Ok(Action::Encode { ty, weighing })
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
