//! What GPTQ buys over rounding to the nearest, as data.

use llm_quantize_tests::{perplexity, tiny_llama};

use super::quantized;

/// Nats that a level loses over the source on the held-out text: rounded to the nearest at
/// least, and by GPTQ at most as a share of that. Measured, with some room.
struct Margin {
    level: &'static str,
    options: &'static [&'static str],
    rounding_loses: f64,
    share_at_most: f64,
}

const MARGINS: [Margin; 4] = [
    Margin {
        level: "4bit",
        options: &[],
        rounding_loses: 0.008,
        share_at_most: 0.5,
    },
    Margin {
        level: "4bit",
        options: &["--set", "sym=false", "--group-size", "32"],
        rounding_loses: 0.003,
        share_at_most: 0.8,
    },
    Margin {
        level: "3bit",
        options: &[],
        rounding_loses: 0.02,
        share_at_most: 0.5,
    },
    Margin {
        level: "2bit",
        options: &["--group-size", "64"],
        rounding_loses: 0.15,
        share_at_most: 0.5,
    },
];

#[test]
fn gptq_beats_rounding_to_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let source = perplexity(&tiny_llama());
    for (place, margin) in MARGINS.iter().enumerate() {
        let loss = |method: &str| {
            let name = format!("{place}-{method}");
            let method = format!("method={method}");
            let options = [margin.options, &["--set", &method]].concat();
            let (folder, _) = quantized(margin.level, dir.path(), &name, &options);
            (perplexity(&folder) / source).ln()
        };
        let (rounded, solved) = (loss("rtn"), loss("gptq"));
        let what = format!(
            "{} {:?}: {rounded:.4}, {solved:.4}",
            margin.level, margin.options
        );
        println!("{what}");
        assert!(rounded > margin.rounding_loses, "{what}");
        assert!(solved < margin.share_at_most * rounded, "{what}");
    }
}
