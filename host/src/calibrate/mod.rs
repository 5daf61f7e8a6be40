//! Calibration: runs a model on text and gathers statistics of the inputs of its linear layers.
