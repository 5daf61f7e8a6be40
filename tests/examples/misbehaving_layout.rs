//! A plugin whose metadata has the right version, but whose root has another shape: its
//! author changed the interface without telling.

#![allow(missing_docs)] // of what the macros make

use abi_stable::StableAbi;
use abi_stable::library::{CheckTypeLayout, LibHeader, RootModule, RootModuleResult};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use llm_quantize_plugin_api::{INTERFACE_VERSION, metadata};

const PARTS: &[&str] = &[
    "id=layout\nversion=1.0.0\ninterface=",
    INTERFACE_VERSION,
    "\nformats=layout\nlicence=MIT\ndescription=another shape\n",
];

#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__llmqplg"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".llmqplg"))]
#[unsafe(no_mangle)]
pub static LLM_QUANTIZE_PLUGIN_METADATA: [u8; metadata::block_len(PARTS)] = metadata::block(PARTS);

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef, prefix_fields = PluginModulePrefix)))]
pub struct PluginModule {
    #[sabi(last_prefix_field)]
    pub new_quantizer: u64,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}

    const BASE_NAME: &'static str = "llm_quantize_plugin";
    const NAME: &'static str = "llm-quantize plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

extern "C" fn root() -> RootModuleResult {
    abi_stable::library::__call_root_module_loader(|| {
        PluginModule { new_quantizer: 1 }.leak_into_prefix()
    })
}

#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
pub static ROOT: LibHeader = {
    // SAFETY: `root` returns a `PluginModuleRef`, the type named here.
    unsafe { LibHeader::from_constructor::<PluginModuleRef>(root, CheckTypeLayout::Yes) }
};
