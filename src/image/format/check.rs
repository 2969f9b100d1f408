//! Checks a manifest that was read from a store, before it is used.

use std::collections::HashSet;

use super::body::{BODY_MAX, Body};
use super::manifest::{File, Kind, Manifest};
use super::pack;
use crate::image::error::Flaw;
use crate::image::layout::{NUMBER_MAX, is_pack_id};

/// Linux's limit on a path, including the final zero byte.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
/// Linux's limit on an extended attribute.
const ATTRIBUTE_MAX: u64 = 64 << 10;

/// Checks every property that readers rely on.
pub(crate) fn manifest(manifest: &Manifest, generation: u64) -> Result<(), Flaw> {
    if manifest.generation != generation {
        return Err(Flaw::Generation(manifest.generation));
    }
    Flaw::bound("generation", generation, NUMBER_MAX)?;
    Flaw::bound("parent", manifest.parent, generation.saturating_sub(1))?;
    for pack in &manifest.packs {
        if !is_pack_id(&pack.id) {
            return Err(Flaw::Name { what: "the pack name", name: pack.id.clone() });
        }
        Flaw::bound("size of a pack", pack.size, pack::LIMIT)?;
        Flaw::bound("length of an index", pack.tail, pack.size)?;
    }
    manifest.chunks.check(&manifest.packs)?;
    let mut names = HashSet::new();
    for image in &manifest.images {
        check_name(&image.name)?;
        if !names.insert(&image.name) {
            return Err(Flaw::Twice { what: "the image", name: image.name.clone() });
        }
        let body = image.body.as_ref().ok_or(Flaw::Disagree("an image and its body"))?;
        check_body(body, manifest)?;
    }
    let mut paths = HashSet::new();
    for file in &manifest.files {
        check_file(file, manifest)?;
        if file.kind() == Kind::HardLink && !paths.contains(&file.target) {
            return Err(Flaw::Name { what: "the link target", name: lossy(&file.target) });
        }
        if !paths.insert(&file.path) {
            return Err(Flaw::Twice { what: "the path", name: lossy(&file.path) });
        }
    }
    let links = manifest.folder_links.iter().flat_map(|it| [&it.folder, &it.link]);
    let on_volumes = manifest.volume_files.iter().map(|file| &file.path);
    for path in manifest.deleted.iter().chain(links).chain(on_volumes) {
        check_path(path)?;
    }
    let total = manifest.bodies().fold(0, |sum: u64, body| sum.saturating_add(body.size()));
    Flaw::bound("size of all bodies", total, BODY_MAX).map(drop)
}

fn check_body(body: &Body, manifest: &Manifest) -> Result<(), Flaw> {
    body.check(&manifest.chunks)
}

fn check_name(name: &str) -> Result<(), Flaw> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > NAME_MAX || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(Flaw::Name { what: "the image name", name: name.into() });
    }
    Ok(())
}

fn check_path(path: &[u8]) -> Result<(), Flaw> {
    let parts_are_plain = path.strip_prefix(b"/").is_some_and(|rest| {
        rest.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
    });
    if !parts_are_plain || path.len() >= PATH_MAX {
        return Err(Flaw::Name { what: "the path", name: lossy(path) });
    }
    Ok(())
}

fn check_file(file: &File, manifest: &Manifest) -> Result<(), Flaw> {
    check_path(&file.path)?;
    if file.mode > 0o7777 {
        return Err(Flaw::Bound { what: "mode of a file", found: file.mode.into(), limit: 0o7777 });
    }
    for attribute in &file.attributes {
        if attribute.name.is_empty() || attribute.name.len() > NAME_MAX || attribute.name.contains(&0) {
            return Err(Flaw::Name { what: "the attribute", name: lossy(&attribute.name) });
        }
        Flaw::bound("length of an attribute", attribute.value.len() as u64, ATTRIBUTE_MAX)?;
    }
    match (file.kind(), &file.body) {
        (Kind::Regular, Some(body)) => {
            check_body(body, manifest)?;
            if body.size() == file.size { Ok(()) } else { Err(Flaw::Disagree("the size of a file and its body")) }
        }
        (Kind::Symlink, None) if is_target(&file.target) => Ok(()),
        (Kind::Symlink, None) => Err(Flaw::Name { what: "the link target", name: lossy(&file.target) }),
        (Kind::Directory | Kind::Fifo | Kind::HardLink, None) => Ok(()),
        _ => Err(Flaw::Disagree("the kind of a file and its body")),
    }
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() < PATH_MAX && !target.contains(&0)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(PATH_MAX)]).into_owned()
}
