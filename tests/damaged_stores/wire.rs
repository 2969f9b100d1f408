//! Parts of a manifest as docs/reference/store-format.md has them, to be filled with anything.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct WireBody {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub whole: Option<Vec<u8>>,
    #[prost(uint64, repeated, tag = "2")]
    pub lengths: Vec<u64>,
    #[prost(uint32, repeated, tag = "3")]
    pub chunks: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    pub firsts: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WireChunks {
    #[prost(uint32, repeated, tag = "1")]
    pub packs: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    pub offsets: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub encoded: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    pub raw: Vec<u32>,
    #[prost(bytes = "vec", tag = "5")]
    pub names: Vec<u8>,
}

/// The message with that change.
pub fn changed<M: Message + Default, W: Message + Default>(message: &M, change: impl FnOnce(&mut W)) -> M {
    let mut wire = W::decode(&*message.encode_to_vec()).unwrap();
    change(&mut wire);
    M::decode(&*wire.encode_to_vec()).unwrap()
}
