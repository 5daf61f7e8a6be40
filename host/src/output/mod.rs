//! What the user sees: results on stdout, everything else on stderr.

mod format;
mod progress;
mod report;
mod stdout;
mod table;
mod ui;

pub use format::{bytes, count, duration, hex, printable, shape};
pub use progress::Bar;
pub use report::{ErrorReport, QuantizeMetadata, QuantizeReport};
#[cfg(unix)]
pub use stdout::result_descriptor;
pub use stdout::{emit, emit_bytes, emit_error, emit_json, reserve_stdout};
pub use table::{Align, Table};
pub use ui::Ui;
