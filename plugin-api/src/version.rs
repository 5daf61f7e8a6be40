//! The version of the interface, apart from the version of the program.

/// Version of the plugin interface, `MAJOR.MINOR`.
///
/// It moves by its own rules, whatever the program's version does:
///
/// * **minor**: something was added at the end — a method after the last prefix
///   method of a raw trait, a field of a JSON document that has a default. Plugins
///   and hosts of every minor of one major work together, in both directions; the
///   newer side sees the other's missing pieces as their defaults.
/// * **major**: anything else. A host refuses plugins of another major.
///
/// The number is this crate's own version, which abi_stable also records in every
/// type's layout, so that the two can never disagree.
pub const INTERFACE_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR")
);

/// Splits `MAJOR.MINOR` into numbers; `None` if it is anything else.
pub fn parse_interface_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_version_parses() {
        assert!(parse_interface_version(INTERFACE_VERSION).is_some());
        assert_eq!(parse_interface_version("1.2"), Some((1, 2)));
        assert_eq!(parse_interface_version("1"), None);
        assert_eq!(parse_interface_version("1.x"), None);
    }
}
