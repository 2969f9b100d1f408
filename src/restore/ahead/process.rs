//! The private memory of one process in a generation: which pages it has, by CRIU's images, and where they are.

use std::ops::Range;

use crate::criu::images::{self, Malformed, Mm, Pages, PagesHead, Vma, status};
use crate::image::{Body, Extent, Fetcher, ImageError, Manifest, Slice};
use crate::sys::memory::page_size;

use super::runs::{Kind, Memory, Run, Source};

/// Why the memory of a process is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("CRIU's images do not fit together")]
    Malformed,
}

impl From<Malformed> for Unknown {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// A process's memory.
pub(super) struct Process {
    pid: i32,
    head: PagesHead,
    entries: Vec<Pages>,
    pub mappings: Vec<Mapping>,
    /// In order.
    pub runs: Vec<Run>,
}

/// A mapping of private memory.
pub(super) struct Mapping {
    pub range: Range<u64>,
    pub kind: Kind,
}

impl Process {
    /// None for a process without memory, as a zombie, and for one whose pages are in the manifest itself.
    pub(super) fn read(manifest: &Manifest, fetcher: &mut Fetcher, pid: i32) -> Result<Option<Self>, Unknown> {
        let mut read = |name: String| {
            let body = body(manifest, &name)?;
            Some(fetcher.read_to_vec(body, "an image of CRIU's", images::LIMIT))
        };
        let (Some(pagemap), Some(mm)) = (read(pagemap(pid)), read(format!("mm-{pid}.img"))) else { return Ok(None) };
        let (pagemap, mm) = (pagemap?, mm?);
        let mut entries = images::entries(&pagemap, images::PAGEMAP)?.into_iter();
        let head: PagesHead = images::decode(entries.next().ok_or(Malformed)?)?;
        let entries = entries.map(images::decode).collect::<Result<Vec<Pages>, _>>()?;
        let mm: Mm = images::decode(images::entries(&mm, images::MM)?.first().ok_or(Malformed)?)?;
        let mappings: Vec<Mapping> = mm.vmas.iter().filter_map(Mapping::of).collect();
        let Some(body) = body(manifest, &pages(&head)).filter(|body| body.inline().is_empty()) else { return Ok(None) };
        let runs = runs(manifest, &entries, &mappings, body)?;
        Ok(Some(Self { pid, head, entries, mappings, runs }))
    }

    /// Its images without the pages that `ours` has: their names and bodies. And how many bytes those pages are.
    pub(super) fn without(&self, ours: &Memory) -> ([(String, Body); 2], u64) {
        let (mut entries, mut body, mut ahead) = (Vec::<Pages>::new(), Body::default(), 0);
        let mut parts = ours.compare(&self.runs).into_iter().peekable();
        for entry in &self.entries {
            let saved = entry.saved(page_size());
            if saved == 0 {
                entries.push(entry.clone());
            }
            while let Some((part, same)) = parts.next_if(|(part, _)| part.start < entry.vaddr + saved) {
                join(&mut entries, entry.part(part.start, part.length / page_size(), same));
                if same {
                    ahead += part.length;
                } else {
                    part.extent().into_iter().for_each(|extent| body.push(extent));
                }
            }
        }
        let mut image = images::encode(images::PAGEMAP, &[self.head]);
        entries.iter().for_each(|entry| images::push(&mut image, entry));
        ([(pagemap(self.pid), Body::from_inline(image)), (pages(&self.head), body)], ahead)
    }
}

impl Mapping {
    /// None for a guarded part of another mapping.
    fn of(vma: &Vma) -> Option<Self> {
        let private = vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0;
        let kind = match vma.flags {
            flags if !private || flags & libc::MAP_HUGETLB as u32 != 0 => Kind::Other,
            flags if flags & libc::MAP_NORESERVE as u32 != 0 => Kind::Unreserved,
            _ => Kind::Plain,
        };
        (vma.status & status::GUARD == 0).then_some(Self { range: vma.start..vma.end, kind })
    }
}

fn body<'a>(manifest: &'a Manifest, name: &str) -> Option<&'a Body> {
    manifest.images.iter().find(|image| image.name == name)?.body.as_ref()
}

fn pagemap(pid: i32) -> String {
    format!("pagemap-{pid}.img")
}

fn pages(head: &PagesHead) -> String {
    format!("pages-{}.img", head.image)
}

/// Appends an entry, as a part of the last one if it continues that.
fn join(entries: &mut Vec<Pages>, entry: Pages) {
    match entries.last_mut() {
        Some(last)
            if last.flags == entry.flags
                && last.nr_pages.is_some_and(|pages| last.vaddr + pages * page_size() == entry.vaddr) =>
        {
            last.nr_pages = last.nr_pages.zip(entry.nr_pages).map(|(one, more)| one + more);
        }
        _ => entries.push(entry),
    }
}

/// Where the pages of the entries are, which follow each other in the body.
fn runs(manifest: &Manifest, entries: &[Pages], mappings: &[Mapping], body: &Body) -> Result<Vec<Run>, Malformed> {
    let mut parts = body.extents().map(|extent| source(manifest, extent));
    let (mut mappings, mut runs) = (mappings.iter().peekable(), Vec::<Run>::new());
    let (mut part, mut known): (Option<Run>, u64) = (None, 0);
    for entry in entries {
        let end = entry.vaddr.checked_add(entry.saved(page_size())).ok_or(Malformed)?;
        let mut at = entry.vaddr;
        if at < known || (at | end) % page_size() != 0 {
            return Err(Malformed);
        }
        while at < end {
            let left = match part.take() {
                Some(left) => left,
                None => parts.next().ok_or(Malformed)??,
            };
            while mappings.next_if(|mapping| mapping.range.end <= at).is_some() {}
            let (kind, until) = match mappings.peek() {
                Some(mapping) if mapping.range.start <= at => (mapping.kind, mapping.range.end),
                _ => return Err(Malformed),
            };
            let length = left.length.min(end - at).min(until - at);
            if length % page_size() != 0 {
                return Err(Malformed);
            }
            runs.extend(left.within(&(0..length)).map(|run| Run { start: at, kind, ..run }));
            part = left.within(&(length..u64::MAX)).map(|run| Run { start: 0, length: run.length, ..run });
            at += length;
        }
        known = end;
    }
    if part.is_some() || parts.next().is_some() { Err(Malformed) } else { Ok(runs) }
}

/// An extent as a run at no address.
fn source(manifest: &Manifest, extent: Extent) -> Result<Run, Malformed> {
    let (length, source) = match extent {
        Extent::Zero(length) => (length, Source::Zeros),
        Extent::Slice(Slice { chunk, first, length }) => {
            let name = manifest.chunks.get(chunk).ok_or(Malformed)?.name;
            (length.into(), Source::Chunk { index: chunk, first, name })
        }
    };
    Ok(Run { start: 0, length, kind: Kind::Other, source })
}

impl Run {
    /// Its place in the manifest that it is of.
    pub(super) fn extent(&self) -> Option<Extent> {
        match self.source {
            Source::Zeros => Some(Extent::Zero(self.length)),
            Source::Chunk { index, first, .. } => {
                Some(Extent::Slice(Slice { chunk: index, first, length: self.length as u32 }))
            }
            Source::Unknown => None,
        }
    }
}
