//! The keys of a store, and what they seal. Must never hand out a key that it could not prove to be the store's.

pub(crate) mod kdf;
pub(crate) mod keys;
pub(crate) mod seal;
pub(crate) mod store_format;
pub(crate) mod vault;
