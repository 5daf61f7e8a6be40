//! The GGUF plugin: llama.cpp's format.
