//! A plugin that never finishes its start.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "hang-start",
    formats: ["hang-start"],
    description: "never finishes its start",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "hang-start";

    fn at_start() {
        loop {
            std::hint::spin_loop();
        }
    }
}
