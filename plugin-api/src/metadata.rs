//! A plugin's identity, written into its library and readable without running it.
//!
//! [`export_plugin!`](crate::export_plugin) puts a block into a section of its own:
//! a magic number, the length of the text as a little-endian `u32`, and the text:
//! one `key=value` line for each field. Unknown keys are ignored, so fields can be
//! added.

/// Starts the block.
pub const MAGIC: &[u8; 16] = b"LLMQ-PLUGIN-META";

/// Name of the section in ELF and PE files (eight characters, PE's limit).
pub const SECTION: &str = ".llmqplg";

/// Name of the section in Mach-O files.
pub const SECTION_MACHO: &str = "__llmqplg";

/// Longest text that is read.
#[cfg(feature = "host")]
const MAX_TEXT: usize = 64 << 10;

/// Who a plugin is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PluginMetadata {
    /// Short unique name, e.g. `gguf`.
    pub id: String,
    /// The plugin's own version.
    pub version: String,
    /// Version of the interface that it was built with.
    pub interface_version: String,
    /// Names of its formats.
    pub formats: Vec<String>,
    /// SPDX expression.
    pub licence: String,
    /// One line for people.
    pub description: String,
}

/// Joins texts at compile time; used by [`export_plugin!`](crate::export_plugin).
#[doc(hidden)]
pub const fn block_len(parts: &[&str]) -> usize {
    let mut len = MAGIC.len() + 4;
    let mut i = 0;
    while i < parts.len() {
        len += parts[i].len();
        i += 1;
    }
    len
}

/// The block as an array of its exact length ([`block_len`]).
#[doc(hidden)]
pub const fn block<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut out = [0u8; N];
    let mut at = 0;
    while at < MAGIC.len() {
        out[at] = MAGIC[at];
        at += 1;
    }
    let text_len = ((N - MAGIC.len() - 4) as u32).to_le_bytes();
    let mut i = 0;
    while i < 4 {
        out[at] = text_len[i];
        at += 1;
        i += 1;
    }
    let mut part = 0;
    while part < parts.len() {
        let bytes = parts[part].as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            out[at] = bytes[i];
            at += 1;
            i += 1;
        }
        part += 1;
    }
    out
}

#[cfg(feature = "host")]
pub use read::{MetadataError, read};

#[cfg(feature = "host")]
mod read {
    use object::{Object, ObjectKind, ObjectSection};
    use thiserror::Error;

    use super::{MAGIC, MAX_TEXT, PluginMetadata, SECTION, SECTION_MACHO};

    /// Why a file has no readable metadata.
    #[derive(Debug, Error, PartialEq, Eq)]
    pub enum MetadataError {
        /// Not an ELF, Mach-O or PE file.
        #[error("is not a shared library ({0})")]
        NotALibrary(String),
        /// A library for other machines.
        #[error("is a library for {0:?}, not for this machine")]
        WrongArchitecture(object::Architecture),
        /// A library without our section.
        #[error(
            "is a shared library, but not an llm-quantize plugin (it has no section \"{SECTION}\")"
        )]
        NoSection,
        /// The section's content is damaged.
        #[error("has damaged plugin metadata: {0}")]
        Damaged(&'static str),
        /// A field is missing.
        #[error("has plugin metadata without \"{0}\"")]
        Missing(&'static str),
    }

    /// Reads the metadata out of a library's bytes; runs none of its code.
    ///
    /// # Errors
    /// See [`MetadataError`].
    pub fn read(library: &[u8]) -> Result<PluginMetadata, MetadataError> {
        let file = object::File::parse(library)
            .map_err(|error| MetadataError::NotALibrary(error.to_string()))?;
        if file.kind() != ObjectKind::Dynamic {
            return Err(MetadataError::NotALibrary(format!(
                "it is {:?}",
                file.kind()
            )));
        }
        if !for_this_machine(file.architecture()) {
            return Err(MetadataError::WrongArchitecture(file.architecture()));
        }
        let section = file
            .section_by_name(SECTION)
            .or_else(|| file.section_by_name(SECTION_MACHO))
            .ok_or(MetadataError::NoSection)?;
        let data = section
            .data()
            .map_err(|_| MetadataError::Damaged("the section lies outside the file"))?;
        parse(text(data)?)
    }

    fn for_this_machine(architecture: object::Architecture) -> bool {
        use object::Architecture as A;
        match architecture {
            A::X86_64 => cfg!(target_arch = "x86_64"),
            A::Aarch64 => cfg!(target_arch = "aarch64"),
            A::Riscv64 => cfg!(target_arch = "riscv64"),
            // Leave others to the system's loader.
            _ => cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))),
        }
    }

    fn text(data: &[u8]) -> Result<&str, MetadataError> {
        let rest = data
            .strip_prefix(MAGIC)
            .ok_or(MetadataError::Damaged("wrong magic number"))?;
        let (len, rest) = rest
            .split_first_chunk::<4>()
            .ok_or(MetadataError::Damaged("truncated"))?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > MAX_TEXT {
            return Err(MetadataError::Damaged("the text is too long"));
        }
        let text = rest.get(..len).ok_or(MetadataError::Damaged("truncated"))?;
        std::str::from_utf8(text).map_err(|_| MetadataError::Damaged("the text is not UTF-8"))
    }

    fn parse(text: &str) -> Result<PluginMetadata, MetadataError> {
        let field = |key: &'static str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, value)| *name == key && !value.is_empty())
                .map(|(_, value)| value.to_owned())
                .ok_or(MetadataError::Missing(key))
        };
        let formats: Vec<String> = field("formats")?
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let id = field("id")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !id
            .chars()
            .chain(formats.iter().flat_map(|f| f.chars()))
            .all(plain)
        {
            return Err(MetadataError::Damaged(
                "names may have letters, digits, '-', '_' and '.' only",
            ));
        }
        Ok(PluginMetadata {
            id,
            version: field("version")?,
            interface_version: field("interface")?,
            formats,
            licence: field("licence").unwrap_or_else(|_| "unknown".into()),
            description: field("description").unwrap_or_default(),
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::metadata::{block, block_len};

        const PARTS: &[&str] = &[
            "id=demo\nversion=1.2.3\n",
            "interface=1.0\nformats=a, b\nlicence=MIT\ndescription=Demo\nfuture=x\n",
        ];

        #[test]
        fn the_block_reads_back() {
            const BLOCK: [u8; block_len(PARTS)] = block(PARTS);
            let metadata = parse(text(&BLOCK).unwrap()).unwrap();
            assert_eq!(metadata.id, "demo");
            assert_eq!(metadata.formats, ["a", "b"]);
            assert_eq!(metadata.interface_version, "1.0");
        }

        #[test]
        fn damage_is_named() {
            const BLOCK: [u8; block_len(PARTS)] = block(PARTS);
            assert!(text(&BLOCK[..18]).is_err());
            assert!(text(&BLOCK[..40]).is_err());
            assert!(text(&BLOCK[1..]).is_err());
            assert_eq!(parse("id=x"), Err(MetadataError::Missing("formats")));
            assert!(parse("id=../x\nformats=a\nversion=1\ninterface=1.0").is_err());
            assert!(matches!(read(b"text"), Err(MetadataError::NotALibrary(_))));
        }

        #[test]
        fn an_ordinary_program_is_no_plugin() {
            let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
            assert!(read(&own).is_err());
        }
    }
}
