//! The command line itself: help, versions, mistakes, completions, the manual.

mod common;

use common::{assert_error, code, document, program, run, stderr, stdout};
use std::io::Read;
use std::process::Stdio;

#[test]
fn the_version_names_the_interface() {
    let output = run(&["--version"]);
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    assert!(
        text.starts_with(concat!("llm-quantize ", env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
    let interface = llm_quantize_plugin_api::INTERFACE_VERSION;
    assert!(text.contains(&format!("interface {interface}")), "{text}");
    assert!(output.stderr.is_empty());
}

#[test]
fn help_goes_to_stdout_and_succeeds() {
    for arguments in [
        &["--help"][..],
        &["quantize", "--help"],
        &["plugin", "info", "-h"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 0);
        assert!(
            stdout(&output).contains("Usage: llm-quantize"),
            "{arguments:?}"
        );
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn mistakes_exit_with_2_and_leave_stdout_alone() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["quantize", "m", "gguf"],
        &[
            "quantize",
            "m",
            "gguf",
            "-q",
            "Q4_K_M",
            "--group-size",
            "17",
        ],
        &[
            "quantize",
            "m",
            "gguf",
            "-q",
            "Q4_K_M",
            "--max-memory",
            "much",
        ],
        &["info"],
        &["--threads", "0", "info", "m"],
        &["plugin"],
        &["completions", "no-such-shell"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn mistakes_are_documents_with_json() {
    let output = run(&["--format", "json", "quantize", "m", "gguf"]);
    assert_error(&output, 2, "InvalidArgumentsError", "--quant-level");
    let output = run(&[
        "quantize",
        "m",
        "gguf",
        "-q",
        "x",
        "--format=json",
        "--set",
        "broken",
    ]);
    assert_error(&output, 2, "InvalidArgumentsError", "KEY=VALUE");
    let output = run(&["--format", "json", "inof", "m"]);
    assert_error(&output, 2, "InvalidArgumentsError", "inof");
    assert!(
        document(&output)["suggestion"]
            .as_str()
            .unwrap()
            .contains("info")
    );
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0, "{shell}");
        let script = stdout(&output);
        for word in ["llm-quantize", "quantize", "max-memory", "completions"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn the_manual_covers_everything() {
    let output = run(&["man"]);
    assert_eq!(code(&output), 0);
    let page = stdout(&output);
    assert_eq!(page.matches(".TH ").count(), 1);
    for part in [
        "LLM-QUANTIZE QUANTIZE",
        "LLM-QUANTIZE PLUGIN INFO",
        "EXIT STATUS",
        "ENVIRONMENT",
    ] {
        assert!(page.contains(&format!(".SH \"{part}\"")), "{part}");
    }
}

#[test]
fn the_manual_as_a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let output = run(&["man", "--dir", pages.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for name in [
        "llm-quantize.1",
        "llm-quantize-quantize.1",
        "llm-quantize-plugin-list.1",
    ] {
        assert!(pages.join(name).is_file(), "{name}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = program()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn colours_only_where_they_are_wanted() {
    let coloured = |name: &str, value: &str| {
        let output = program()
            .args(["info", "no-such-model"])
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(code(&output), 3);
        stderr(&output).contains('\x1b')
    };
    assert!(!coloured("TERM", "xterm-256color"));
    assert!(coloured("CLICOLOR_FORCE", "1"));
    assert!(!coloured("NO_COLOR", "1"));
}
