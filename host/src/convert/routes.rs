//! By which routes quantized tensors come into an output.

use std::fmt;

use llm_quantize_plugin_api::{Plan, Route};
use serde_json::{Value, json};

/// How many tensors of a plan come by which route.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Routes {
    /// Repacked: the stored values are the same numbers.
    pub exact: usize,
    /// Repacked with rounded scales or zeros.
    pub near_exact: usize,
    /// The largest change of a weight of those, relative to the largest weight of its group.
    pub change: f64,
    /// Written as plain numbers.
    pub decoded: usize,
    /// Rounded to codes anew.
    pub requantized: usize,
}

impl Routes {
    /// Those of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut routes = Self::default();
        for route in plan.tensors.iter().filter_map(|tensor| tensor.route) {
            match route {
                Route::Exact => routes.exact += 1,
                Route::NearExact { change } => {
                    routes.near_exact += 1;
                    routes.change = routes.change.max(change);
                }
                Route::Decoded => routes.decoded += 1,
                Route::Requantized => routes.requantized += 1,
            }
        }
        routes
    }

    /// Whether there is nothing that was quantized.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For a document; `None` if it is empty.
    #[must_use]
    pub fn document(&self) -> Option<Value> {
        (!self.is_empty()).then(|| {
            json!({
                "exact": self.exact,
                "near_exact": self.near_exact,
                "largest_relative_change": self.change,
                "decoded": self.decoded,
                "requantized": self.requantized,
            })
        })
    }
}

/// As in `exact repack of 28 tensors (the stored values are the same numbers)`.
impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let tensors = |count: usize| match count {
            1 => "1 tensor".to_owned(),
            count => format!("{count} tensors"),
        };
        if self.exact > 0 {
            let count = tensors(self.exact);
            parts.push(format!(
                "exact repack of {count} (the stored values are the same numbers)"
            ));
        }
        if self.near_exact > 0 {
            let (count, change) = (tensors(self.near_exact), self.change);
            parts.push(format!(
                "near-exact repack of {count} (scales or zeros are rounded; largest relative \
                 change of a weight {change:.1e})"
            ));
        }
        if self.requantized > 0 {
            let count = tensors(self.requantized);
            parts.push(format!("requantize {count} (lossy)"));
        }
        if self.decoded > 0 {
            let count = tensors(self.decoded);
            parts.push(format!("{count} decoded to plain numbers"));
        }
        match parts.as_slice() {
            [] => f.write_str("nothing is quantized"),
            parts => f.write_str(&parts.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::PlannedTensor;

    fn of(routes: &[Option<Route>]) -> Routes {
        let tensors = routes.iter().map(|route| PlannedTensor {
            route: *route,
            ..PlannedTensor::default()
        });
        Routes::of(&Plan {
            tensors: tensors.collect(),
            ..Plan::default()
        })
    }

    #[test]
    fn routes_are_counted_and_told() {
        let near = |change| Some(Route::NearExact { change });
        let all = [
            Some(Route::Exact),
            None,
            near(1e-4),
            near(4.8e-4),
            near(0.0),
            Some(Route::Decoded),
        ];
        let routes = of(&all);
        assert_eq!((routes.exact, routes.near_exact, routes.decoded), (1, 3, 1));
        let text = routes.to_string();
        assert!(text.starts_with("exact repack of 1 tensor ("), "{text}");
        assert!(text.contains("3 tensors (scales"), "{text}");
        assert!(text.contains("4.8e-4"), "{text}");
        assert!(
            text.ends_with("1 tensor decoded to plain numbers"),
            "{text}"
        );
        let document = routes.document().unwrap();
        assert_eq!(document["largest_relative_change"], 4.8e-4);
        let text = of(&[Some(Route::Requantized)]).to_string();
        assert_eq!(text, "requantize 1 tensor (lossy)");
    }

    #[test]
    fn plans_without_quantized_tensors_have_none() {
        let none = of(&[None, None]);
        assert!(none.is_empty());
        assert_eq!(none.document(), None);
        assert_eq!(none.to_string(), "nothing is quantized");
    }
}
