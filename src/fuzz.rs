//! Mutations of valid input for the fuzz tests of all parsers, so that they get past a parser's first check.

use proptest::prelude::*;
use proptest::sample::Index;

/// One mutation.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Set(Index, u8),
    Insert(Index, u8),
    Cut(Index, usize),
    /// Inserts a copy of these bytes somewhere else.
    Repeat(Index, usize, Index),
    End(Index),
}

pub(crate) fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = any::<Index>;
    let edit = prop_oneof![
        6 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        // The boundary values of a varint's byte.
        3 => (at(), prop::sample::select(vec![0, 1, 0x7f, 0x80, 0xff])).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        2 => (at(), 1usize..20).prop_map(|(at, count)| Edit::Cut(at, count)),
        1 => (at(), 1usize..50, at()).prop_map(|(from, count, to)| Edit::Repeat(from, count, to)),
        1 => at().prop_map(Edit::End),
    ];
    prop::collection::vec(edit, 1..5)
}

/// Applies `edits` in order.
pub(crate) fn damaged(data: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut data = data.to_vec();
    for edit in edits {
        let length = data.len();
        let up_to = |at: usize, count: usize| at..length.min(at + count);
        match edit {
            Edit::Insert(at, byte) => data.insert(at.index(length + 1), *byte),
            _ if length == 0 => {}
            Edit::Set(at, byte) => data[at.index(length)] = *byte,
            Edit::Cut(at, count) => drop(data.drain(up_to(at.index(length), *count))),
            Edit::Repeat(from, count, to) => {
                let again = data[up_to(from.index(length), *count)].to_vec();
                data.splice(to.index(length)..to.index(length), again);
            }
            Edit::End(at) => data.truncate(at.index(length)),
        }
    }
    data
}
