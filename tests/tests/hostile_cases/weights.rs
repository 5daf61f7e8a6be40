//! safetensors files, shards and their index.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use llm_quantize_fuzz::tiny::{self, WIDTH};
use llm_quantize_tests::{edit_json, run_limited};
use serde_json::json;

use super::{CORRUPT, Case, UNSUPPORTED, check, fifo, link_out, swap};

const SINGLE: &str = "model.safetensors";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Changes the text of a safetensors header; its length is made to fit.
fn edit_header(path: &Path, edit: impl FnOnce(String) -> String) {
    let bytes = fs::read(path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = edit(String::from_utf8(header.to_vec()).unwrap());
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    out.extend(data);
    fs::write(path, out).unwrap();
}

#[test]
fn weights() {
    let folder = || tiny::folder(WIDTH);
    let cases: &[Case] = &[
        ("unchanged", |_| {}, 0, "success"),
        (
            "two tensors of one name",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    swap(
                        &text,
                        "layers.0.self_attn.k_proj",
                        "layers.0.self_attn.v_proj",
                    )
                });
            },
            CORRUPT,
            "occurs twice",
        ),
        (
            "a header of 2^63 bytes",
            |folder| {
                let mut bytes = fs::read(folder.join(SINGLE)).unwrap();
                bytes[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
                fs::write(folder.join(SINGLE), bytes).unwrap();
            },
            CORRUPT,
            "the limit is",
        ),
        (
            "cut short",
            |folder| {
                let bytes = fs::read(folder.join(SINGLE)).unwrap();
                fs::write(folder.join(SINGLE), &bytes[..bytes.len() - 7]).unwrap();
            },
            CORRUPT,
            "cut short",
        ),
        (
            "a tail",
            |folder| {
                let bytes = fs::read(folder.join(SINGLE)).unwrap();
                fs::write(folder.join(SINGLE), [&bytes[..], b"x"].concat()).unwrap();
            },
            CORRUPT,
            "with a tail",
        ),
        (
            "empty",
            |folder| fs::write(folder.join(SINGLE), "").unwrap(),
            CORRUPT,
            "shorter than",
        ),
        (
            "an end of 2^64 - 1",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    swap(
                        &text,
                        "\"data_offsets\":[0,512]",
                        "\"data_offsets\":[0,18446744073709551615]",
                    )
                });
            },
            CORRUPT,
            "cut short",
        ),
        (
            "a negative dimension",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    swap(&text, "[8,32]", "[-8,32]")
                });
            },
            CORRUPT,
            "not a valid safetensors",
        ),
        (
            "dimensions that overflow",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    swap(&text, "[8,32]", "[4294967296,4294967296,4294967296]")
                });
            },
            CORRUPT,
            "impossible shape",
        ),
        (
            "a tensor without rows but 2^40 columns",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    let more = "{\"x\":{\"dtype\":\"BF16\",\"shape\":[0,1099511627776],\"data_offsets\":[0,0]},";
                    swap(&text, "{", more)
                });
            },
            CORRUPT,
            "impossible shape",
        ),
        (
            "2^40 rows without columns",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    let more = "{\"x\":{\"dtype\":\"BF16\",\"shape\":[1099511627776,0],\"data_offsets\":[0,0]},";
                    swap(&text, "{", more)
                });
            },
            CORRUPT,
            "impossible shape",
        ),
        (
            "a tensor more",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    let more = "{\"\\u001b[31m/../x\":{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[0,0]},";
                    swap(&text, "{", more)
                });
            },
            UNSUPPORTED,
            "\\u001b[31m/../x",
        ),
        (
            "nested deeply",
            |folder| {
                edit_header(&folder.join(SINGLE), |text| {
                    swap(&text, "[8,32]", &"[".repeat(100_000))
                });
            },
            CORRUPT,
            "recursion limit",
        ),
        (
            "a folder",
            |folder| {
                fs::remove_file(folder.join(SINGLE)).unwrap();
                fs::create_dir(folder.join(SINGLE)).unwrap();
            },
            CORRUPT,
            "not a regular file",
        ),
        (
            "a pipe",
            |folder| fifo(&folder.join(SINGLE)),
            CORRUPT,
            "not a regular file",
        ),
        (
            "a link out of the folder",
            |folder| link_out(folder, SINGLE),
            CORRUPT,
            "leaves the model's folder",
        ),
    ];
    check(folder, "", &[], cases);
}

#[test]
fn shards_and_their_index() {
    let folder = || tiny::sharded_folder(WIDTH);
    let cases: &[Case] = &[
        ("unchanged", |_| {}, 0, "success"),
        (
            "a key twice",
            |folder| {
                let text = fs::read_to_string(folder.join(INDEX)).unwrap();
                fs::write(
                    folder.join(INDEX),
                    swap(
                        &text,
                        "\"model.norm.weight\"",
                        "\"model.embed_tokens.weight\"",
                    ),
                )
                .unwrap();
            },
            CORRUPT,
            "occurs twice",
        ),
        (
            "a shard elsewhere",
            |folder| {
                edit_json(&folder.join(INDEX), |index| {
                    index["weight_map"]["model.norm.weight"] = json!("../x.safetensors");
                });
            },
            CORRUPT,
            "beside the index",
        ),
        (
            "a shard elsewhere by a link",
            |folder| link_out(folder, SECOND),
            CORRUPT,
            "leaves the model's folder",
        ),
        (
            "an index by a link",
            |folder| link_out(folder, INDEX),
            CORRUPT,
            "leaves the model's folder",
        ),
        (
            "a shard that is missing",
            |folder| fs::remove_file(folder.join(SECOND)).unwrap(),
            CORRUPT,
            "1 of 2 shards are missing",
        ),
        (
            "a shard of another model",
            |folder| {
                fs::copy(folder.join(FIRST), folder.join(SECOND)).unwrap();
            },
            CORRUPT,
            "disagree",
        ),
        (
            "a shard that is a pipe",
            |folder| fifo(&folder.join(SECOND)),
            CORRUPT,
            "shards are missing",
        ),
        (
            "no map",
            |folder| fs::write(folder.join(INDEX), "{\"weight_map\": []}").unwrap(),
            CORRUPT,
            "not a valid index",
        ),
        (
            "empty",
            |folder| fs::write(folder.join(INDEX), "").unwrap(),
            CORRUPT,
            "not a valid index",
        ),
        (
            "not UTF-8",
            |folder| fs::write(folder.join(INDEX), b"{\"\xff\":0}").unwrap(),
            CORRUPT,
            "not a valid index",
        ),
    ];
    check(folder, "", &[], cases);
}

/// A Hub cache's snapshot consists of links to `blobs`, two folders up.
#[test]
fn the_hubs_cache_is_read_through_its_links() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = root.path().join("models--a--b/snapshots/c0ffee");
    let blobs = root.path().join("models--a--b/blobs");
    for folder in [&snapshot, &blobs] {
        fs::create_dir_all(folder).unwrap();
    }
    for (number, (name, bytes)) in tiny::folder(WIDTH).into_iter().enumerate() {
        fs::write(blobs.join(number.to_string()), bytes).unwrap();
        symlink(format!("../../blobs/{number}"), snapshot.join(name)).unwrap();
    }
    let (model, out) = (snapshot.to_str().unwrap(), root.path().join("out"));
    let arguments = [
        "quantize",
        model,
        "gguf",
        "-q",
        "Q8_0",
        "-o",
        out.to_str().unwrap(),
    ];
    let run = run_limited(arguments).unwrap();
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(out.join("b-Q8_0.gguf").is_file());
}
