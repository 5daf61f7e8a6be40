//! The llm-quantize host.
