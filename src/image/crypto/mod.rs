//! Keys of a store, and sealing with them. Never returns a key that is not proven to be the store's.

pub(crate) mod kdf;
pub(crate) mod keys;
pub(crate) mod seal;
pub(crate) mod store_format;
pub(crate) mod vault;
