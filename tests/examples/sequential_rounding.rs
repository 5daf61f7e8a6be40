//! A plugin whose layers see what the quantized layers before them give.

mod sequential;

use llm_quantize_plugin_api::{Host, export_plugin};

export_plugin! {
    id: "sequential",
    formats: ["sequential"],
    description: "rounds layers that see what the rounded layers before them give",
    quantizer: start,
}

fn start(_host: Host) -> sequential::Sequential {
    sequential::Sequential
}
