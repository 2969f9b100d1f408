//! What /proc says of processes.

pub mod tree;
