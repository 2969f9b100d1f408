//! Shifts the IDs of a dumped tree, so that it can be restored where PIDs cannot be chosen and the
//! container's counter has passed the tree's own.
//!
//! CRIU has PIDs and TIDs in the names of its images and in `pstree.img`. It has them elsewhere only for
//! features that the proof's tree does not use: signal owners of descriptors, POSIX timers of a thread,
//! locks, pidfds (images/*.proto).

use std::collections::{BTreeMap, BTreeSet};

use crate::criu::images::{self, Malformed, Task};
use crate::image::{Body, CriuImage, Manifest};

const PSTREE: &str = "pstree.img";
/// Kinds of CRIU image that are named after a PID or TID. The numbers of other kinds are no such IDs.
const NAMED_BY_ID: &[&str] = &["core", "mm", "pagemap", "fs", "ids"];

/// How far IDs move, in ascending order: the first by `up`, each further one by `apart` more than the one
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shift {
    pub up: u32,
    /// Gap for processes that others start meanwhile.
    pub apart: u32,
}

/// New ID of each old one.
type Ids = BTreeMap<u32, u32>;

/// The generation with shifted IDs, in the same order.
pub fn shifted(manifest: &Manifest, shift: Shift) -> Result<Manifest, Malformed> {
    let image = |name: &str| manifest.images.iter().find(|image| image.name == name)?.body.as_ref();
    let (tree, ids) = shift_tree(image(PSTREE).ok_or(Malformed)?.inline(), shift)?;
    let images = manifest.images.iter().map(|image| match image.name.as_str() {
        PSTREE => CriuImage { name: PSTREE.to_owned(), body: Some(Body::from_inline(tree.clone())) },
        name => CriuImage { name: shift_name(name, &ids), body: image.body.clone() },
    });
    Ok(Manifest { images: images.collect(), ..manifest.clone() })
}

/// Returns the shifted `pstree.img` and its IDs.
fn shift_tree(image: &[u8], shift: Shift) -> Result<(Vec<u8>, Ids), Malformed> {
    let tasks = images::entries(image, images::PSTREE)?;
    let mut tasks = tasks.into_iter().map(images::decode::<Task>).collect::<Result<Vec<_>, _>>()?;
    let old: BTreeSet<u32> = tasks.iter().flat_map(|task| task.threads.iter().copied().chain([task.pid])).collect();
    let new = |(index, id): (usize, u32)| {
        let further = u32::try_from(index).ok()?.checked_mul(shift.apart)?;
        Some((id, id.checked_add(shift.up)?.checked_add(further)?))
    };
    let ids = old.into_iter().enumerate().map(new).collect::<Option<Ids>>().ok_or(Malformed)?;
    for Task { pid, ppid, pgid, sid, threads } in &mut tasks {
        for id in [pid, ppid, pgid, sid].into_iter().chain(threads) {
            // The root's parent is outside the tree.
            *id = ids.get(id).copied().unwrap_or(*id);
        }
    }
    Ok((images::encode(images::PSTREE, &tasks), ids))
}

/// Renames an image such as `core-7.img`.
fn shift_name(name: &str, ids: &Ids) -> String {
    let parts = name.strip_suffix(".img").and_then(|stem| stem.split_once('-'));
    let moved = parts.filter(|(kind, _)| NAMED_BY_ID.contains(kind));
    let moved = moved.and_then(|(kind, id)| Some(format!("{kind}-{}.img", ids.get(&id.parse().ok()?)?)));
    moved.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let tasks = [
            Task { pid: 7, ppid: 1, pgid: 7, sid: 7, threads: vec![7, 8] },
            Task { pid: 9, ppid: 7, pgid: 7, sid: 7, threads: vec![9] },
        ];
        let names = ["core-7.img", "core-8.img", "pagemap-9.img", "pages-7.img", "fdinfo-8.img", "pagemap-shmem-9.img"];
        let mut images: Vec<CriuImage> =
            names.iter().map(|name| CriuImage { name: (*name).to_owned(), body: Some(Body::default()) }).collect();
        images.push(CriuImage {
            name: PSTREE.into(),
            body: Some(Body::from_inline(images::encode(images::PSTREE, &tasks))),
        });
        Manifest { images, ..Manifest::default() }
    }

    fn tasks(manifest: &Manifest) -> Vec<Task> {
        let body = manifest.images.iter().find(|image| image.name == PSTREE).unwrap().body.as_ref().unwrap();
        let entries = images::entries(body.inline(), images::PSTREE).unwrap();
        entries.into_iter().map(|entry| images::decode(entry).unwrap()).collect()
    }

    #[test]
    fn ids_of_the_tree_move_and_others_stay() {
        let shifted = shifted(&manifest(), Shift { up: 100, apart: 0 }).unwrap();
        let names: Vec<&str> = shifted.images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "core-107.img",
                "core-108.img",
                "pagemap-109.img",
                "pages-7.img",
                "fdinfo-8.img",
                "pagemap-shmem-9.img",
                PSTREE
            ]
        );
        let expected = [
            Task { pid: 107, ppid: 1, pgid: 107, sid: 107, threads: vec![107, 108] },
            Task { pid: 109, ppid: 107, pgid: 107, sid: 107, threads: vec![109] },
        ];
        assert_eq!(tasks(&shifted), expected);
        assert_eq!(tasks(&super::shifted(&manifest(), Shift { up: 0, apart: 0 }).unwrap()), tasks(&manifest()));
    }

    #[test]
    fn there_may_be_room_between_them() {
        let tasks = tasks(&shifted(&manifest(), Shift { up: 100, apart: 10 }).unwrap());
        assert_eq!(tasks[0].threads, [107, 118]);
        assert_eq!((tasks[1].pid, tasks[1].ppid, tasks[1].threads.as_slice()), (129, 107, &[129][..]));
    }

    #[test]
    fn a_tree_that_is_none_and_ids_beyond_all_numbers_are_malformed() {
        assert_eq!(shifted(&Manifest::default(), Shift { up: 1, apart: 0 }), Err(Malformed));
        for (up, apart) in [(u32::MAX, 0), (0, u32::MAX)] {
            assert_eq!(shifted(&manifest(), Shift { up, apart }), Err(Malformed));
        }
    }
}
