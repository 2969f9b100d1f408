//! /proc/sysvipc (proc_sysvipc(5)): the System V objects of this process's IPC namespace.

use std::fs;

use crate::sys::system_v::Kind;

/// What names an object. Each kind has IDs and keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub kind: Kind,
    pub id: i32,
    /// 0 for none (IPC_PRIVATE).
    pub key: i32,
}

/// The rows of one kind, each a line of fields. Empty if the kernel has no such objects.
pub fn rows(kind: Kind) -> Vec<String> {
    let file = match kind {
        Kind::Memory => "shm",
        Kind::Queue => "msg",
        Kind::Semaphores => "sem",
    };
    let text = fs::read_to_string(format!("/proc/sysvipc/{file}")).unwrap_or_default();
    text.lines().skip(1).map(str::to_owned).collect()
}

/// The names of all objects.
pub fn names() -> Vec<Name> {
    let of = |kind| rows(kind).into_iter().filter_map(move |row| name(kind, &row));
    [Kind::Memory, Kind::Queue, Kind::Semaphores].into_iter().flat_map(of).collect()
}

/// All kinds begin with the key and the ID.
pub fn name(kind: Kind, row: &str) -> Option<Name> {
    let mut fields = row.split_ascii_whitespace();
    Some(Name { kind, key: fields.next()?.parse().ok()?, id: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_begins_with_key_and_id() {
        let row = "1375992388      98305   600          2     0     0     0     0 0 0";
        assert_eq!(name(Kind::Semaphores, row), Some(Name { kind: Kind::Semaphores, id: 98_305, key: 1_375_992_388 }));
        assert_eq!(name(Kind::Queue, "-5 7").map(|name| name.key), Some(-5));
        assert_eq!([name(Kind::Queue, ""), name(Kind::Queue, "key msqid")], [None, None]);
    }

    #[test]
    fn this_kernel_has_such_rows() {
        for kind in [Kind::Memory, Kind::Queue, Kind::Semaphores] {
            assert!(rows(kind).iter().all(|row| name(kind, row).is_some()), "{kind:?}");
        }
    }
}
