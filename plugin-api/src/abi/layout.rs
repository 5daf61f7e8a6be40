//! Whether two sides of different age understand each other.
//!
//! abi_stable's own check is one-sided: a host refuses a plugin whose interface
//! lacks anything that the host's has, so the first addition to the interface would
//! lock out every older plugin. The check function itself is not symmetric though:
//! if the *host's* interface, taken as the implementation, satisfies the *plugin's*
//! expectations, the plugin's layout is a prefix of the host's, and the host can
//! read it through prefix accessors, which give defaults for what is missing.

use abi_stable::abi_stability::abi_checking::{
    CheckingGlobals, check_layout_compatibility_with_globals,
};
use abi_stable::type_layout::TypeLayout;

/// How a plugin's interface relates to the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    /// The plugin has all that the host expects (same age or newer).
    SameOrNewer,
    /// The plugin's interface is a prefix of the host's.
    Older,
}

/// Compares the layouts of two root modules.
///
/// # Errors
/// If neither is a prefix of the other: one line that names the first difference.
pub fn compare(
    host: &'static TypeLayout,
    plugin: &'static TypeLayout,
) -> Result<Compatibility, String> {
    let Err(errors) = satisfies(host, plugin) else {
        return Ok(Compatibility::SameOrNewer);
    };
    if satisfies(plugin, host).is_ok() {
        return Ok(Compatibility::Older);
    }
    Err(summary(&errors))
}

/// Whether an interface finds all that it expects in an implementation; if not, abi_stable's
/// report.
///
/// What it learns of types it keeps to itself: abi_stable's own memory of all checks takes the
/// types of the first plugin for what every later one must have, so that an older plugin would
/// lock out the others.
fn satisfies(
    interface: &'static TypeLayout,
    implementation: &'static TypeLayout,
) -> Result<(), String> {
    let globals = CheckingGlobals::new();
    let found = check_layout_compatibility_with_globals(interface, implementation, &globals);
    found.map_err(|errors| errors.to_string())
}

/// The longest reason that is passed on.
const MAX_REASON: usize = 240;

/// The cause out of abi_stable's report, which prints every type on the way to it: what
/// differs, in which field, and both sides of it, on one line.
fn summary(report: &str) -> String {
    let lines: Vec<&str> = report.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.starts_with("Error:")) else {
        return "the layouts differ".into();
    };
    let mut text = lines[at].trim_start_matches("Error:").trim().to_owned();
    if let Some(field) = field_before(&lines[..at]) {
        text.push_str(&format!(" in `{field}`"));
    }
    let side = |title: &str| {
        let after = lines[at..]
            .iter()
            .skip_while(|line| !line.starts_with(title));
        after.skip(1).find(|line| !line.is_empty()).copied()
    };
    if let (Some(expected), Some(found)) = (side("Expected:"), side("Found:")) {
        text.push_str(&format!(": expected {expected}, found {found}"));
    }
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// The path of fields to the first difference, e.g. `new_quantizer.__returns`. Numbers
/// are tuple fields, which say nothing to people.
fn field_before(lines: &[&str]) -> Option<String> {
    let start = lines
        .iter()
        .rposition(|line| line.ends_with("error(s)inside:"))?;
    let fields: Vec<&str> = lines[start..]
        .iter()
        .take_while(|line| !line.starts_with("Layout of"))
        .filter_map(|line| line.strip_prefix("field_name:"))
        .filter(|name| !name.chars().all(|c| c.is_ascii_digit()))
        .collect();
    (!fields.is_empty()).then(|| fields.join("."))
}

#[cfg(test)]
mod tests {
    #![allow(missing_docs, dead_code, non_local_definitions)]
    use super::*;
    use abi_stable::StableAbi;

    macro_rules! module {
        ($name:ident, { $($before:ident: $before_ty:ty),* }, $last:ident: $last_ty:ty, { $($after:ident: $after_ty:ty),* }) => {
            mod $name {
                use abi_stable::StableAbi;
                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = ModuleRef, prefix_fields = ModulePrefix)))]
                #[sabi(missing_field(default))]
                pub struct Module {
                    $(pub $before: $before_ty,)*
                    #[sabi(last_prefix_field)]
                    pub $last: $last_ty,
                    $(pub $after: $after_ty,)*
                }
            }
        };
    }

    module!(base, { first: u32 }, second: u64, {});
    module!(grown, { first: u32 }, second: u64, { third: u32 });
    module!(changed, { first: u64 }, second: u64, {});

    fn relation<H: StableAbi, P: StableAbi>() -> Result<Compatibility, String> {
        compare(H::LAYOUT, P::LAYOUT)
    }

    #[test]
    fn the_same_interface_loads() {
        let same = relation::<base::ModuleRef, base::ModuleRef>();
        assert_eq!(same, Ok(Compatibility::SameOrNewer));
    }

    #[test]
    fn a_newer_plugin_loads_in_an_older_host() {
        let newer = relation::<base::ModuleRef, grown::ModuleRef>();
        assert_eq!(newer, Ok(Compatibility::SameOrNewer));
    }

    #[test]
    fn an_older_plugin_loads_in_a_newer_host() {
        let older = relation::<grown::ModuleRef, base::ModuleRef>();
        assert_eq!(older, Ok(Compatibility::Older));
    }

    #[test]
    fn a_changed_interface_is_refused_both_ways_in_one_line() {
        for refused in [
            relation::<base::ModuleRef, changed::ModuleRef>(),
            relation::<changed::ModuleRef, base::ModuleRef>(),
            relation::<changed::ModuleRef, grown::ModuleRef>(),
        ] {
            let reason = refused.unwrap_err();
            assert_eq!(reason.lines().count(), 1, "{reason}");
            for word in ["mismatched type in `first`", "u32", "u64"] {
                assert!(reason.contains(word), "{reason}");
            }
        }
    }

    #[test]
    fn our_own_module_is_compatible_with_itself() {
        let own = relation::<crate::abi::raw::PluginModuleRef, crate::abi::raw::PluginModuleRef>();
        assert_eq!(own, Ok(Compatibility::SameOrNewer));
    }
}
