use super::*;
use crate::error::ExitCode;
use crate::source::fixtures::write_llama;
use crate::source::test_plugin::{TextConverter, converters};

fn class_and_hint(result: Result<Located>) -> (ExitCode, String, String) {
    let error = result.unwrap_err();
    (
        error.class,
        error.message,
        error.suggestion.unwrap_or_default(),
    )
}

#[test]
fn what_is_not_there() {
    let (class, message, hint) = class_and_hint(locate("no/such/model", &[]));
    assert_eq!(class, ExitCode::ModelNotFound);
    assert!(message.contains("no/such/model") && hint.contains("org/name"));
}

#[test]
fn part_names() {
    let parts = PartName::parse("m-Q4-00002-of-00003.gguf").unwrap();
    assert_eq!((parts.prefix, parts.count), ("m-Q4", 3));
    assert_eq!(parts.name(1), "m-Q4-00001-of-00003.gguf");
    for name in [
        "m.gguf",
        "m-1-of-3.gguf",
        "m-00000-of-00003.gguf",
        "m-00004-of-00003.gguf",
        "-00001-of-00001.gguf",
        "m-00001-of-00002",
    ] {
        assert_eq!(PartName::parse(name), None, "{name}");
        assert_eq!(all_parts(name), [name]);
    }
}

#[test]
fn all_parts_of_a_file_are_gathered() {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=2 {
        let name = format!("m-{number:05}-of-00002.txt");
        std::fs::write(folder.path().join(name), "TEXT 1").unwrap();
    }
    let second = folder.path().join("m-00002-of-00002.txt");
    let located = locate(second.to_str().unwrap(), &converters()).unwrap();
    assert_eq!(
        (located.plugin(), located.name.as_str()),
        (Some("text"), "m")
    );
    let Kind::Plugin(_, files) = &located.kind else {
        panic!("it is a plugin's");
    };
    let names: Vec<_> = files.iter().map(|file| file.name()).collect();
    assert_eq!(names, ["m-00001-of-00002.txt", "m-00002-of-00002.txt"]);

    std::fs::remove_file(folder.path().join(names[0])).unwrap();
    let (class, message, _) = class_and_hint(locate(second.to_str().unwrap(), &converters()));
    assert_eq!(class, ExitCode::Validation);
    assert!(message.contains("m-00001-of-00002.txt is missing"));
}

#[test]
fn a_stray_file_does_not_make_a_folder_a_plugins() {
    let folder = tempfile::tempdir().unwrap();
    write_llama(folder.path());
    std::fs::write(folder.path().join("other.text"), "TEXT 1").unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(locate(path, &converters()).unwrap().plugin(), None);
    // Without weights of its own the folder is the plugin's.
    std::fs::remove_file(folder.path().join(SINGLE)).unwrap();
    assert_eq!(locate(path, &converters()).unwrap().plugin(), Some("text"));
}

#[test]
fn a_plugin_sees_folders_in_the_hugging_face_layout_first() {
    let folder = tempfile::tempdir().unwrap();
    write_llama(folder.path());
    std::fs::write(folder.path().join("text_config.json"), "TEXT 1").unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(locate(path, &converters()).unwrap().plugin(), Some("text"));
}

#[test]
fn what_is_wrong_with_a_folder_is_said() {
    for (names, what) in [
        (&["adapter_config.json"][..], "adapter"),
        (&["config.json", "a.safetensors"], "neither"),
        (&["config.json", "pytorch_model.bin"], "PyTorch"),
        (&["config.json"], "no weights"),
        (&["a", "b"], "it holds a, b"),
        (&[], "it is empty"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let (class, message, hint) =
            class_and_hint(locate(folder.path().to_str().unwrap(), &converters()));
        assert_eq!(class, ExitCode::Validation);
        assert!(message.contains(what), "{message}");
        assert!(!hint.is_empty());
    }
}

#[test]
fn unknown_files_are_named_by_their_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    std::fs::write(&path, b"PK\x03\x04rest of it").unwrap();
    let (class, _, hint) = class_and_hint(locate(path.to_str().unwrap(), &converters()));
    assert_eq!(class, ExitCode::Validation);
    assert!(hint.contains("PK\\x03\\x04"), "{hint}");
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, b"x").unwrap();
    let (_, _, hint) = class_and_hint(locate(path.to_str().unwrap(), &converters()));
    assert!(hint.contains("folder"), "{hint}");
}

#[test]
fn names_of_models() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = folder.path().join("models--org--My-Model/snapshots/0a1b");
    std::fs::create_dir_all(&snapshot).unwrap();
    assert_eq!(name_of(&snapshot), "My-Model");
    assert_eq!(name_of(&folder.path().join("a.b.gguf")), "a.b");
    assert_eq!(name_of(&snapshot.join("../../snapshots")), "snapshots");
}

#[test]
fn the_test_converter_detects_its_own() {
    use llm_quantize_plugin_api::Converter;
    let bytes = b"TEXT 1";
    let view = FileView { name: "x", bytes };
    assert!(TextConverter.detect(&[view]));
}
