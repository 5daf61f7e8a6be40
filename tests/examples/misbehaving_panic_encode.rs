//! A plugin that panics when it encodes.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "panic-encode",
    formats: ["panic-encode"],
    description: "panics when it encodes",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "panic-encode";

    fn in_encode() {
        panic!("no more bytes");
    }
}
