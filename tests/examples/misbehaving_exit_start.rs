//! A plugin that ends the process when it is started.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "exit-start",
    formats: ["exit-start"],
    description: "ends the process when it is started",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "exit-start";

    fn at_start() {
        std::process::exit(0);
    }
}
