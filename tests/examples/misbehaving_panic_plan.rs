//! A plugin that panics when it plans.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "panic-plan",
    formats: ["panic-plan"],
    description: "panics when it plans",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "panic-plan";

    fn in_plan(_plan: &mut llm_quantize_plugin_api::Plan) {
        panic!("no plan");
    }
}
