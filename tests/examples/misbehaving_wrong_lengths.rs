//! A plugin that plans a file that is too short for what goes into it.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "wrong-lengths",
    formats: ["wrong-lengths"],
    description: "plans a file that is too short for what goes into it",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "wrong-lengths";

    fn in_plan(plan: &mut llm_quantize_plugin_api::Plan) {
        plan.files[0].size -= 1;
    }
}
