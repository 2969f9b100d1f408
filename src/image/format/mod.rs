//! What is in objects of a store, as data: encoded, decoded and checked. Knows no store and reads nothing.

pub(crate) mod body;
pub(crate) mod check;
pub(crate) mod chunk;
pub(crate) mod chunk_table;
pub(crate) mod codec;
pub(crate) mod manifest;
pub(crate) mod pack;
pub(crate) mod wire;
