//! What can go wrong, as the user sees it: what and where, what to do about it,
//! and the exit code.

use std::path::Path;

use llm_quantize_plugin_api as plugin_api;
use plugin_api::ErrorKind;

/// The result of everything in the host.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Classes of failures; each has an exit code and a name in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Anything that no other class covers.
    Other,
    /// Invalid arguments.
    InvalidArguments,
    /// The model does not exist.
    ModelNotFound,
    /// A gated or private model needs a token.
    AuthenticationRequired,
    /// Out of memory, or the budget cannot be met.
    OutOfMemory,
    /// Corrupt input, or an output that does not verify.
    Validation,
    /// A checkpoint cannot be written or used.
    Checkpoint,
    /// The conversion is not supported.
    UnsupportedConversion,
    /// The user (or no terminal) declined the quality warning.
    QualityDeclined,
    /// The importance matrix is missing or invalid.
    ImportanceMatrix,
    /// A plugin is missing, refused or incompatible.
    PluginUnavailable,
    /// A plugin failed.
    PluginFailed,
    /// Not enough disk space.
    DiskSpace,
    /// Interrupted by the user.
    Interrupted,
}

impl ExitCode {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Other,
        Self::InvalidArguments,
        Self::ModelNotFound,
        Self::AuthenticationRequired,
        Self::OutOfMemory,
        Self::Validation,
        Self::Checkpoint,
        Self::UnsupportedConversion,
        Self::QualityDeclined,
        Self::ImportanceMatrix,
        Self::PluginUnavailable,
        Self::PluginFailed,
        Self::DiskSpace,
        Self::Interrupted,
    ];

    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::InvalidArguments => 2,
            Self::ModelNotFound => 3,
            Self::AuthenticationRequired => 4,
            Self::OutOfMemory => 5,
            Self::Validation => 6,
            Self::Checkpoint => 7,
            Self::UnsupportedConversion => 8,
            Self::QualityDeclined => 9,
            Self::ImportanceMatrix => 10,
            Self::PluginUnavailable => 11,
            Self::PluginFailed => 12,
            Self::DiskSpace => 13,
            Self::Interrupted => 130,
        }
    }

    /// The name in JSON (`error_type`).
    pub fn error_type(self) -> &'static str {
        match self {
            Self::Other => "OtherError",
            Self::InvalidArguments => "InvalidArgumentsError",
            Self::ModelNotFound => "ModelNotFoundError",
            Self::AuthenticationRequired => "AuthenticationRequiredError",
            Self::OutOfMemory => "OutOfMemoryError",
            Self::Validation => "ValidationError",
            Self::Checkpoint => "CheckpointError",
            Self::UnsupportedConversion => "UnsupportedConversionError",
            Self::QualityDeclined => "QualityDeclinedError",
            Self::ImportanceMatrix => "ImportanceMatrixError",
            Self::PluginUnavailable => "PluginUnavailableError",
            Self::PluginFailed => "PluginFailedError",
            Self::DiskSpace => "DiskSpaceError",
            Self::Interrupted => "InterruptedError",
        }
    }

    /// What it means, for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Other => "any other error",
            Self::InvalidArguments => "invalid arguments",
            Self::ModelNotFound => "model not found",
            Self::AuthenticationRequired => "authentication required (gated or private model)",
            Self::OutOfMemory => "out of memory, or the budget cannot be met",
            Self::Validation => "corrupt input, or an output that does not verify",
            Self::Checkpoint => "checkpoint error",
            Self::UnsupportedConversion => "unsupported conversion",
            Self::QualityDeclined => "the quality warning was declined",
            Self::ImportanceMatrix => "importance matrix missing or invalid",
            Self::PluginUnavailable => "plugin missing, refused or incompatible",
            Self::PluginFailed => "a plugin failed",
            Self::DiskSpace => "not enough disk space",
            Self::Interrupted => "interrupted",
        }
    }
}

impl ExitCode {
    /// What to do where nothing better is known.
    pub fn general_advice(self) -> &'static str {
        match self {
            Self::Other => "run again with --verbosity debug for more details",
            Self::InvalidArguments => "see `llm-quantize --help`",
            Self::ModelNotFound => "check the path of the model",
            Self::AuthenticationRequired => "set HF_TOKEN to a token that may read the model",
            Self::OutOfMemory => "raise --max-memory, or use fewer --threads",
            Self::Validation => "get the file again from where it came from",
            Self::Checkpoint => "remove the checkpoint to start from the beginning",
            Self::UnsupportedConversion => "see `llm-quantize plugin list` for what is supported",
            Self::QualityDeclined => "use --force to accept the loss",
            Self::ImportanceMatrix => "make the importance matrix again from the same model",
            Self::PluginUnavailable => "see `llm-quantize plugin list`",
            Self::PluginFailed => "report this to the authors of the plugin",
            Self::DiskSpace => "free some space, or choose another --output-dir",
            Self::Interrupted => "run the same command again",
        }
    }
}

/// An error of the host.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Decides the exit code.
    pub class: ExitCode,
    /// What is wrong and where.
    pub message: String,
    /// What the user can do.
    pub suggestion: Option<String>,
    /// More for the JSON document, where a command has more to say than one message.
    pub details: Option<Box<serde_json::Value>>,
    /// What caused it, where something else did; the message already says it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of a class.
    pub fn new(class: ExitCode, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            suggestion: None,
            details: None,
            source: None,
        }
    }

    /// [`ExitCode::Other`].
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Other, message)
    }

    /// [`ExitCode::InvalidArguments`].
    pub fn invalid_arguments(message: impl Into<String>) -> Self {
        Self::new(ExitCode::InvalidArguments, message)
    }

    /// [`ExitCode::ModelNotFound`].
    pub fn model_not_found(message: impl Into<String>) -> Self {
        Self::new(ExitCode::ModelNotFound, message)
    }

    /// [`ExitCode::Validation`].
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Validation, message)
    }

    /// [`ExitCode::UnsupportedConversion`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ExitCode::UnsupportedConversion, message)
    }

    /// [`ExitCode::Interrupted`].
    pub fn interrupted() -> Self {
        Self::new(ExitCode::Interrupted, "interrupted")
    }

    /// An operation on a file failed: `action` is a verb such as `read`.
    pub fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let class = match source.kind() {
            Io::StorageFull | Io::QuotaExceeded => ExitCode::DiskSpace,
            Io::OutOfMemory => ExitCode::OutOfMemory,
            _ => ExitCode::Other,
        };
        let mut error = Self::new(
            class,
            format!("cannot {action} {}: {source}", path.display()),
        );
        error.suggestion = io_advice(&source).map(str::to_owned);
        error.source = Some(Box::new(source));
        error
    }

    /// An error that a plugin returned; the message names the plugin.
    pub fn from_plugin(plugin: &str, error: plugin_api::Error) -> Self {
        let mut own = Self::from(error);
        own.message = format!("plugin \"{plugin}\": {}", own.message);
        own
    }

    /// What the user can do: there is always something.
    pub fn advice(&self) -> &str {
        let general = || self.class.general_advice();
        self.suggestion.as_deref().unwrap_or_else(general)
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Adds what the JSON document has besides the message.
    #[must_use]
    pub fn details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Changes the class.
    #[must_use]
    pub fn class(mut self, class: ExitCode) -> Self {
        self.class = class;
        self
    }
}

/// What to do about a failed operation, where that is known.
fn io_advice(error: &std::io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::PermissionDenied => Some("check the permissions of the file and its folder"),
        Io::ReadOnlyFilesystem => Some("choose a folder on a disk that can be written"),
        Io::FileTooLarge => Some(
            "the file system or the limit on file sizes (`ulimit -f`) allows no file of this \
             size: choose another folder, or raise the limit",
        ),
        _ => match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => Some(
                "too many files are open: raise the limit (`ulimit -n`), or close other programs",
            ),
            _ => None,
        },
    }
}

impl From<plugin_api::Error> for Error {
    /// For the checks of plugin-api that the host itself runs;
    /// [`Error::from_plugin`] names the plugin.
    fn from(error: plugin_api::Error) -> Self {
        let class = match error.kind {
            ErrorKind::InvalidRequest => ExitCode::InvalidArguments,
            ErrorKind::Unsupported => ExitCode::UnsupportedConversion,
            ErrorKind::CorruptInput | ErrorKind::VerificationFailed => ExitCode::Validation,
            ErrorKind::ImportanceMatrix => ExitCode::ImportanceMatrix,
            ErrorKind::Cancelled => ExitCode::Interrupted,
            ErrorKind::Internal | ErrorKind::Panicked => ExitCode::PluginFailed,
        };
        Self {
            class,
            message: error.message,
            suggestion: error.suggestion,
            details: None,
            source: None,
        }
    }
}

/// Attaches a plugin's name to its errors.
pub trait PluginResult<T> {
    /// Turns a plugin's error into the host's, with the plugin's name.
    ///
    /// # Errors
    /// The plugin's.
    fn by_plugin(self, plugin: &str) -> Result<T>;
}

impl<T> PluginResult<T> for plugin_api::Result<T> {
    fn by_plugin(self, plugin: &str) -> Result<T> {
        self.map_err(|error| Error::from_plugin(plugin, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let codes: Vec<u8> = ExitCode::ALL.iter().map(|c| c.code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 130]);
        for class in ExitCode::ALL {
            assert!(class.error_type().ends_with("Error"));
            assert!(!Error::new(class, "x").advice().is_empty());
        }
    }

    #[test]
    fn plugin_errors_keep_their_hint_and_name_the_plugin() {
        let given = plugin_api::Error::invalid_request("no such level").suggest("try Q4");
        let error = Err::<(), _>(given).by_plugin("demo").unwrap_err();
        assert_eq!(error.class, ExitCode::InvalidArguments);
        assert_eq!(error.message, "plugin \"demo\": no such level");
        assert_eq!(error.suggestion.as_deref(), Some("try Q4"));
    }

    #[test]
    fn every_kind_of_a_plugin_has_its_class() {
        let codes: Vec<u8> = (0..8)
            .map(|code| plugin_api::Error::new(ErrorKind::from_code(code), ""))
            .map(|error| Error::from(error).class.code())
            .collect();
        assert_eq!(codes, [12, 2, 8, 6, 10, 6, 130, 12]);
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::io("write", Path::new("/x"), full);
        assert_eq!(error.class, ExitCode::DiskSpace);
        assert!(error.message.contains("/x"));
    }

    #[test]
    fn limits_of_the_system_say_how_to_raise_them() {
        use rustix::io::Errno;
        for (errno, words) in [
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "ulimit -n"),
            (Errno::FBIG, "ulimit -f"),
            (Errno::ROFS, "can be written"),
            (Errno::ACCESS, "permissions"),
        ] {
            let error = Error::io("open", Path::new("/x"), errno.into());
            assert!(error.advice().contains(words), "{error:?}");
        }
    }
}
