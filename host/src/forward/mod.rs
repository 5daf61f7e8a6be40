//! The forward pass: runs a [`Graph`](crate::graph::Graph) block by block on the CPU, in single
//! precision.
