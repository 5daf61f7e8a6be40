//! Between the interface's types and those that cross.

use abi_stable::std_types::{ROption, RResult, RSlice, RSliceMut, RStr, RString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::raw::{
    RawError, RawFileView, RawGroups, RawMeasure, RawResult, RawStatisticView, RawTensorView,
};
use crate::interface::{
    AffineGroups, ElementType, EncodeReport, Error, ErrorKind, FileView, Measure, Result,
    StatisticView, TensorView,
};

pub(super) fn error_to_raw(error: Error) -> RawError {
    RawError {
        kind: error.kind.code(),
        message: error.message.into(),
        suggestion: error.suggestion.map(RString::from).into(),
    }
}

pub(super) fn error_from_raw(error: RawError) -> Error {
    Error {
        kind: ErrorKind::from_code(error.kind),
        message: error.message.into(),
        suggestion: error.suggestion.into_option().map(String::from),
    }
}

pub(super) fn to_raw<T>(result: Result<T>) -> RawResult<T> {
    match result {
        Ok(value) => RResult::ROk(value),
        Err(error) => RResult::RErr(error_to_raw(error)),
    }
}

pub(super) fn from_raw<T>(result: RawResult<T>) -> Result<T> {
    result.into_result().map_err(error_from_raw)
}

pub(super) fn to_json(what: &str, value: &impl Serialize) -> Result<RString> {
    serde_json::to_string(value)
        .map(RString::from)
        .map_err(|error| Error::internal(format!("cannot write the {what} as JSON: {error}")))
}

pub(super) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::internal(format!("cannot read the {what} from JSON: {error}")))
}

pub(super) fn files_to_raw<'a>(files: &[FileView<'a>]) -> Vec<RawFileView<'a>> {
    files.iter().map(file_to_raw).collect()
}

pub(super) fn file_to_raw<'a>(file: &FileView<'a>) -> RawFileView<'a> {
    RawFileView {
        name: RStr::from_str(file.name),
        bytes: RSlice::from_slice(file.bytes),
    }
}

pub(super) fn file_from_raw<'a>(file: RawFileView<'a>) -> FileView<'a> {
    FileView {
        name: file.name.as_str(),
        bytes: file.bytes.as_slice(),
    }
}

pub(super) fn files_from_raw<'a>(files: &'a [RawFileView<'a>]) -> Vec<FileView<'a>> {
    files.iter().map(|file| file_from_raw(*file)).collect()
}

pub(super) fn tensors_to_raw<'a>(views: &[TensorView<'a>]) -> Vec<RawTensorView<'a>> {
    views
        .iter()
        .map(|view| RawTensorView {
            element: view.element() as u32,
            rows: view.rows(),
            cols: view.cols(),
            row_bytes: view.cols() * view.element().bytes(),
            bytes: RSlice::from_slice(view.bytes()),
        })
        .collect()
}

pub(super) fn tensors_from_raw<'a>(views: &'a [RawTensorView<'a>]) -> Result<Vec<TensorView<'a>>> {
    views
        .iter()
        .map(|view| {
            let element = ElementType::from_code(view.element)
                .ok_or_else(|| Error::internal(format!("unknown element type {}", view.element)))?;
            if view.row_bytes != view.cols * element.bytes() {
                return Err(Error::internal("rows of a view must follow each other"));
            }
            TensorView::new(element, view.rows, view.cols, view.bytes.as_slice())
        })
        .collect()
}

pub(super) fn statistics_to_raw<'a>(views: &[StatisticView<'a>]) -> Vec<RawStatisticView<'a>> {
    views
        .iter()
        .map(|view| RawStatisticView {
            rows: view.rows,
            cols: view.cols,
            data: RSlice::from_slice(view.data),
        })
        .collect()
}

pub(super) fn statistics_from_raw<'a>(
    views: &'a [RawStatisticView<'a>],
) -> Result<Vec<StatisticView<'a>>> {
    views
        .iter()
        .map(|view| {
            if view.rows.checked_mul(view.cols) != Some(view.data.len()) {
                return Err(Error::internal(
                    "a statistic has another length than its shape",
                ));
            }
            Ok(StatisticView {
                rows: view.rows,
                cols: view.cols,
                data: view.data.as_slice(),
            })
        })
        .collect()
}

pub(super) fn outputs_to_raw<'a>(outputs: &'a mut [&mut [u8]]) -> Vec<RSliceMut<'a, u8>> {
    outputs
        .iter_mut()
        .map(|output| RSliceMut::from_mut_slice(output))
        .collect()
}

/// Between a measure's subject and its name, in which there is none.
const TAB: char = '\t';

pub(super) fn report_to_raw(report: EncodeReport) -> Vec<RawMeasure> {
    report
        .measures
        .into_iter()
        .map(|measure| {
            let [subject, name] = [measure.subject, measure.name].map(|n| n.replace(TAB, " "));
            RawMeasure {
                name: match subject.is_empty() {
                    true => name.into(),
                    false => format!("{subject}{TAB}{name}").into(),
                },
                value: measure.value,
            }
        })
        .collect()
}

pub(super) fn report_from_raw(measures: impl IntoIterator<Item = RawMeasure>) -> EncodeReport {
    EncodeReport {
        measures: measures
            .into_iter()
            .map(|measure| {
                let (subject, name) = match measure.name.split_once(TAB) {
                    Some(parts) => parts,
                    None => ("", measure.name.as_str()),
                };
                Measure::of(subject, name, measure.value)
            })
            .collect(),
    }
}

pub(super) fn groups_to_raw(groups: AffineGroups) -> RawGroups {
    RawGroups {
        bits: groups.bits,
        group_size: groups.group_size,
        codes: groups.codes.into(),
        scales: groups.scales.into(),
        zeros: groups.zeros.into(),
        permutation: groups.permutation.map(Into::into).into(),
    }
}

pub(super) fn groups_from_raw(groups: RawGroups) -> AffineGroups {
    AffineGroups {
        bits: groups.bits,
        group_size: groups.group_size,
        codes: groups.codes.into(),
        scales: groups.scales.into(),
        zeros: groups.zeros.into(),
        permutation: match groups.permutation {
            ROption::RSome(order) => Some(order.into()),
            ROption::RNone => None,
        },
    }
}
