//! Two sides of different age, both really built: the sources are copied and changed as
//! the next versions of the interface might, and each program meets the other's plugin.
//!
//! * `previous`: the previous minor version, without what came since. Works in this program.
//! * `next`: the next minor version, with a new function in the root module and a new
//!   method in a trait. Everything must work in both directions.
//! * `major`: the next major version. Refused in both directions, by the metadata.
//! * `changed`: a field of a struct changed, and nobody told the version. Refused when
//!   the library is loaded.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX, EXE_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use llm_quantize_tests::{
    Run, build_folder, example, finish, isolated, names, program_path, root, sha256, tiny_llama,
};

/// The interface as this version of the sources has it.
fn current() -> (u32, u32) {
    let manifest = fs::read_to_string(root().join("plugin-api/Cargo.toml")).unwrap();
    let line = manifest
        .lines()
        .find(|line| line.starts_with("version = \""))
        .unwrap();
    let mut numbers = line
        .split('"')
        .nth(1)
        .unwrap()
        .split('.')
        .map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A changed copy of the sources.
struct Copy {
    name: &'static str,
    folder: PathBuf,
}

impl Copy {
    /// Copies what host and interface are built from. Files that are the same already
    /// are left alone, so that a second run has nothing to build.
    fn new(name: &'static str, edits: &[(&str, Edit<'_>)]) -> Self {
        let folder = build_folder().join("interface-versions").join(name);
        let copy = Self { name, folder };
        let files = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];
        let folders = ["plugin-api", "host", "tests/fixtures"];
        for part in files.iter().chain(&folders) {
            copy.take(Path::new(part), edits);
        }
        for (file, _) in edits {
            assert!(root().join(file).is_file(), "there is no {file} to edit");
        }
        copy
    }

    fn take(&self, part: &Path, edits: &[(&str, Edit<'_>)]) {
        let (from, to) = (root().join(part), self.folder.join(part));
        if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
            // What an earlier run copied may be gone from the sources.
            for name in names(&to).iter().filter(|name| !from.join(name).exists()) {
                let gone = to.join(name);
                fs::remove_file(&gone)
                    .or_else(|_| fs::remove_dir_all(&gone))
                    .unwrap();
            }
            for name in names(&from) {
                self.take(&part.join(name), edits);
            }
            return;
        }
        let mut bytes = fs::read(&from).unwrap();
        for (_, edit) in edits.iter().filter(|(file, _)| Path::new(file) == part) {
            bytes = edit(&String::from_utf8(bytes).unwrap()).into_bytes();
        }
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(&to, bytes).unwrap();
        }
    }

    /// Builds in the tests' own target folder and profile, so that everything from the
    /// registry is there already.
    fn build(&self, what: &[&str]) {
        let target = build_folder().parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--offline"]).args(what);
        cargo.arg("--target-dir").arg(target);
        // These run for a moment only.
        for package in ["llm-quantize", "llm-quantize-plugin-api"] {
            let setting = format!("profile.dev.package.{package}.opt-level=0");
            cargo.args(["--config", &setting]);
        }
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(&self.folder).status().unwrap();
        assert!(
            status.success(),
            "cargo build {what:?} of {} failed",
            self.name
        );
    }

    /// Builds the program and the example plugin.
    fn both(&self) -> (PathBuf, PathBuf) {
        let (binary, example) = (format!("llm-quantize-{}", self.name), self.example());
        let packages = ["-p", "llm-quantize", "-p", "llm-quantize-plugin-api"];
        self.build(&[&packages[..], &["--bin", &binary, "--example", &example]].concat());
        let program = build_folder().join(format!("{binary}{EXE_SUFFIX}"));
        (program, self.library())
    }

    /// Builds the example plugin alone.
    fn plugin(&self) -> PathBuf {
        self.build(&[
            "-p",
            "llm-quantize-plugin-api",
            "--example",
            &self.example(),
        ]);
        self.library()
    }

    fn example(&self) -> String {
        format!("absmax8_{}", self.name)
    }

    fn library(&self) -> PathBuf {
        let file = format!("{DLL_PREFIX}{}{DLL_SUFFIX}", self.example());
        build_folder().join("examples").join(file)
    }
}

type Edit<'a> = Box<dyn Fn(&str) -> String + 'a>;

/// Replaces what must be there, once or more.
fn replace<'a>(from: &'a str, to: impl Into<String>) -> Edit<'a> {
    let to = to.into();
    Box::new(move |text| {
        assert!(text.contains(from), "the sources have no {from:?} any more");
        text.replace(from, &to)
    })
}

/// Adds lines at the end of the block that begins with `head`.
fn append<'a>(head: &'a str, lines: &'a str) -> Edit<'a> {
    Box::new(move |text| {
        let start = text.find(head);
        let start = start.unwrap_or_else(|| panic!("the sources have no {head:?} any more"));
        let end = start + text[start..].find("\n}").unwrap() + 1;
        format!("{}{lines}\n{}", &text[..end], &text[end..])
    })
}

/// Leaves out what begins with `from`, up to `to`.
fn without<'a>(from: &'a str, to: &'a str) -> Edit<'a> {
    Box::new(move |text| {
        let start = text.find(from);
        let start = start.unwrap_or_else(|| panic!("the sources have no {from:?} any more"));
        let end = text[start..].find(to);
        let end = start + end.unwrap_or_else(|| panic!("no {to:?} after {from:?} any more"));
        format!("{}{}", &text[..start], &text[end..])
    })
}

/// Changes the interface's version in the line that begins with `start`.
fn version(start: &str, (major, minor): (u32, u32)) -> Edit<'_> {
    Box::new(move |text| {
        let line = text.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no line begins with {start:?} any more"));
        let (now_major, now_minor) = current();
        let now = format!("\"{now_major}.{now_minor}.");
        assert!(line.contains(&now), "no {now:?} in {line:?}");
        text.replacen(line, &line.replace(&now, &format!("\"{major}.{minor}.")), 1)
    })
}

/// What every copy needs: a workspace of two, names that do not meet the originals', and
/// a version.
fn edits(name: &str, interface: (u32, u32)) -> Vec<(&'static str, Edit<'static>)> {
    let example = format!("name = \"absmax8_{name}\"\npath = \"examples/absmax8.rs\"");
    let binary = format!(
        "[[bin]]\nname = \"llm-quantize-{name}\"\npath = \"src/main.rs\"\n\n[dependencies]"
    );
    let (workspace, api) = ("Cargo.toml", "plugin-api/Cargo.toml");
    vec![
        (workspace, Box::new(only_two_members)),
        (workspace, version("llm-quantize-plugin-api", interface)),
        (api, version("version", interface)),
        (api, replace("name = \"absmax8\"", example)),
        (
            "host/Cargo.toml",
            replace("\n[dependencies]", format!("\n{binary}")),
        ),
    ]
}

fn only_two_members(manifest: &str) -> String {
    let lines = manifest
        .lines()
        .map(|line| match line.starts_with("members = ") {
            true => "members = [\"plugin-api\", \"host\"]",
            false => line,
        });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(text.contains("[\"plugin-api\", \"host\"]"));
    text
}

/// The previous minor version: jobs could not decode.
fn previous() -> Copy {
    let (major, minor) = current();
    let mut edits = edits("previous", (major, minor - 1));
    edits.extend([
        (
            "plugin-api/src/abi/raw.rs",
            without(
                "    /// Since 1.1.\n    fn decode(",
                "}\n\n/// See [`crate::Converter`]",
            ),
        ),
        (
            "plugin-api/src/abi/export.rs",
            without(
                "\n    fn decode(\n        &self,\n        unit: usize,",
                "}\n\nstruct ExportedConverter",
            ),
        ),
        (
            "plugin-api/src/abi/import.rs",
            without(
                "\n    fn decode(&self, call: DecodeCall",
                "}\n\nstruct ImportedConverter",
            ),
        ),
    ]);
    Copy::new("previous", &edits)
}

/// The next minor version: a root module and a trait that have grown at their end, and a
/// host that shows what it sees of both.
fn next() -> Copy {
    let (major, minor) = current();
    let raw = "plugin-api/src/abi/raw.rs";
    let export = "plugin-api/src/abi/export.rs";
    let news = "    pub news: extern \"C\" fn() -> u32,";
    let news_body = "\nextern \"C\" fn news() -> u32 { 11 }\n";
    let default_hint = "    fn hint(&self) -> u32 { 7 }";
    let own_hint = "    fn hint(&self) -> u32 { 42 }";
    let exported = "impl RawQuantizer for ExportedQuantizer";
    let asks = "    let formats = wire::from_json(";
    let shows = "    eprintln!(\"news={:?} hint={}\", module.news().map(|f| f()), raw.hint());\n";
    let mut edits = edits("next", (major, minor + 1));
    edits.extend([
        (raw, append("pub struct PluginModule {", news)),
        (raw, append("pub trait RawQuantizer", default_hint)),
        (export, append(exported, own_hint)),
        (
            export,
            replace(
                "    PluginModule {\n",
                "    PluginModule {\n        news,\n",
            ),
        ),
        (export, Box::new(move |text| format!("{text}{news_body}"))),
        (
            "plugin-api/src/abi/import.rs",
            replace(asks, format!("{shows}{asks}")),
        ),
    ]);
    Copy::new("next", &edits)
}

fn major() -> Copy {
    let (major, _) = current();
    Copy::new("major", &edits("major", (major + 1, 0)))
}

fn changed() -> Copy {
    let mut edits = edits("changed", current());
    let field = "    pub kind: u32,\n    pub message: RString,";
    let other = "    pub kind: u64,\n    pub message: RString,";
    edits.push(("plugin-api/src/abi/raw.rs", replace(field, other)));
    // What fills and reads the field must still compile.
    edits.push((
        "plugin-api/src/abi/raw.rs",
        replace(
            "ErrorKind::Internal.code()",
            "ErrorKind::Internal.code().into()",
        ),
    ));
    let wire = "plugin-api/src/abi/wire.rs";
    edits.push((
        wire,
        replace("error.kind.code()", "error.kind.code().into()"),
    ));
    edits.push((
        wire,
        replace("from_code(error.kind)", "from_code(error.kind as u32)"),
    ));
    Copy::new("changed", &edits)
}

/// Runs a program with one plugin on the built-in model; `out` is a new folder.
fn quantize(program: &Path, plugin: &Path, out: &Path) -> Run {
    let plugins = tempfile::tempdir().unwrap();
    fs::copy(plugin, plugins.path().join(plugin.file_name().unwrap())).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let mut command = isolated(program);
    command
        .env("LLM_QUANTIZE_CACHE", cache.path())
        .args(["--format", "json", "--plugin-dir"])
        .arg(plugins.path())
        .arg("quantize")
        .arg(tiny_llama())
        .args(["absmax8", "-q", "int8", "-n", "out", "-o"])
        .arg(out);
    finish(&mut command)
}

/// The hash of what comes out, and what stderr says.
#[track_caller]
fn works(program: &Path, plugin: &Path) -> (String, String) {
    let out = tempfile::tempdir().unwrap();
    let run = quantize(program, plugin, out.path()).expect_code(0);
    (sha256(&out.path().join("out")), run.stderr)
}

/// The reason why a plugin is refused, on one line.
#[track_caller]
fn refused(program: &Path, plugin: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let run = quantize(program, plugin, out.path()).expect_code(11);
    let message = run.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(names(out.path()).is_empty());
    message
}

/// One build at a time: cargo would make the others wait anyway.
static BUILDING: Mutex<()> = Mutex::new(());

#[test]
fn minor_versions_work_together_in_both_directions() {
    let (program, plugin) = {
        let _one = BUILDING.lock().unwrap();
        next().both()
    };
    let own = (program_path(), example("absmax8"));
    let (bytes, _) = works(&own.0, &own.1);
    // An older plugin: what it lacks has its defaults.
    let (same, stderr) = works(&program, &own.1);
    assert_eq!(same, bytes);
    assert!(stderr.contains("news=None hint=7"), "{stderr}");
    // A newer plugin: what nobody asks for does not matter.
    assert_eq!(works(&own.0, &plugin).0, bytes);
    // And both of the same age.
    let (same, stderr) = works(&program, &plugin);
    assert_eq!(same, bytes);
    assert!(stderr.contains("news=Some(11) hint=42"), "{stderr}");
}

#[test]
fn a_plugin_of_the_previous_minor_version_works() {
    let plugin = {
        let _one = BUILDING.lock().unwrap();
        previous().plugin()
    };
    let (bytes, _) = works(&program_path(), &example("absmax8"));
    assert_eq!(works(&program_path(), &plugin).0, bytes);
}

#[test]
fn another_major_version_is_refused_in_both_directions() {
    let (program, plugin) = {
        let _one = BUILDING.lock().unwrap();
        major().both()
    };
    let (major, minor) = current();
    let (now, next) = (format!("{major}.{minor}"), format!("{}.0", major + 1));
    let reason = refused(&program_path(), &plugin);
    assert!(
        reason.contains(&format!("interface version {next}, this program has {now}")),
        "{reason}"
    );
    let reason = refused(&program, &example("absmax8"));
    assert!(
        reason.contains(&format!("interface version {now}, this program has {next}")),
        "{reason}"
    );
}

#[test]
fn a_changed_layout_of_the_same_version_is_refused() {
    let plugin = {
        let _one = BUILDING.lock().unwrap();
        changed().plugin()
    };
    let reason = refused(&program_path(), &plugin);
    assert!(reason.contains("has an incompatible interface"), "{reason}");
    assert!(reason.contains("u32") && reason.contains("u64"), "{reason}");
}
