//! The stable plugin interface of llm-quantize.
