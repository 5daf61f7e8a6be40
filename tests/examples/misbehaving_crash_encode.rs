//! A plugin that writes to an address that does not exist when it encodes.

mod misbehaving;

use llm_quantize_plugin_api::export_plugin;

export_plugin! {
    id: "crash-encode",
    formats: ["crash-encode"],
    description: "writes to an address that does not exist when it encodes",
    quantizer: misbehaving::Copying::<Habit>::new,
}

struct Habit;

impl misbehaving::Habits for Habit {
    const FORMAT: &'static str = "crash-encode";

    fn in_encode() {
        // SAFETY: none; that is the point. The first page is never mapped.
        unsafe { std::ptr::without_provenance_mut::<u64>(8).write_volatile(1) };
    }
}
