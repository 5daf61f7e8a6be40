//! What users may ask for in every format of this kind.

use super::WHOLE_ROW;
use crate::interface::{Error, OptionInfo, OptionType, PlanRequest, Result};

const UNFIT: &str = "unfit";
const REQUANTIZE: &str = "allow-requantize";

/// An option that is given at most once.
pub fn option(key: &str, value_type: OptionType, default: &str, help: &str) -> OptionInfo {
    OptionInfo {
        key: key.into(),
        value_type,
        default: default.into(),
        help: help.into(),
        repeatable: false,
    }
}

/// The type of an option that has one of these values.
pub fn choice(names: &[&str]) -> OptionType {
    OptionType::Choice(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Whether an option has been given this value, in whatever case.
pub fn is(request: &PlanRequest, key: &str, value: &str) -> bool {
    let given = request.option(key);
    given.is_some_and(|given| given.eq_ignore_ascii_case(value))
}

/// The option that says what happens to layers that the format cannot hold.
pub fn unfit_option() -> OptionInfo {
    option(
        UNFIT,
        choice(&["refuse", "keep"]),
        "refuse",
        "what happens to layers that the group size does not divide; keep leaves them as they are",
    )
}

/// Whether they stay as they are.
pub fn keep_unfit(request: &PlanRequest) -> bool {
    is(request, UNFIT, "keep")
}

/// The option that allows for quantized sources.
pub fn requantize_option() -> OptionInfo {
    option(
        REQUANTIZE,
        OptionType::Bool,
        "false",
        "quantize tensors that are quantized already (costs quality)",
    )
}

/// Whether what is quantized already may be quantized again.
pub fn may_requantize(request: &PlanRequest) -> bool {
    request.flag(REQUANTIZE) || request.requantize
}

/// Refuses options that have no meaning where groups are repacked.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported), with the first of them that was given.
pub fn repacking_refuses(request: &PlanRequest, keys: &[&str]) -> Result<()> {
    let given = keys.iter().find(|key| request.option(key).is_some());
    given.map_or(Ok(()), |key| {
        let message = format!("the option \"{key}\" means nothing where groups are repacked");
        Err(Error::unsupported(message).suggest("quantize anew with --route requantize"))
    })
}

/// The group size that is asked for: one of these.
///
/// # Errors
/// If it is another one.
pub fn group_size(request: &PlanRequest, format: &str, known: &[i64], default: i64) -> Result<i64> {
    let size = request.group_size.unwrap_or(default);
    if known.contains(&size) {
        return Ok(size);
    }
    let known: Vec<String> = known.iter().map(i64::to_string).collect();
    Err(
        Error::invalid_request(format!("{format} has no groups of {size}")).suggest(format!(
            "choose one of: {} ({WHOLE_ROW} is a whole row)",
            known.join(", ")
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::ErrorKind;

    fn request(options: &[(&str, &str)], group_size: Option<i64>) -> PlanRequest {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        PlanRequest {
            group_size,
            options: options.iter().map(owned).collect(),
            ..PlanRequest::default()
        }
    }

    #[test]
    fn options_are_read() {
        let plain = request(&[], None);
        assert!(!keep_unfit(&plain) && !may_requantize(&plain));
        let asked = request(&[("unfit", "Keep"), ("allow-requantize", "true")], None);
        assert!(keep_unfit(&asked) && may_requantize(&asked));
    }

    #[test]
    fn options_without_a_meaning_are_refused() {
        let asked = request(&[("method", "rtn")], None);
        let error = repacking_refuses(&asked, &["order", "method"]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("\"method\""), "{error}");
        assert_eq!(repacking_refuses(&asked, &["order"]), Ok(()));
    }

    #[test]
    fn group_sizes_are_those_of_the_format() {
        let known = [64, 128, WHOLE_ROW];
        let of = |size| group_size(&request(&[], size), "Bytes", &known, 128);
        assert_eq!((of(None), of(Some(-1))), (Ok(128), Ok(WHOLE_ROW)));
        let error = of(Some(48)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        assert!(error.suggestion.unwrap().contains("64, 128, -1"));
    }
}
