//! ggml's C interface, from the shared library that the environment variable
//! `LLM_QUANTIZE_GGML_LIB` names.

use std::ffi::{c_char, c_int, c_void};

use libloading::{Library, Symbol};
use llm_quantize_gguf::blocks::BlockType;

pub const VARIABLE: &str = "LLM_QUANTIZE_GGML_LIB";

type QuantizeChunk =
    unsafe extern "C" fn(c_int, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize;
type ToFloat = unsafe extern "C" fn(*const c_void, *mut f32, i64);

/// The beginning of ggml's `struct ggml_type_traits`.
#[repr(C)]
struct TypeTraits {
    name: *const c_char,
    block_weights: i64,
    interleave: i64,
    block_bytes: usize,
    is_quantized: bool,
    to_float: Option<ToFloat>,
}

pub struct Ggml(Library);

impl Ggml {
    /// The library, or `None` where the variable is not set.
    pub fn load() -> Option<Self> {
        let path = std::env::var_os(VARIABLE)?;
        // SAFETY: whoever sets the variable vouches for the library.
        let library = unsafe { Library::new(&path) };
        Some(Self(library.unwrap_or_else(|error| {
            panic!("{VARIABLE} = {}: {error}", path.display())
        })))
    }

    fn symbol<T>(&self, name: &str) -> Symbol<'_, T> {
        // SAFETY: the callers give each function its type in ggml.h.
        let found = unsafe { self.0.get(name.as_bytes()) };
        found.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn traits(&self, ty: BlockType) -> &TypeTraits {
        let get: Symbol<unsafe extern "C" fn(c_int) -> *const TypeTraits> =
            self.symbol("ggml_get_type_traits");
        // SAFETY: the id is one of ggml's; the table it points into is static.
        unsafe { &*get(ty.id() as c_int) }
    }

    pub fn block_size(&self, ty: BlockType) -> (usize, usize) {
        let traits = self.traits(ty);
        (traits.block_weights as usize, traits.block_bytes)
    }

    pub fn row_bytes(&self, ty: BlockType, cols: usize) -> usize {
        let size: Symbol<unsafe extern "C" fn(c_int, i64) -> usize> = self.symbol("ggml_row_size");
        // SAFETY: the id is one of ggml's and the row holds whole blocks.
        unsafe { size(ty.id() as c_int, cols as i64) }
    }

    /// Quantizes rows of `cols` weights.
    pub fn quantize(
        &self,
        ty: BlockType,
        rows: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        let count = rows.len() / cols;
        assert_eq!(rows.len(), count * cols);
        assert_eq!(out.len(), count * self.row_bytes(ty, cols));
        assert!(importance.is_none_or(|importance| importance.len() == cols));
        let quantize: Symbol<QuantizeChunk> = self.symbol("ggml_quantize_chunk");
        // SAFETY: the lengths were checked above; the id is one of ggml's.
        let written = unsafe {
            quantize(
                ty.id() as c_int,
                rows.as_ptr(),
                out.as_mut_ptr().cast(),
                0,
                count as i64,
                cols as i64,
                importance.map_or(std::ptr::null(), <[f32]>::as_ptr),
            )
        };
        assert_eq!(written, out.len());
    }

    /// Decodes whole blocks; `None` for types that ggml has no decoder for.
    pub fn decode(&self, ty: BlockType, bytes: &[u8]) -> Option<Vec<f32>> {
        let (block_weights, block_bytes) = self.block_size(ty);
        let mut out = vec![0.0; bytes.len() / block_bytes * block_weights];
        // ggml reads 16-bit numbers at even addresses.
        let mut padded = vec![0; bytes.len() + 1];
        let start = padded.as_ptr().addr() % 2;
        let aligned = &mut padded[start..][..bytes.len()];
        aligned.copy_from_slice(bytes);
        self.decode_into(ty, aligned, &mut out).then_some(out)
    }

    /// Decodes whole blocks from an even address; false if ggml has no decoder.
    pub fn decode_into(&self, ty: BlockType, bytes: &[u8], out: &mut [f32]) -> bool {
        let traits = self.traits(ty);
        let Some(to_float) = traits.to_float else {
            return false;
        };
        let blocks = bytes.len() / traits.block_bytes;
        assert_eq!(bytes.len(), blocks * traits.block_bytes);
        assert_eq!(out.len(), blocks * traits.block_weights as usize);
        assert!(bytes.as_ptr().addr().is_multiple_of(2));
        // SAFETY: the lengths and the alignment were checked above.
        unsafe { to_float(bytes.as_ptr().cast(), out.as_mut_ptr(), out.len() as i64) };
        true
    }

    /// ggml's verdict on encoded data.
    pub fn is_valid(&self, ty: BlockType, bytes: &[u8]) -> bool {
        let validate: Symbol<unsafe extern "C" fn(c_int, *const c_void, usize) -> bool> =
            self.symbol("ggml_validate_row_data");
        // SAFETY: the id is one of ggml's and the length is the slice's.
        unsafe { validate(ty.id() as c_int, bytes.as_ptr().cast(), bytes.len()) }
    }
}
