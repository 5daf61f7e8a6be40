//! [`export_plugin!`](crate::export_plugin): makes a crate a plugin.

/// Exports a crate of type `cdylib` as a plugin.
///
/// `quantizer` and `converter` are functions from [`Host`](crate::Host) to a value
/// that implements [`Quantizer`](crate::Quantizer) or
/// [`Converter`](crate::Converter); either may be left out. Version and licence come
/// from the crate's own `Cargo.toml`.
///
/// ```ignore
/// llm_quantize_plugin_api::export_plugin! {
///     id: "absmax8",
///     formats: ["absmax8"],
///     description: "8-bit integers with one scale a row",
///     quantizer: Absmax8::new,
///     converter: Absmax8::new,
/// }
/// ```
#[macro_export]
macro_rules! export_plugin {
    (
        id: $id:literal,
        formats: [$first:literal $(, $more:literal)* $(,)?],
        description: $description:literal
        $(, quantizer: $quantizer:expr)?
        $(, converter: $converter:expr)?
        $(,)?
    ) => {
        const _: () = {
            use $crate::abi::{abi_stable::library as __library, export as __export, raw as __raw};

            const PARTS: &[&str] = &[
                "id=", $id,
                "\nversion=", env!("CARGO_PKG_VERSION"),
                "\ninterface=", $crate::INTERFACE_VERSION,
                "\nformats=", $first $(, ",", $more)*,
                "\nlicence=", env!("CARGO_PKG_LICENSE"),
                "\ndescription=", $description,
                "\n",
            ];

            // Exported, so that no linker drops it as unused.
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__llmqplg"))]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".llmqplg"))]
            #[unsafe(no_mangle)]
            pub static LLM_QUANTIZE_PLUGIN_METADATA: [u8; $crate::metadata::block_len(PARTS)] =
                $crate::metadata::block(PARTS);

            extern "C" fn new_quantizer(
                host: __raw::RawHostArc,
            ) -> $crate::abi::export::QuantizerResult {
                __export::new_quantizer(host, |host| {
                    let _ = &host;
                    let made: ::core::option::Option<::std::boxed::Box<dyn $crate::Quantizer>> =
                        ::core::option::Option::None;
                    $(let made = made.or(::core::option::Option::Some(
                        ::std::boxed::Box::new(($quantizer)(host)),
                    ));)?
                    made
                })
            }

            extern "C" fn new_converter(
                host: __raw::RawHostArc,
            ) -> $crate::abi::export::ConverterResult {
                __export::new_converter(host, |host| {
                    let _ = &host;
                    let made: ::core::option::Option<::std::boxed::Box<dyn $crate::Converter>> =
                        ::core::option::Option::None;
                    $(let made = made.or(::core::option::Option::Some(
                        ::std::boxed::Box::new(($converter)(host)),
                    ));)?
                    made
                })
            }

            extern "C" fn root() -> __library::RootModuleResult {
                __library::__call_root_module_loader(|| {
                    __export::module(new_quantizer, new_converter)
                })
            }

            /// What abi_stable's `#[export_root_module]` would export; written out so
            /// that a plugin need not depend on abi_stable.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static ROOT: __library::LibHeader = {
                // SAFETY: `root` returns a `PluginModuleRef`, the type named here.
                unsafe {
                    __library::LibHeader::from_constructor::<__raw::PluginModuleRef>(
                        root,
                        __library::CheckTypeLayout::Yes,
                    )
                }
            };
        };
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_entry_point_has_the_name_that_the_loader_looks_for() {
        let source = include_str!("export.rs");
        let name = crate::abi::abi_stable::library::ROOT_MODULE_LOADER_NAME;
        assert!(
            source.contains(&format!("export_name = \"{name}\"")),
            "{name}"
        );
    }
}
