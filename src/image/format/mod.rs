//! Objects of a store as data: encode, decode, check. Never accesses a store.

pub(crate) mod body;
pub(crate) mod check;
pub(crate) mod chunk;
pub(crate) mod chunk_table;
pub(crate) mod codec;
pub(crate) mod demands;
pub(crate) mod manifest;
pub(crate) mod pack;
pub(crate) mod wire;
