//! A plugin that has another format than its metadata promises.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "promise",
    formats: ["promise"],
    description: "has another format than its metadata promises",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "another";
}
