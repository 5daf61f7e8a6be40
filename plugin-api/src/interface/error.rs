//! The error that crosses the interface.

use std::fmt;

/// What went wrong, as far as the host must know to answer the user.
///
/// The host turns each kind into an exit code. The numbers are part of the
/// interface: new kinds are added at the end, and a side that does not know a
/// number reads it as [`ErrorKind::Internal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorKind {
    /// The plugin failed in a way that is its own fault.
    Internal = 0,
    /// A level, option or combination of options that the format does not have.
    InvalidRequest = 1,
    /// The model cannot be expressed in this format (unknown architecture, a
    /// tokenizer or a shape that the format cannot hold).
    Unsupported = 2,
    /// The input is damaged or is not what it claims to be.
    CorruptInput = 3,
    /// An importance matrix is missing, damaged or belongs to another model.
    ImportanceMatrix = 4,
    /// The finished output does not verify.
    VerificationFailed = 5,
    /// The host asked to stop.
    Cancelled = 6,
    /// The plugin panicked; the panic was caught at the boundary.
    Panicked = 7,
}

impl ErrorKind {
    /// The kind with this number; unknown ones are [`ErrorKind::Internal`].
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::InvalidRequest,
            2 => Self::Unsupported,
            3 => Self::CorruptInput,
            4 => Self::ImportanceMatrix,
            5 => Self::VerificationFailed,
            6 => Self::Cancelled,
            7 => Self::Panicked,
            _ => Self::Internal,
        }
    }

    /// The number that crosses the interface.
    pub fn code(self) -> u32 {
        self as u32
    }
}

/// A plugin's error: what is wrong, where, and if possible what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// What is wrong and where.
    pub message: String,
    /// What the user can do; shown on a line of its own.
    pub suggestion: Option<String>,
}

impl Error {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            suggestion: None,
        }
    }

    /// [`ErrorKind::InvalidRequest`].
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::CorruptInput`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::CorruptInput, message)
    }

    /// [`ErrorKind::VerificationFailed`].
    pub fn verification(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::VerificationFailed, message)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The result of every call across the interface.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_unknown_ones_are_internal() {
        for code in 0..8 {
            assert_eq!(ErrorKind::from_code(code).code(), code);
        }
        assert_eq!(ErrorKind::from_code(99), ErrorKind::Internal);
    }
}
