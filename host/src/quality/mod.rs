//! How well a quantized model predicts what its original does.
