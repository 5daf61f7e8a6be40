//! Which programs refuse what: as of vLLM 0.33, GPTQModel 7.7 and transformers 5.

use super::layers::{Choice, SiteLayers};
use crate::layout::{Shape, Version};

/// On a CPU, vLLM's kernel takes inputs and outputs in multiples of this.
const CPU_TILE: usize = 32;
/// The groups of the kernel that GPTQModel takes on a CPU, which is PyTorch's own.
const CPU_GROUPS: [usize; 4] = [32, 64, 128, 256];
/// The groups of the kernels for `gemv`, which are there for GPUs alone.
const GEMV_GROUPS: [usize; 2] = [64, 128];
/// GPTQModel's kernel for `gemv` takes outputs in multiples of this.
const GEMV_TILE: usize = 64;

/// What a user should know before the work; each line begins with the name of a program.
#[must_use]
pub fn warnings(choice: &Choice) -> Vec<String> {
    let mut shapes = choice.layers().map(|layer| layer.shape);
    let mut lines = match shapes.any(|shape| shape.version == Version::Gemv) {
        true => gemv(choice),
        false => gemm(choice),
    };
    let full = choice.kept_names();
    if let Some(name) = full.iter().find(|name| name.contains("layers.")) {
        lines.push(format!(
            "AutoAWQ 0.2.9 refuses a layer that stays in some blocks only ({name}); vLLM and \
             transformers load it"
        ));
    }
    lines
}

/// Of the usual layout. On a GPU every group size that can be chosen is fine: vLLM's and
/// GPTQModel's kernels have 32, 64, 128 and -1, and pad layers.
fn gemm(choice: &Choice) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some([outputs, inputs]) = choice.sites.iter().find_map(odd_on_cpus) {
        lines.push(format!(
            "vLLM 0.33 refuses this on a CPU: a layer of {outputs} outputs and {inputs} inputs is \
             there, and it takes multiples of {CPU_TILE} only; on a GPU it loads"
        ));
    }
    let mut groups = choice.layers().map(|layer| layer.shape.group);
    if let Some(group) = groups.find(|group| !CPU_GROUPS.contains(group)) {
        lines.push(format!(
            "GPTQModel 7.7, and transformers by it, refuses this on a CPU: a layer has groups of \
             {group} inputs, and it takes 32, 64, 128 and 256; on a GPU it loads"
        ));
    }
    lines
}

/// Of the layout for one token at a time.
fn gemv(choice: &Choice) -> Vec<String> {
    let mut lines = vec![
        "vLLM 0.33 refuses gemv; it takes gemm only".to_owned(),
        "GPTQModel 7.7, and transformers by it, loads gemv on a GPU only; gemm loads anywhere"
            .to_owned(),
    ];
    let fits = |shape: &Shape| {
        GEMV_GROUPS.contains(&shape.group) && shape.outputs.is_multiple_of(GEMV_TILE)
    };
    let mut shapes = choice.layers().map(|layer| layer.shape);
    if let Some(odd) = shapes.find(|shape| !fits(shape)) {
        lines.push(format!(
            "GPTQModel 7.7 refuses this as gemv: a layer of {} outputs has groups of {} inputs, and \
             it takes multiples of {GEMV_TILE}, in groups of 64 and 128",
            odd.outputs, odd.group
        ));
    }
    lines
}

/// The sizes that vLLM has no kernel for on a CPU. What reads the same input is one layer there.
fn odd_on_cpus(site: &SiteLayers) -> Option<[usize; 2]> {
    let inputs = site.layers.first()?.shape.inputs;
    let outputs = site.layers.iter().map(|layer| layer.shape.outputs).sum();
    let whole = |size: usize| size.is_multiple_of(CPU_TILE);
    (!(whole(inputs) && whole(outputs))).then_some([outputs, inputs])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::layers::choose;
    use crate::quantize::options::Wishes;
    use llm_quantize_plugin_api::testing::TestModel;
    use llm_quantize_plugin_api::{Inputs, PlanRequest};

    /// Of the small model with another size of some weights.
    fn of(group: i64, kind: &str, shape: [u64; 2]) -> Vec<String> {
        versioned("gemm", group, kind, shape)
    }

    fn versioned(version: &str, group: i64, kind: &str, shape: [u64; 2]) -> Vec<String> {
        let mut model = TestModel::tiny_llama().model().clone();
        for tensor in &mut model.tensors {
            if tensor.name.contains(kind) {
                tensor.shape = shape.to_vec();
            }
        }
        let request = PlanRequest {
            group_size: Some(group),
            options: vec![
                ("unfit".into(), "keep".into()),
                ("version".into(), version.into()),
            ],
            ..PlanRequest::default()
        };
        let wishes = Wishes::from_request(&request).unwrap();
        warnings(&choose(&model, &wishes).unwrap())
    }

    #[test]
    fn what_loads_everywhere_has_no_warnings() {
        for group in [32, 64, 128] {
            assert_eq!(of(group, "none", [0, 0]), [""; 0]);
        }
        // Together with q and v they fill tiles; all layers of a kind may stay.
        assert_eq!(of(64, "k_proj", [96, 256]), [""; 0]);
        assert_eq!(of(64, "down_proj", [256, 500]), [""; 0]);
    }

    #[test]
    fn every_refusal_is_named() {
        for (lines, starts) in [
            (
                of(64, "k_proj", [104, 256]),
                &["vLLM 0.33 refuses this on a CPU: a layer of 488 outputs and 256"][..],
            ),
            (
                of(-1, "none", [0, 0]),
                &[
                    "GPTQModel 7.7, and transformers by it, refuses this on a CPU: a layer has groups of 512",
                ],
            ),
            (
                of(-1, "down_proj", [256, 100]),
                &["vLLM 0.33 refuses this on a CPU", "GPTQModel 7.7"],
            ),
            (
                of(64, "layers.1.mlp.down_proj", [256, 500]),
                &["AutoAWQ 0.2.9 refuses"],
            ),
        ] {
            assert_eq!(lines.len(), starts.len(), "{lines:?}");
            for (line, start) in lines.iter().zip(starts) {
                assert!(line.starts_with(start), "{line}");
            }
        }
    }

    #[test]
    fn gemv_loads_in_few_programs() {
        for (group, kind, shape, count) in [
            (64, "none", [0, 0], 2),
            (32, "none", [0, 0], 3),
            (64, "k_proj", [96, 256], 3),
        ] {
            let lines = versioned("gemv", group, kind, shape);
            assert_eq!(lines.len(), count, "{lines:?}");
            assert!(lines[0].starts_with("vLLM 0.33 refuses gemv"));
            assert!(lines[1].contains("on a GPU only"));
        }
    }
}
