//! `freeze copy`: copies generations from one store into another, each with its own key.
//!
//! Generations keep their numbers. The destination's newest generation never goes back: a generation below it
//! is not copied, as the destination would restore it. Memory is bounded: only some chunks of a generation
//! are held.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Part, Progress, UpkeepError, condemned};
use crate::image::{self, Body, Fetcher, ImageError, ImageWriter, Lease, Manifest, Piece, StoredManifest, Vault};

/// Memory limit of the reader, and of the writer, in bytes.
const MEMORY: u64 = 64 << 20;

/// Result of a copy, by generation.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Copied generations.
    pub copied: Vec<u64>,
    /// Generations that the destination already had.
    pub there: Vec<u64>,
    /// Generations that the destination lacks below its newest, most likely because they were pruned there.
    pub older: Vec<u64>,
    /// Bytes copied, zeros included.
    pub bytes: u64,
    /// Bytes of packs written.
    pub stored: u64,
}

/// Copies the generations in `chosen`, or all if it is empty. Idempotent: an interrupted copy is simply run
/// again.
pub fn copy(
    source: &Vault,
    destination: &Vault,
    chosen: &[u64],
    progress: &dyn Progress,
) -> Result<Copied, UpkeepError> {
    let there: BTreeMap<u64, Manifest> = committed(destination)?;
    let newest = there.keys().last().copied().unwrap_or(0);
    let mut result = Copied::default();
    let mut wanted = Vec::new();
    for number in numbers(source, chosen)? {
        match there.get(&number) {
            Some(copy) => check_same(&load(source, number)?, copy, source, destination)?,
            None if number > newest => {
                wanted.push(number);
                continue;
            }
            None if chosen.is_empty() => {
                result.older.push(number);
                continue;
            }
            None => {
                let destination = destination.url().to_owned();
                return Err(UpkeepError::Older { generation: number, newest, destination });
            }
        }
        result.there.push(number);
    }
    drop(there);
    for number in wanted {
        let (bytes, stored) = copy_one(source, destination, number, progress)?;
        result.copied.push(number);
        result.bytes += bytes;
        result.stored += stored;
    }
    Ok(result)
}

fn committed(vault: &Vault) -> Result<BTreeMap<u64, Manifest>, UpkeepError> {
    image::generations(vault)?.into_iter().map(|found| Ok((found.number, found.manifest?))).collect()
}

/// The requested generations in ascending order.
fn numbers(source: &Vault, chosen: &[u64]) -> Result<BTreeSet<u64>, UpkeepError> {
    if !chosen.is_empty() {
        return Ok(chosen.iter().copied().collect());
    }
    Ok(image::generations(source)?.into_iter().map(|generation| generation.number).collect())
}

fn load(vault: &Vault, number: u64) -> Result<Manifest, UpkeepError> {
    Manifest::load(vault, Some(number))?.ok_or_else(|| UpkeepError::Empty { url: vault.url().to_owned() })
}

fn check_same(ours: &Manifest, theirs: &Manifest, source: &Vault, destination: &Vault) -> Result<(), UpkeepError> {
    if ours.is_same_checkpoint(theirs) {
        return Ok(());
    }
    let (source_url, destination) = (source.url().to_owned(), destination.url().to_owned());
    Err(UpkeepError::OtherHistory { generation: ours.generation, source_url, destination })
}

/// Copies one generation. Returns its bytes and the bytes written for it.
fn copy_one(
    source: &Vault,
    destination: &Vault,
    number: u64,
    progress: &dyn Progress,
) -> Result<(u64, u64), UpkeepError> {
    let found = Instant::now();
    let newest = Lease::for_newest(destination)?;
    let shares_nothing = newest.is_none();
    let lease = newest.unwrap_or_else(Lease::fresh);
    if lease.generation >= number {
        let (newest, destination) = (lease.generation, destination.url().to_owned());
        return Err(UpkeepError::Older { generation: number, newest, destination });
    }
    let mut manifest = load(source, number)?;
    // The outcome in the source's store decides who has the service. An offered copy would be decided a
    // second time.
    manifest.offered = false;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fetcher = Fetcher::new(source, &manifest, MEMORY, threads)?;
    let writer = ImageWriter::new(destination, MEMORY, threads)?;
    progress.begin(Part::Copying { generation: number }, manifest.bodies().map(Body::size).sum());
    let mut ids = Vec::new();
    for body in manifest.bodies() {
        ids.push(copy_body(&mut fetcher, &writer, body, progress)?);
    }
    let mut written = writer.finish()?;
    progress.end();
    for (body, id) in manifest.bodies_mut().zip(ids) {
        *body = written.take(id);
    }
    manifest.packs = std::mem::take(&mut written.packs);
    manifest.chunks = std::mem::take(&mut written.chunks);
    if let Some(figures) = &mut manifest.figures {
        figures.stored = written.stored;
    }
    make_way(destination, &lease)?;
    // In a store without a generation there are no packs to share and prune condemns nothing, so the first
    // copy has no time limit.
    let begun = if shares_nothing { Instant::now() } else { found };
    image::commit(destination, &mut manifest, lease, begun)?;
    image::mark_committed(destination, manifest.generation);
    if manifest.generation != number {
        let (destination, became) = (destination.url().to_owned(), manifest.generation);
        return Err(UpkeepError::OtherNumber { generation: number, became, destination });
    }
    Ok((written.bytes, written.stored))
}

fn copy_body(
    fetcher: &mut Fetcher,
    writer: &ImageWriter,
    body: &Body,
    progress: &dyn Progress,
) -> Result<image::BodyId, UpkeepError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut copy = writer.begin();
    let mut failed = None;
    let mut write = |data: &[u8]| {
        progress.add(data.len() as u64);
        copy.write_all(data).map_err(|error| {
            failed = Some(error);
            std::io::Error::other("the destination failed")
        })
    };
    let read = fetcher.for_each(body, |piece| match piece {
        Piece::Data(data) => write(data),
        Piece::Zeros(mut length) => {
            while length > 0 {
                let count = length.min(ZEROS.len() as u64);
                write(&ZEROS[..count as usize])?;
                length -= count;
            }
            Ok(())
        }
    });
    match (failed, read) {
        (Some(error), _) | (None, Err(error)) => Err(error.into()),
        (None, Ok(())) => Ok(copy.finish()?),
    }
}

/// Removes manifests above head that interrupted writers left, so that the copy gets its own number and not
/// one above theirs.
///
/// Leftovers are listed before the claim: their writer either committed before it, and the claim fails, or
/// can no longer commit. A store without a generation cannot be claimed; there, a leftover's age shows that
/// its writer has given up. Head is read before each removal. A manifest could only be lost if another copy
/// begins, removes the same leftover, writes and commits between that read and the removal.
fn make_way(destination: &Vault, lease: &Lease) -> Result<(), UpkeepError> {
    let mut leftovers = image::manifests(&**destination.store())?;
    leftovers.retain(|stored| stored.number > lease.generation);
    match lease.generation {
        _ if leftovers.is_empty() => return Ok(()),
        0 => check_age(destination, &leftovers)?,
        _ => lease.claim(destination)?,
    }
    for stored in leftovers {
        let newest = image::newest(destination)?.unwrap_or(0);
        if newest != lease.generation {
            return Err(ImageError::Replaced { url: destination.url().to_owned(), generation: newest }.into());
        }
        image::remove_manifest(&**destination.store(), stored.number)?;
    }
    Ok(())
}

fn check_age(destination: &Vault, leftovers: &[StoredManifest]) -> Result<(), UpkeepError> {
    let now = condemned::now(destination)?;
    let is_young = |modified| now.duration_since(modified).unwrap_or_default() < image::COMMIT_WITHIN;
    let Some(young) = leftovers.iter().find(|stored| is_young(stored.modified)) else { return Ok(()) };
    let (generation, minutes) = (young.number, image::COMMIT_WITHIN.as_secs() / 60);
    Err(UpkeepError::InTheWay { destination: destination.url().to_owned(), generation, minutes })
}
