//! Reads finished files back: header, tensor table, and every block's numbers.

use llm_quantize_plugin_api::{Error, FileView, Host, Plan, Result};

use crate::blocks::{BlockType, validate_rows};
use crate::container::{Gguf, TensorInfo};

/// Bytes that one task checks.
const TASK_BYTES: usize = 8 << 20;

/// Verifies a plan's files.
///
/// # Errors
/// The first difference: a file's size, its header, its tensor table, or a block that
/// holds no finite number.
pub fn verify(host: &Host, plan: &Plan, headers: &[Vec<u8>], files: &[FileView<'_>]) -> Result<()> {
    if files.len() != plan.files.len() {
        return Err(Error::verification(format!(
            "there are {} files, planned were {}",
            files.len(),
            plan.files.len()
        )));
    }
    let mut tasks = Vec::new();
    for (index, (file, planned)) in files.iter().zip(&plan.files).enumerate() {
        if file.bytes.len() as u64 != planned.size {
            return Err(Error::verification(format!(
                "\"{}\" has {} bytes, planned were {}",
                file.name,
                file.bytes.len(),
                planned.size
            )));
        }
        let header = plan
            .literals
            .iter()
            .find(|l| l.file == index && l.offset == 0);
        let header = header.and_then(|literal| headers.get(literal.blob));
        if !header.is_some_and(|header| file.bytes.starts_with(header)) {
            return Err(Error::verification(format!(
                "the header of \"{}\" is not as planned",
                file.name
            )));
        }
        let gguf = Gguf::parse(file.bytes)
            .map_err(|error| Error::verification(format!("\"{}\": {error}", file.name)))?;
        for tensor in &gguf.tensors {
            add_tasks(tensor, file, &mut tasks)?;
        }
    }
    host.parallel_for(tasks.len(), |index| tasks[index].run())
}

/// Some rows of a tensor.
struct Task<'a> {
    tensor: String,
    ty: BlockType,
    first_row: usize,
    row_bytes: usize,
    rows: &'a [u8],
}

impl Task<'_> {
    fn run(&self) -> Result<()> {
        validate_rows(self.ty, self.rows, self.row_bytes).map_err(|(row, reason)| {
            Error::verification(format!(
                "tensor \"{}\", row {}: {reason}",
                self.tensor,
                self.first_row + row
            ))
        })
    }
}

fn add_tasks<'a>(
    tensor: &TensorInfo,
    file: &FileView<'a>,
    tasks: &mut Vec<Task<'a>>,
) -> Result<()> {
    // A type without a codec was copied from the source as it is.
    let Ok(ty) = tensor.block_type() else {
        return Ok(());
    };
    let damaged = || Error::verification(format!("tensor \"{}\" is cut off", tensor.name));
    let data = tensor.data(file.bytes).ok_or_else(damaged)?;
    let cols = usize::try_from(tensor.dims.first().copied().unwrap_or(1)).ok();
    let row_bytes = cols
        .and_then(|cols| ty.row_bytes(cols))
        .ok_or_else(damaged)?;
    let rows_each = (TASK_BYTES / row_bytes.max(1)).max(1);
    for (index, rows) in data.chunks(rows_each * row_bytes.max(1)).enumerate() {
        tasks.push(Task {
            tensor: tensor.name.clone(),
            ty,
            first_row: index * rows_each,
            row_bytes,
            rows,
        });
    }
    Ok(())
}
