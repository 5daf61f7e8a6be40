//! The `llm-quantize` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(llm_quantize::cli::run(std::env::args_os()))
}
