//! Shifts the IDs of a dumped tree, so that it can be restored where its own are behind the container's counter and PIDs cannot be chosen.
//!
//! IDs of processes and threads stand in the names of images and in `pstree.img`. Elsewhere they stand only for what the
//! proof's tree does not have: owners of descriptors' signals, POSIX timers of a thread, locks, pidfds (images/*.proto).

use std::collections::BTreeSet;

use crate::criu::images::{self, Malformed, Task};
use crate::image::{Body, Image, Manifest};

const PSTREE: &str = "pstree.img";
/// Images that are named after a process or a thread; others have numbers of their own.
const NAMED_BY_ID: &[&str] = &["core", "mm", "pagemap", "fs", "ids"];

/// The generation with all IDs of its tree moved up by `shift`.
pub fn shifted(manifest: &Manifest, shift: u32) -> Result<Manifest, Malformed> {
    let image = |name: &str| manifest.images.iter().find(|image| image.name == name)?.body.as_ref();
    let (tree, ids) = shift_tree(image(PSTREE).ok_or(Malformed)?.inline(), shift)?;
    let images = manifest.images.iter().map(|image| match image.name.as_str() {
        PSTREE => Image { name: PSTREE.to_owned(), body: Some(Body::from_inline(tree.clone())) },
        name => Image { name: shift_name(name, &ids, shift), body: image.body.clone() },
    });
    Ok(Manifest { images: images.collect(), ..manifest.clone() })
}

/// The image, and the IDs that were in it.
fn shift_tree(image: &[u8], shift: u32) -> Result<(Vec<u8>, BTreeSet<u32>), Malformed> {
    let tasks = images::entries(image, images::PSTREE)?;
    let mut tasks = tasks.into_iter().map(images::decode::<Task>).collect::<Result<Vec<_>, _>>()?;
    let ids: BTreeSet<u32> = tasks.iter().flat_map(|task| task.threads.iter().copied().chain([task.pid])).collect();
    for task in &mut tasks {
        let Task { pid, ppid, pgid, sid, threads } = task;
        // The root's parent is not of the tree.
        for id in [pid, ppid, pgid, sid].into_iter().chain(threads).filter(|id| ids.contains(id)) {
            *id = id.checked_add(shift).ok_or(Malformed)?;
        }
    }
    Ok((images::encode(images::PSTREE, &tasks), ids))
}

/// Such as `core-7.img`.
fn shift_name(name: &str, ids: &BTreeSet<u32>, shift: u32) -> String {
    let parts = name.strip_suffix(".img").and_then(|stem| stem.split_once('-'));
    match parts.and_then(|(kind, id)| Some((kind, id.parse::<u32>().ok()?))) {
        Some((kind, id)) if NAMED_BY_ID.contains(&kind) && ids.contains(&id) => format!("{kind}-{}.img", id + shift),
        _ => name.to_owned(),
    }
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
        let mut images: Vec<Image> =
            names.iter().map(|name| Image { name: (*name).to_owned(), body: Some(Body::default()) }).collect();
        images
            .push(Image { name: PSTREE.into(), body: Some(Body::from_inline(images::encode(images::PSTREE, &tasks))) });
        Manifest { images, ..Manifest::default() }
    }

    fn tasks(manifest: &Manifest) -> Vec<Task> {
        let body = manifest.images.iter().find(|image| image.name == PSTREE).unwrap().body.as_ref().unwrap();
        let entries = images::entries(body.inline(), images::PSTREE).unwrap();
        entries.into_iter().map(|entry| images::decode(entry).unwrap()).collect()
    }

    #[test]
    fn ids_of_the_tree_move_and_others_stay() {
        let shifted = shifted(&manifest(), 100).unwrap();
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
        assert_eq!(tasks(&super::shifted(&manifest(), 0).unwrap()), tasks(&manifest()));
    }

    #[test]
    fn a_tree_that_is_none_and_ids_beyond_all_numbers_are_malformed() {
        assert_eq!(shifted(&Manifest::default(), 1), Err(Malformed));
        assert_eq!(shifted(&manifest(), u32::MAX), Err(Malformed));
    }
}
