//! The hash that a blob is named by.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::output::hex;

/// A hash in the making, of the kind that a name asks for.
#[derive(Clone)]
pub enum Checksum {
    /// Large files are named by the SHA-256 of their content.
    Sha256(Sha256),
    /// Small ones as git names them: SHA-1 of a short header and the content.
    GitBlob(Sha1),
    /// The name is no hash that is known (a mirror's own).
    Unknown,
}

impl Checksum {
    /// For a blob of this name and length.
    pub fn for_blob(name: &str, length: u64) -> Self {
        let hexadecimal = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match name.len() {
            64 if hexadecimal => Self::Sha256(Sha256::new()),
            40 if hexadecimal => {
                let header = format!("blob {length}\0");
                Self::GitBlob(Sha1::new_with_prefix(header.as_bytes()))
            }
            _ => Self::Unknown,
        }
    }

    /// Adds content.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::GitBlob(hash) => hash.update(bytes),
            Self::Unknown => {}
        }
    }

    /// The hash, in the form of a blob's name; `None` if the kind is not known.
    pub fn finish(self) -> Option<String> {
        let bytes = match self {
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::GitBlob(hash) => hash.finalize().to_vec(),
            Self::Unknown => return None,
        };
        Some(hex(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(content: &[u8], name_length: usize) -> Option<String> {
        let name = "a".repeat(name_length);
        let mut hash = Checksum::for_blob(&name, content.len() as u64);
        for part in content.chunks(3) {
            hash.update(part);
        }
        hash.finish()
    }

    #[test]
    fn known_hashes() {
        assert_eq!(
            hash_of(b"hello\n", 64).unwrap(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        // As `git hash-object` says.
        assert_eq!(
            hash_of(b"hello\n", 40).unwrap(),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        assert_eq!(hash_of(b"hello\n", 32), None);
    }
}
