//! Which programs refuse what: as of vLLM 0.33, GPTQModel 7.7, transformers 5 and ExLlamaV2 0.3.

use super::options::Wishes;
use crate::layout::Version;

/// What a user should know before the work; each line begins with the name of a program.
#[must_use]
pub fn warnings(wishes: &Wishes) -> Vec<String> {
    let mut lines = Vec::new();
    let mut warn = |line: String| lines.push(line);
    let bits = wishes.bits;
    match (bits, wishes.symmetric) {
        (4 | 8, true) => {}
        (4 | 8, false) => warn(format!(
            "vLLM 0.33 refuses asymmetric GPTQ; GPTQModel and transformers load it{}",
            match bits {
                4 => " (AWQ is the format for asymmetric 4-bit models)",
                _ => "",
            }
        )),
        _ => warn(format!(
            "vLLM 0.33 refuses {bits}-bit GPTQ; GPTQModel and transformers load it"
        )),
    }
    if wishes.group_size == 256 {
        warn("vLLM 0.33 refuses groups of 256; it takes 32, 64, 128 and -1".into());
    }
    if bits != 4 {
        warn(format!("ExLlamaV2 reads 4-bit GPTQ only, not {bits}-bit"));
    }
    if wishes.version == Version::V1 && !wishes.symmetric {
        warn(
            "GPTQModel and transformers refuse asymmetric folders in the format gptq that GPTQModel \
             has not made; use gptq_v2"
                .into(),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::levels::Level;
    use llm_quantize_plugin_api::PlanRequest;

    fn of(level: &str, group: i64, options: &[(&str, &str)]) -> Vec<String> {
        let request = PlanRequest {
            group_size: Some(group),
            options: options
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..PlanRequest::default()
        };
        warnings(&Wishes::from_request(Level::find(level).unwrap(), &request).unwrap())
    }

    #[test]
    fn what_loads_everywhere_has_no_warnings() {
        for group in [32, 64, 128, -1] {
            assert!(of("4bit", group, &[]).is_empty());
        }
    }

    #[test]
    fn every_refusal_is_named() {
        for (lines, expected) in [
            (
                of("3bit", 128, &[]),
                vec!["vLLM 0.33 refuses 3-bit", "ExLlamaV2 reads"],
            ),
            (of("8bit", 128, &[]), vec!["ExLlamaV2 reads"]),
            (of("4bit", 256, &[]), vec!["vLLM 0.33 refuses groups"]),
            (
                of("4bit", 128, &[("sym", "false")]),
                vec!["vLLM 0.33 refuses asymmetric"],
            ),
            (of("4bit", 128, &[("format", "gptq_v2")]), vec![]),
            (
                of("4bit", 128, &[("sym", "false"), ("format", "gptq")]),
                vec!["vLLM 0.33 refuses asymmetric", "GPTQModel and"],
            ),
        ] {
            assert_eq!(lines.len(), expected.len(), "{lines:?}");
            for (line, start) in lines.iter().zip(expected) {
                assert!(line.starts_with(start), "{line}");
            }
        }
        assert!(of("4bit", 128, &[("sym", "false")])[0].contains("AWQ"));
    }
}
