//! A plugin that prints when it is started.

#![allow(clippy::print_stdout)] // that is the point

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "print-start",
    formats: ["print-start"],
    description: "prints when it is started",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "print-start";

    fn at_start() {
        println!("good morning");
    }
}
