//! Calls `llama_model_quantize` of a llama.cpp that is on this machine.

use std::ffi::{CString, OsString, c_char, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The beginning of `llama_model_quantize_params` in llama.h.
#[repr(C)]
struct Params {
    nthread: i32,
    ftype: i32,
    output_tensor_type: i32,
    token_embedding_type: i32,
    allow_requantize: bool,
    quantize_output_tensor: bool,
    only_copy: bool,
    pure: bool,
    keep_split: bool,
    dry_run: bool,
    /// Pointers that stay as the library sets them, and room for what other versions have.
    rest: [MaybeUninit<usize>; 32],
}

type Log = unsafe extern "C" fn(i32, *const c_char, *mut c_void);

unsafe extern "C" fn quiet(_: i32, _: *const c_char, _: *mut c_void) {}

/// Number of a level in llama.h, for the levels that are worth a comparison.
pub fn ftype(level: &str) -> Option<i32> {
    let known = [
        ("Q4_0", 2),
        ("Q8_0", 7),
        ("Q2_K", 10),
        ("Q3_K_M", 12),
        ("Q4_K_S", 14),
        ("Q4_K_M", 15),
        ("Q5_K_M", 17),
        ("Q6_K", 18),
    ];
    known
        .iter()
        .find(|(name, _)| *name == level)
        .map(|(_, number)| *number)
}

/// Quantizes a file with as many threads.
///
/// # Errors
/// If the library is not what it should be, or refuses.
pub fn quantize(
    library: &Path,
    input: &Path,
    output: &Path,
    ftype: i32,
    threads: i32,
) -> Result<(), String> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string());
    let (from, to) = (text(input)?, text(output)?);
    load_backends(library)?;
    let llama = open(library)?;
    // SAFETY: the symbols have these types in llama.h. `Params` is at least as long as the
    // structure of any version so far, and a structure of this size is returned through
    // memory of the caller.
    unsafe {
        let get = |error: libloading::Error| error.to_string();
        let log_set = llama.get::<unsafe extern "C" fn(Log, *mut c_void)>(b"llama_log_set\0");
        log_set.map_err(get)?(quiet, std::ptr::null_mut());
        llama
            .get::<unsafe extern "C" fn()>(b"llama_backend_init\0")
            .map_err(get)?();
        let defaults =
            llama.get::<unsafe extern "C" fn() -> Params>(b"llama_model_quantize_default_params\0");
        let mut params = defaults.map_err(get)?();
        if (
            params.nthread,
            params.quantize_output_tensor,
            params.dry_run,
        ) != (0, true, false)
        {
            return Err("this llama.cpp has other parameters than this benchmark knows".into());
        }
        (params.nthread, params.ftype) = (threads, ftype);
        let run = llama
            .get::<unsafe extern "C" fn(*const c_char, *const c_char, *const Params) -> u32>(
                b"llama_model_quantize\0",
            );
        match run.map_err(get)?(from.as_ptr(), to.as_ptr(), &params) {
            0 => Ok(()),
            code => Err(format!("llama_model_quantize returned {code}")),
        }
    }
}

/// Loads the processor's backends, which some builds keep in libraries of their own beside
/// libggml.
fn load_backends(library: &Path) -> Result<(), String> {
    let Some(ggml) = beside(library, "libggml").filter(|path| path.exists()) else {
        return Ok(());
    };
    let ggml = open(&ggml)?;
    let folder = library.parent().unwrap_or(Path::new("."));
    let folder = CString::new(folder.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: the symbols have these types in ggml.h and ggml-backend.h. The first is in
    // libggml-base, which is found through libggml.
    unsafe {
        ggml.get::<unsafe extern "C" fn(Log, *mut c_void)>(b"ggml_log_set\0")
            .map_err(|error| error.to_string())?(quiet, std::ptr::null_mut());
        ggml.get::<unsafe extern "C" fn(*const c_char)>(b"ggml_backend_load_all_from_path\0")
            .map_err(|error| error.to_string())?(folder.as_ptr());
    }
    Ok(())
}

/// The library's path with another name before the first dot.
fn beside(library: &Path, stem: &str) -> Option<PathBuf> {
    let name = library.file_name()?.as_bytes();
    let ending = &name[name.iter().position(|byte| *byte == b'.')?..];
    let name = [stem.as_bytes(), ending].concat();
    Some(library.with_file_name(OsString::from_vec(name)))
}

/// Opens a library for the rest of the process, so that later ones find its symbols.
fn open(path: &Path) -> Result<&'static Library, String> {
    // SAFETY: the user named this library in order to run its code.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Box::leak(Box::new(library)))
}
