//! [`ModelInfo`] for people.

use super::ModelInfo;
use crate::output::{Align, Table, bytes, count, printable, shape};

/// The description as text.
pub fn human(info: &ModelInfo) -> String {
    let mut out = facts(info).render();
    out.push('\n');
    out.push_str(&types(info).render());
    if let Some(kinds) = kinds(info) {
        out.push('\n');
        out.push_str(&kinds.render());
    }
    if let Some(tensors) = tensors(info) {
        out.push('\n');
        out.push_str(&tensors.render());
    }
    // Names come from strangers' files.
    printable(&out)
}

fn facts(info: &ModelInfo) -> Table {
    let mut table = Table::pairs();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            table.row([name.to_owned(), value]);
        }
    };
    let number = |value: Option<u64>| value.map(|number| number.to_string());
    add("Model", Some(info.model_name.clone()));
    add("Format", Some(info.format.clone()));
    add("Architecture", info.architecture.clone());
    let parameters = info.parameter_count;
    add(
        "Parameters",
        Some(format!("{parameters} ({})", count(parameters))),
    );
    add("Hidden size", number(info.hidden_size));
    add("Layers", number(info.num_layers));
    add("Heads", number(info.num_heads));
    add("KV heads", number(info.num_kv_heads));
    add("Vocabulary", number(info.vocab_size));
    add("Context", number(info.context_length));
    add("Dtype", Some(info.torch_dtype.clone()));
    if let Some(quantization) = &info.quantization {
        let (method, bits) = (&quantization.method, quantization.bits_per_weight);
        add(
            "Quantization",
            Some(format!("{method}, {bits:.2} bits per weight")),
        );
    }
    let tokenizer = info.tokenizer.as_ref().map(|found| match &found.class {
        Some(class) => format!("{} ({class})", found.kind),
        None => found.kind.clone(),
    });
    add("Tokenizer", tokenizer);
    add(
        "Size",
        Some(format!(
            "{} ({} bytes)",
            bytes(info.file_size),
            info.file_size
        )),
    );
    for (name, value) in &info.facts {
        add(name, value.as_str().map(str::to_owned));
    }
    table
}

fn types(info: &ModelInfo) -> Table {
    let mut table = Table::new(&[
        ("TYPE", Align::Left),
        ("TENSORS", Align::Right),
        ("PARAMETERS", Align::Right),
        ("SIZE", Align::Right),
    ]);
    for entry in &info.tensor_types {
        table.row([
            entry.name.clone(),
            entry.tensors.to_string(),
            count(entry.parameters),
            bytes(entry.bytes),
        ]);
    }
    table
}

fn kinds(info: &ModelInfo) -> Option<Table> {
    let mut table = Table::new(&[("TENSORS", Align::Left), ("TYPES", Align::Left)]);
    for entry in &info.quantization.as_ref()?.kinds {
        let types = entry.types.iter().map(|(name, n)| format!("{name} x {n}"));
        table.row([entry.kind.clone(), types.collect::<Vec<_>>().join(", ")]);
    }
    Some(table)
}

fn tensors(info: &ModelInfo) -> Option<Table> {
    let mut table = Table::new(&[
        ("TENSOR", Align::Left),
        ("SHAPE", Align::Left),
        ("TYPE", Align::Left),
        ("SIZE", Align::Right),
    ]);
    for tensor in info.tensors.as_ref()? {
        table.row([
            tensor.name.clone(),
            shape(&tensor.shape),
            tensor.dtype.clone(),
            bytes(tensor.bytes),
        ]);
    }
    Some(table)
}
