//! From a weight and the Gram matrix of its inputs to codes, scales and zeros.
