//! Where plugins are looked for, and in which order.
//!
//! Never the current folder: a plugin is code, and what lies there may be anyone's.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Plugin folders, separated like `PATH`.
pub const PATH_VARIABLE: &str = "LLM_QUANTIZE_PLUGIN_PATH";

/// The system's folder, which packagers set at build time.
const SYSTEM_FOLDER: &str = match option_env!("LLM_QUANTIZE_SYSTEM_PLUGIN_DIR") {
    Some(folder) => folder,
    None => "/usr/lib/llm-quantize/plugins",
};

/// A folder to look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchFolder {
    /// The folder.
    pub path: PathBuf,
    /// Only libraries whose name starts so; a build folder holds others, too.
    pub prefix: &'static str,
    /// Why it is searched, for people.
    pub reason: &'static str,
}

/// The folders in order; the first plugin of an id wins.
pub fn search_folders(plugin_dirs: &[PathBuf]) -> Vec<SearchFolder> {
    let executable = env::current_exe().and_then(|path| path.canonicalize()).ok();
    folders(
        plugin_dirs,
        env::var_os(PATH_VARIABLE).as_deref(),
        dirs::data_dir().as_deref(),
        executable.as_deref().and_then(Path::parent),
    )
}

fn folders(
    plugin_dirs: &[PathBuf],
    path_variable: Option<&OsStr>,
    user_data: Option<&Path>,
    beside: Option<&Path>,
) -> Vec<SearchFolder> {
    let mut found = Vec::new();
    let mut add = |path: PathBuf, prefix, reason| {
        found.push(SearchFolder {
            path,
            prefix,
            reason,
        });
    };
    for dir in plugin_dirs {
        add(dir.clone(), "", "--plugin-dir");
    }
    for dir in path_variable.map(env::split_paths).into_iter().flatten() {
        // An empty entry would mean the current folder.
        if dir.is_absolute() {
            add(dir, "", PATH_VARIABLE);
        }
    }
    if let Some(data) = user_data {
        add(
            data.join("llm-quantize/plugins"),
            "",
            "the user's data folder",
        );
    }
    if let Some(beside) = beside {
        add(
            beside.join("../lib/llm-quantize/plugins"),
            "",
            "beside the program",
        );
        // Cargo's build folder: the libraries lie beside the program.
        if beside.join("deps").is_dir() {
            add(beside.to_owned(), BUILD_PREFIX, "the build folder");
        }
    }
    add(PathBuf::from(SYSTEM_FOLDER), "", "the system's folder");
    found
}

/// How the project's own libraries are named in a build folder.
const BUILD_PREFIX: &str = if cfg!(windows) {
    "llm_quantize_"
} else {
    "libllm_quantize_"
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_documented_one() {
        let build = tempfile::tempdir().unwrap();
        std::fs::create_dir(build.path().join("deps")).unwrap();
        let found = folders(
            &["/given".into()],
            Some(OsStr::new("/one:/two")),
            Some(Path::new("/home/me/.local/share")),
            Some(build.path()),
        );
        let reasons: Vec<&str> = found.iter().map(|folder| folder.reason).collect();
        assert_eq!(
            reasons,
            [
                "--plugin-dir",
                PATH_VARIABLE,
                PATH_VARIABLE,
                "the user's data folder",
                "beside the program",
                "the build folder",
                "the system's folder"
            ]
        );
        assert_eq!(found[5].prefix, BUILD_PREFIX);
    }

    #[test]
    fn the_current_folder_is_never_searched() {
        let found = folders(&[], Some(OsStr::new(":.:plugins")), None, None);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, Path::new(SYSTEM_FOLDER));
    }

    #[test]
    fn an_installed_program_has_no_build_folder() {
        let bin = tempfile::tempdir().unwrap();
        let found = folders(&[], None, None, Some(bin.path()));
        assert!(found.iter().all(|folder| folder.prefix.is_empty()));
    }
}
