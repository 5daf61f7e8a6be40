//! GGUF files and importance matrices.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use llm_quantize_fuzz::tiny::{self, WIDTH};

use super::{CORRUPT, Case, IMATRIX, check, fifo, link_out};

/// Replaces bytes that must be there.
fn swap_bytes(path: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    bytes.splice(at..at + from.len(), to.iter().copied());
    fs::write(path, bytes).unwrap();
}

const GGUF: &str = "model.gguf";

fn gguf() -> Vec<tiny::File> {
    let files = tiny::gguf(WIDTH, "F16", None, false).into_iter();
    files.map(|file| (file.name, file.bytes)).collect()
}

/// Overwrites bytes of the GGUF file.
fn poke(folder: &Path, at: usize, bytes: &[u8]) {
    let path = folder.join(GGUF);
    let mut file = fs::read(&path).unwrap();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, file).unwrap();
}

/// Overwrites bytes of a tensor's entry, counted from the end of its name.
fn poke_entry(folder: &Path, at: usize, bytes: &[u8]) {
    const NAME: &[u8] = b"blk.0.attn_q.weight";
    let file = fs::read(folder.join(GGUF)).unwrap();
    let name = file
        .windows(NAME.len())
        .position(|window| window == NAME)
        .unwrap();
    poke(folder, name + NAME.len() + at, bytes);
}

#[test]
fn gguf_files() {
    // An entry after its name: number of dimensions (4 bytes), two of them (8 each), type (4),
    // offset (8).
    let cases: &[Case] = &[
        ("unchanged", |_| {}, 0, "success"),
        (
            "empty",
            |folder| fs::write(folder.join(GGUF), "").unwrap(),
            CORRUPT,
            "the file is empty",
        ),
        (
            "a pipe",
            |folder| fifo(&folder.join(GGUF)),
            CORRUPT,
            "not a regular file",
        ),
        (
            "a device",
            |folder| {
                fs::remove_file(folder.join(GGUF)).unwrap();
                symlink("/dev/zero", folder.join(GGUF)).unwrap();
            },
            CORRUPT,
            "not a regular file",
        ),
        (
            "version 99",
            |folder| poke(folder, 4, &[99]),
            CORRUPT,
            "version 99",
        ),
        (
            "big-endian",
            |folder| poke(folder, 4, &[0, 0, 0, 3]),
            CORRUPT,
            "big-endian",
        ),
        (
            "2^60 tensors",
            |folder| poke(folder, 15, &[0x10]),
            CORRUPT,
            "more than the file has room for",
        ),
        (
            "2^60 keys",
            |folder| poke(folder, 23, &[0x10]),
            CORRUPT,
            "more than the file has room for",
        ),
        (
            "a key of 2^60 bytes",
            |folder| poke(folder, 31, &[0x10]),
            CORRUPT,
            "cut off",
        ),
        (
            "cut short",
            |folder| {
                let bytes = fs::read(folder.join(GGUF)).unwrap();
                fs::write(folder.join(GGUF), &bytes[..bytes.len() - 99]).unwrap();
            },
            CORRUPT,
            "but the file ends at",
        ),
        (
            "a key twice",
            |folder| {
                swap_bytes(
                    &folder.join(GGUF),
                    b"tokenizer.ggml.bos_token_id",
                    b"tokenizer.ggml.eos_token_id",
                );
            },
            CORRUPT,
            "a second time",
        ),
        (
            "a tensor twice",
            |folder| {
                swap_bytes(
                    &folder.join(GGUF),
                    b"blk.0.attn_q.weight",
                    b"blk.0.attn_v.weight",
                );
            },
            CORRUPT,
            "a second time",
        ),
        (
            "a tensor with a path as name",
            |folder| {
                swap_bytes(
                    &folder.join(GGUF),
                    b"blk.0.attn_q.weight",
                    b"../../../../../../x",
                );
            },
            0,
            "success",
        ),
        (
            "five dimensions",
            |folder| poke_entry(folder, 0, &[5]),
            CORRUPT,
            "has 5 dimensions",
        ),
        (
            "2^60 columns",
            |folder| poke_entry(folder, 4, &(1u64 << 60).to_le_bytes()),
            CORRUPT,
            "impossible dimensions",
        ),
        (
            "no columns but 2^40 rows",
            |folder| {
                poke_entry(
                    folder,
                    4,
                    &[&0u64.to_le_bytes()[..], &(1u64 << 40).to_le_bytes()].concat(),
                );
            },
            CORRUPT,
            "impossible dimensions",
        ),
        (
            "an unknown type",
            |folder| poke_entry(folder, 20, &[200]),
            CORRUPT,
            "has type 200",
        ),
        (
            "an odd offset",
            |folder| poke_entry(folder, 24, &[1]),
            CORRUPT,
            "not a multiple of",
        ),
        (
            "an offset that overlaps",
            |folder| poke_entry(folder, 24, &[0; 8]),
            CORRUPT,
            "overlap",
        ),
        (
            "an offset beyond the end",
            |folder| poke_entry(folder, 24, &(1u64 << 62).to_le_bytes()),
            CORRUPT,
            "but the file ends at",
        ),
    ];
    check(gguf, GGUF, &["--set", "allow-requantize=true"], cases);
}

#[test]
fn gguf_shards() {
    let shards = || {
        let files = tiny::gguf(WIDTH, "F16", Some("9K"), false).into_iter();
        files.map(|file| (file.name, file.bytes)).collect()
    };
    const SECOND: &str = "model-00002-of-00002.gguf";
    let cases: &[Case] = &[
        ("unchanged", |_| {}, 0, "success"),
        (
            "one is missing",
            |folder| fs::remove_file(folder.join(SECOND)).unwrap(),
            CORRUPT,
            "is missing",
        ),
        (
            "one twice",
            |folder| {
                fs::copy(
                    folder.join("model-00001-of-00002.gguf"),
                    folder.join(SECOND),
                )
                .unwrap();
            },
            CORRUPT,
            "both part 1",
        ),
        (
            "another count",
            |folder| {
                swap_bytes(
                    &folder.join(SECOND),
                    b"split.count\x02\0\0\0\x02",
                    b"split.count\x02\0\0\0\x03",
                );
            },
            CORRUPT,
            "part of a model of 3 files",
        ),
        (
            "another number",
            |folder| {
                swap_bytes(
                    &folder.join(SECOND),
                    b"split.no\x02\0\0\0\x01",
                    b"split.no\x02\0\0\0\x07",
                );
            },
            CORRUPT,
            "part 8",
        ),
        (
            "another model",
            |folder| {
                swap_bytes(
                    &folder.join(SECOND),
                    b"split.tensors.count\x05\0\0\0\x0b",
                    b"split.tensors.count\x05\0\0\0\x0c",
                );
            },
            CORRUPT,
            "different models",
        ),
        (
            "elsewhere by a link",
            |folder| link_out(folder, SECOND),
            CORRUPT,
            "leaves the model's folder",
        ),
    ];
    check(shards, "model-00001-of-00002.gguf", &[], cases);
}

#[test]
fn importance_matrices() {
    let folder = || {
        let mut files = tiny::folder(WIDTH);
        files.push(("imatrix".into(), tiny::legacy_imatrix(WIDTH)));
        files
    };
    // Number of entries, length of a name of 19 bytes, name, calls, number of values, values.
    const CALLS: usize = 4 + 4 + 19;
    let cases: &[Case] = &[
        ("unchanged", |_| {}, 0, "success"),
        (
            "empty",
            |folder| fs::write(folder.join("imatrix"), "").unwrap(),
            IMATRIX,
            "cut off",
        ),
        (
            "a pipe",
            |folder| fifo(&folder.join("imatrix")),
            IMATRIX,
            "not a regular file",
        ),
        (
            "2^31 - 1 entries",
            |folder| matrix(folder, 0, &[0xFF, 0xFF, 0xFF, 0x7F]),
            IMATRIX,
            "cut off",
        ),
        (
            "a negative number of entries",
            |folder| matrix(folder, 0, &[0xFF; 4]),
            IMATRIX,
            "is -1",
        ),
        (
            "2^31 - 1 values",
            |folder| matrix(folder, CALLS + 4, &[0xFF, 0xFF, 0xFF, 0x7F]),
            IMATRIX,
            "cut off",
        ),
        (
            "no number",
            |folder| matrix(folder, CALLS + 8, &f32::NAN.to_le_bytes()),
            IMATRIX,
            "NaN",
        ),
        (
            "a negative number",
            |folder| matrix(folder, CALLS + 8, &(-7f32).to_le_bytes()),
            IMATRIX,
            "not negative",
        ),
        (
            "another model's",
            |folder| {
                fs::write(folder.join("imatrix"), tiny::legacy_imatrix(64)).unwrap();
            },
            IMATRIX,
            "another model",
        ),
        (
            "a model",
            |folder| fs::write(folder.join("imatrix"), &gguf()[0].1).unwrap(),
            IMATRIX,
            "not an importance matrix",
        ),
    ];
    check(folder, "", &[], cases);
}

fn matrix(folder: &Path, at: usize, bytes: &[u8]) {
    let path = folder.join("imatrix");
    let mut file = fs::read(&path).unwrap();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, file).unwrap();
}
