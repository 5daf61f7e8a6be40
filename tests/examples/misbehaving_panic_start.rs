//! A plugin that panics when it is started.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "panic-start",
    formats: ["panic-start"],
    description: "panics when it is started",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "panic-start";

    fn at_start() {
        panic!("no good morning");
    }
}
