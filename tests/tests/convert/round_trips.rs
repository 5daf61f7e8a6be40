//! There and back again gives the same bytes.

use super::{Place, weights};

/// Converts a folder to other formats, one after the other; the last one is the first again.
fn returns(place: &Place, format: &str, options: &[&str], stations: &[(&str, &[&str])]) {
    let source = place.quantize(format, "source", &[options, &["--overwrite"]].concat());
    let mut at = source.clone();
    for (number, (format, options)) in stations.iter().enumerate() {
        let name = format!("station-{number}");
        let arguments = [*options, &["--route", "exact", "--overwrite"]].concat();
        at = place.convert(&at, format, &name, &arguments).path;
    }
    assert!(
        weights(&source) == weights(&at),
        "{format} {options:?} by {stations:?}"
    );
}

#[test]
fn awq_by_gptq() {
    let place = Place::new();
    let options = ["-q", "4bit", "--group-size", "128"];
    returns(&place, "awq", &options, &[("gptq", &[]), ("awq", &[])]);
    returns(&place, "awq", &options, &[("awq", &[])]);
}

#[test]
fn gptq_by_awq_other_versions_and_blocks() {
    let place = Place::new();
    let four = ["-q", "4bit", "--group-size", "32"];
    returns(&place, "gptq", &four, &[("awq", &[]), ("gptq", &[])]);
    returns(&place, "gptq", &four, &[("gguf", &[]), ("gptq", &[])]);
    let v2: &[&str] = &["--set", "format=gptq_v2"];
    returns(&place, "gptq", &four, &[("gptq", v2), ("gptq", &[])]);
    let eight = ["-q", "8bit", "--group-size", "32"];
    returns(&place, "gptq", &eight, &[("gguf", &[]), ("gptq", &[])]);
}

#[test]
fn blocks_by_awq_and_gptq() {
    let place = Place::new();
    for (level, format) in [("Q4_0", "awq"), ("Q4_0", "gptq"), ("Q8_0", "gptq")] {
        let options = ["-q", level, "--overwrite"];
        let source = place.quantize("gguf", "source", &options);
        let there = place.convert(&source, format, "there", &["--overwrite"]);
        let back = place.convert(&there.path, "gguf", "back", &["--overwrite"]);
        let again = place.convert(&back.path, format, "again", &["--overwrite"]);
        assert_eq!(back.level, level);
        assert!(
            weights(&there.path) == weights(&again.path),
            "{level} {format}"
        );
        let (before, after) = (place.numbers(&source), place.numbers(&back.path));
        for (name, before) in before.iter().filter(|(name, _)| name.contains("_proj")) {
            assert!(before == &after[name], "{level} {format}: {name}");
        }
    }
}
