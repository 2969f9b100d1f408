//! `freeze inspect`: describes a generation, from its manifest, those of earlier generations, and small CRIU
//! images.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

pub use super::open_files::OpenFiles;
#[cfg(test)]
pub use super::open_files::Socket;
use super::{UpkeepError, open_files};
use crate::criu::images::{self, Malformed, Mm, Pages, Vma, status};
use crate::image::{self, Body, Fetcher, ImageError, Kind, Manifest, Vault};

/// Memory limit of the fetcher in bytes.
const MEMORY: u64 = 16 << 20;
/// Total bytes of CRIU images to read; a service with a thousand processes has about 10 MB. The bound
/// matters, as a malicious manifest can name any number of images that share the same few bytes of a pack.
const IMAGES: u64 = 64 << 20;

/// Description of a generation. A field is `None` if the CRIU images lack it or are malformed.
#[derive(Debug, Serialize)]
pub struct Inspected {
    pub generation: u64,
    pub newest: bool,
    /// Time of the checkpoint in ms since 1970, UTC.
    pub created_ms: u64,
    pub freeze_version: String,
    pub arch: String,
    pub kernel: String,
    /// CPU features that a restore needs.
    pub cpu_features: Vec<String>,
    pub command: Vec<String>,
    pub uid: u32,
    pub gid: u32,
    pub root_pid: i32,
    pub service_pid: i32,
    /// Targets of descriptors 0 to 2, such as `pipe:[123]`.
    pub stdio: Vec<String>,
    /// How long the service was frozen, in ms; 0 if unknown.
    pub frozen_ms: u64,
    pub sizes: Sizes,
    /// Sum over the processes whose memory is known.
    pub memory: Option<Memory>,
    /// Parents precede their children.
    pub processes: Vec<Process>,
    pub open: Option<OpenFiles>,
    pub files: Vec<File>,
}

/// Sizes in bytes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// CRIU images and captured files, zeros included.
    pub raw: u64,
    /// Chunks that the generation names, as stored.
    pub stored: u64,
    /// Part of `stored` in packs that no earlier generation names.
    pub new: u64,
    /// Part of `stored` in packs that an earlier generation names too.
    pub shared: u64,
    /// Number of packs that the generation names.
    pub packs: u64,
    /// Number of packs that no earlier generation names.
    pub new_packs: u64,
}

/// Memory by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub anonymous: Usage,
    pub heap: Usage,
    pub stack: Usage,
    pub file_private: Usage,
    /// Shared between processes, or with a file.
    pub shared: Usage,
}

/// Size of one kind of memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Address space. Shared memory counts once for each process.
    pub mapped: u64,
    /// Pages in the checkpoint. Shared memory counts once.
    pub saved: u64,
}

#[derive(Debug, Serialize)]
pub struct Process {
    pub pid: i32,
    pub ppid: i32,
    pub pgid: i32,
    pub sid: i32,
    pub name: String,
    pub exe: String,
    pub threads: Vec<i32>,
    /// Saved shared memory is missing here; only [`Inspected::memory`] has it.
    pub memory: Option<Memory>,
}

/// A captured file.
#[derive(Debug, Serialize)]
pub struct File {
    pub path: String,
    pub kind: &'static str,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Modification time in ns since 1970.
    pub mtime_ns: i64,
    /// Target of a symbolic or hard link.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
}

/// Describes a generation, by default the newest.
pub fn inspect(vault: &Vault, generation: Option<u64>) -> Result<Inspected, UpkeepError> {
    let empty = || UpkeepError::Empty { url: vault.url().to_owned() };
    let manifest = Manifest::load(vault, generation)?.ok_or_else(empty)?;
    let mut earlier = HashSet::new();
    let mut newest = false;
    for found in image::generations(vault)? {
        newest |= found.newest && found.number == manifest.generation;
        // The packs of a damaged generation are unknown, so what it shares counts as new.
        if let (true, Ok(found)) = (found.number < manifest.generation, found.manifest) {
            earlier.extend(found.packs.into_iter().map(|pack| pack.id));
        }
    }
    let mut reader = Reader::new(Fetcher::new(vault, &manifest, MEMORY, 2)?, &manifest);
    let processes: Vec<Process> =
        manifest.processes.iter().map(|process| reader.process(process)).collect::<Result<_, _>>()?;
    let memory = reader.memory(&processes)?;
    let open = reader.open_files()?;
    let words = |words: &[Vec<u8>]| words.iter().map(|word| lossy(word)).collect();
    Ok(Inspected {
        generation: manifest.generation,
        newest,
        created_ms: manifest.created_ms,
        freeze_version: manifest.freeze_version.clone(),
        arch: manifest.arch.clone(),
        kernel: manifest.kernel.clone(),
        cpu_features: manifest.cpu_features.clone(),
        command: words(&manifest.command),
        uid: manifest.uid,
        gid: manifest.gid,
        root_pid: manifest.root_pid,
        service_pid: manifest.service_pid,
        stdio: manifest.stdio.iter().map(|stdio| lossy(&stdio.target)).collect(),
        frozen_ms: manifest.figures.unwrap_or_default().frozen_ms,
        sizes: sizes(&manifest, &earlier),
        memory,
        processes,
        open,
        files: manifest.files.iter().map(file).collect(),
    })
}

fn sizes(manifest: &Manifest, earlier: &HashSet<String>) -> Sizes {
    let shared: Vec<bool> = manifest.packs.iter().map(|pack| earlier.contains(&pack.id)).collect();
    let mut sizes = Sizes {
        raw: manifest.bodies().map(Body::size).sum(),
        packs: shared.len() as u64,
        new_packs: shared.iter().filter(|shared| !**shared).count() as u64,
        ..Sizes::default()
    };
    for chunk in manifest.chunks.iter() {
        let kind = if shared[chunk.pack as usize] { &mut sizes.shared } else { &mut sizes.new };
        *kind += u64::from(chunk.encoded);
    }
    sizes.stored = sizes.new + sizes.shared;
    sizes
}

/// Reads CRIU images, one at a time. Fails only for errors of the store.
struct Reader<'a> {
    fetcher: Fetcher,
    images: BTreeMap<&'a str, &'a Body>,
    /// Rest of [`IMAGES`].
    left: u64,
    page_size: u64,
}

impl<'a> Reader<'a> {
    fn new(fetcher: Fetcher, manifest: &'a Manifest) -> Self {
        let images = manifest.images.iter().filter_map(|image| Some((&*image.name, image.body.as_ref()?)));
        // Who recorded none had none to choose from.
        let recorded = manifest.demands.as_ref().map(|demands| demands.page_size).filter(|bytes| *bytes != 0);
        Self { fetcher, images: images.collect(), left: IMAGES, page_size: recorded.unwrap_or(4096) }
    }

    /// Reads an image. `None` if there is none, or if it exceeds a limit.
    fn image(&mut self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let limit = images::LIMIT.min(self.left);
        let Some(body) = self.images.get(name).filter(|body| body.size() <= limit) else { return Ok(None) };
        self.left -= body.size();
        self.fetcher.read_to_vec(body, name, limit).map(Some)
    }

    fn process(&mut self, process: &image::Process) -> Result<Process, ImageError> {
        let mm = self.image(&format!("mm-{}.img", process.pid))?;
        let pagemap = self.image(&format!("pagemap-{}.img", process.pid))?;
        let memory = mm.zip(pagemap).and_then(|(mm, pagemap)| memory_of(&mm, &pagemap, self.page_size).ok());
        Ok(Process {
            pid: process.pid,
            ppid: process.ppid,
            pgid: process.pgid,
            sid: process.sid,
            name: process.comm.clone(),
            exe: lossy(&process.exe),
            threads: process.threads.clone(),
            memory,
        })
    }

    /// The sum over all processes, with their saved shared memory.
    fn memory(&mut self, processes: &[Process]) -> Result<Option<Memory>, ImageError> {
        let known = processes.iter().filter_map(|process| process.memory);
        let Some(mut sum) = known.reduce(Memory::plus) else { return Ok(None) };
        for name in self.names("pagemap-shmem-") {
            let Some(pages) = self.image(name)?.and_then(|image| pages(&image).ok()) else { return Ok(None) };
            sum.shared.saved =
                pages.iter().fold(sum.shared.saved, |sum, pages| sum.saturating_add(pages.saved(self.page_size)));
        }
        Ok(Some(sum))
    }

    fn open_files(&mut self) -> Result<Option<OpenFiles>, ImageError> {
        let mut open = BTreeSet::new();
        for name in self.names("fdinfo-") {
            let added = self.image(name)?.and_then(|image| open_files::add(&image, &mut open).ok());
            if added.is_none() {
                return Ok(None);
            }
        }
        Ok(self.image("files.img")?.and_then(|files| open_files::read(&files, &open).ok()))
    }

    fn names(&self, prefix: &str) -> Vec<&'a str> {
        self.images.keys().copied().filter(|name| name.starts_with(prefix)).collect()
    }
}

impl Memory {
    fn plus(self, other: Self) -> Self {
        let plus = |a: Usage, b: Usage| Usage {
            mapped: a.mapped.saturating_add(b.mapped),
            saved: a.saved.saturating_add(b.saved),
        };
        Self {
            anonymous: plus(self.anonymous, other.anonymous),
            heap: plus(self.heap, other.heap),
            stack: plus(self.stack, other.stack),
            file_private: plus(self.file_private, other.file_private),
            shared: plus(self.shared, other.shared),
        }
    }

    /// The usage that an area counts for; `None` for areas that the kernel maps by itself.
    fn of_kind(&mut self, vma: &Vma) -> Option<&mut Usage> {
        let is = |bits| vma.status & bits != 0;
        Some(match () {
            () if is(status::VSYSCALL | status::VDSO | status::VVAR) => return None,
            // CRIU does not mark stacks. The kernel marks that of the first thread as growing down.
            () if vma.flags & libc::MAP_GROWSDOWN as u32 != 0 => &mut self.stack,
            () if is(status::HEAP) => &mut self.heap,
            () if is(status::FILE_SHARED | status::ANON_SHARED | status::SYSVIPC) => &mut self.shared,
            () if is(status::FILE_PRIVATE) => &mut self.file_private,
            () if is(status::ANON_PRIVATE) => &mut self.anonymous,
            () => return None,
        })
    }

    /// All kinds with names for display.
    pub fn kinds(&self) -> [(&'static str, Usage); 5] {
        [
            ("anonymous", self.anonymous),
            ("heap", self.heap),
            ("stack", self.stack),
            ("private files", self.file_private),
            ("shared", self.shared),
        ]
    }

    /// Total bytes in the checkpoint.
    pub fn saved(&self) -> u64 {
        self.kinds().iter().fold(0, |sum, (_, usage)| sum.saturating_add(usage.saved))
    }
}

/// The page runs of a pagemap. Its first entry names the pages image and is skipped.
fn pages(pagemap: &[u8]) -> Result<Vec<Pages>, Malformed> {
    images::entries(pagemap, images::PAGEMAP)?.into_iter().skip(1).map(images::decode).collect()
}

fn memory_of(mm: &[u8], pagemap: &[u8], page_size: u64) -> Result<Memory, Malformed> {
    let entries = images::entries(mm, images::MM)?;
    let mm: Mm = images::decode(entries.first().ok_or(Malformed)?)?;
    let mut memory = Memory::default();
    for vma in &mm.vmas {
        let length = vma.end.checked_sub(vma.start).ok_or(Malformed)?;
        if let Some(usage) = memory.of_kind(vma) {
            usage.mapped = usage.mapped.saturating_add(length);
        }
    }
    // Areas and runs are in ascending order, and a run can span several areas.
    let mut vmas = mm.vmas.iter().peekable();
    for run in pages(pagemap)? {
        let (mut at, end) = (run.vaddr, run.vaddr.saturating_add(run.saved(page_size)));
        while at < end {
            let Some(vma) = vmas.peek() else { return Err(Malformed) };
            if vma.end <= at {
                vmas.next();
                continue;
            }
            let until = end.min(vma.end);
            if vma.start > at {
                return Err(Malformed);
            }
            if let Some(usage) = memory.of_kind(vma) {
                usage.saved = usage.saved.saturating_add(until - at);
            }
            at = until;
        }
    }
    Ok(memory)
}

fn file(file: &image::File) -> File {
    let kind = match file.kind() {
        Kind::Regular => "regular",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::HardLink => "hard link",
        Kind::Unknown => "unknown",
    };
    File {
        path: lossy(&file.path),
        kind,
        size: file.size,
        mode: file.mode,
        uid: file.uid,
        gid: file.gid,
        mtime_ns: file.mtime_ns,
        target: lossy(&file.target),
    }
}

/// Lists processes in depth-first order, each with its depth in the tree.
pub fn tree(processes: &[Process]) -> Vec<(usize, &Process)> {
    let mut children: BTreeMap<i32, Vec<&Process>> = BTreeMap::new();
    let pids: HashSet<i32> = processes.iter().map(|process| process.pid).collect();
    let (inner, roots): (Vec<&Process>, Vec<&Process>) =
        processes.iter().partition(|process| pids.contains(&process.ppid) && process.ppid != process.pid);
    inner.into_iter().for_each(|process| children.entry(process.ppid).or_default().push(process));
    let mut walk: Vec<(usize, &Process)> = roots.into_iter().rev().map(|root| (0, root)).collect();
    let mut found = Vec::new();
    while let Some((depth, process)) = walk.pop() {
        found.push((depth, process));
        // Removed, so that a cycle ends.
        let below = children.remove(&process.pid).unwrap_or_default();
        walk.extend(below.into_iter().rev().map(|child| (depth + 1, child)));
    }
    found
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::ImageWriter;
    use crate::store::{self, Location};
    use proptest::prelude::*;
    use prost::Message;

    /// First page of the stack in these tests.
    const STACK: u64 = 50;

    fn image(magic: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut image = [0x5456_4319_u32.to_le_bytes(), magic.to_le_bytes()].concat();
        for entry in entries {
            image.extend((entry.len() as u32).to_le_bytes());
            image.extend(entry);
        }
        image
    }

    fn mm(vmas: &[(u64, u64, u32)]) -> Vec<u8> {
        let vma = |(start, end, status): &(u64, u64, u32)| {
            let flags = if *start == STACK { libc::MAP_GROWSDOWN as u32 } else { 0 };
            Vma { start: start << 12, end: end << 12, flags, status: *status }
        };
        image(images::MM, &[Mm { vmas: vmas.iter().map(vma).collect() }.encode_to_vec()])
    }

    fn pagemap(runs: &[(u64, u64)]) -> Vec<u8> {
        let run = |(page, count): &(u64, u64)| {
            Pages { vaddr: page << 12, compat_nr_pages: 0, flags: Some(4), nr_pages: Some(*count) }.encode_to_vec()
        };
        image(images::PAGEMAP, &[vec![vec![8, 1]], runs.iter().map(run).collect()].concat())
    }

    #[test]
    fn memory_is_counted_by_kind() {
        let areas = [
            (0, 4, status::FILE_PRIVATE),
            (4, 10, status::HEAP | status::ANON_PRIVATE),
            (10, 20, status::ANON_PRIVATE),
            (30, 40, status::ANON_SHARED),
            (STACK, STACK + 2, status::ANON_PRIVATE),
            (60, 61, status::VDSO | status::ANON_PRIVATE),
        ];
        let memory = memory_of(&mm(&areas), &pagemap(&[(3, 8), (51, 1), (60, 1)]), 4096).unwrap();
        let usage = |mapped: u64, saved: u64| Usage { mapped: mapped << 12, saved: saved << 12 };
        let expected = Memory {
            anonymous: usage(10, 1),
            heap: usage(6, 6),
            stack: usage(2, 1),
            file_private: usage(4, 1),
            shared: usage(10, 0),
        };
        assert_eq!(memory, expected);
        assert_eq!(memory.plus(memory).saved(), 18 << 12);
    }

    #[test]
    fn larger_pages_count_for_more() {
        let areas = [(0, 16, status::HEAP)];
        let memory = memory_of(&mm(&areas), &pagemap(&[(4, 2)]), 16 << 10).unwrap();
        assert_eq!(memory.heap, Usage { mapped: 16 << 12, saved: 2 << 14 });
    }

    #[test]
    fn pages_outside_of_all_areas_are_malformed() {
        let areas = [(10, 20, status::ANON_PRIVATE)];
        for run in [(5, 1), (19, 2), (30, 1), (10, u64::MAX)] {
            assert_eq!(memory_of(&mm(&areas), &pagemap(&[run]), 4096), Err(Malformed), "{run:?}");
        }
        assert_eq!(memory_of(&mm(&[(20, 10, 0)]), &pagemap(&[]), 4096), Err(Malformed));
    }

    proptest! {
        #[test]
        fn fuzz_damaged_images_are_counted_or_malformed(edits in fuzz::edits(), others in fuzz::edits()) {
            let mm = mm(&[(4, 10, status::HEAP), (10, 20, status::ANON_PRIVATE), (30, 40, status::ANON_SHARED)]);
            let pagemap = pagemap(&[(5, 8), (31, 1), (33, 2)]);
            memory_of(&mm, &pagemap, 4096).unwrap();
            let _ = memory_of(&fuzz::damaged(&mm, &edits), &pagemap, 4096);
            let _ = memory_of(&mm, &fuzz::damaged(&pagemap, &edits), 4096);
            if let Ok(memory) = memory_of(&fuzz::damaged(&mm, &edits), &fuzz::damaged(&pagemap, &others), 4096) {
                prop_assert!(memory.plus(memory).saved() >= memory.saved());
            }
        }
    }

    #[test]
    fn many_images_of_the_same_bytes_are_not_all_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::at(&format!("file:{}", folder.path().display()));
        let vault = Vault::create(store::open(&location).unwrap(), &Default::default()).unwrap();
        let writer = ImageWriter::new(&vault, MEMORY, 1).unwrap();
        let mut body = writer.begin();
        body.write_all(&vec![0; images::LIMIT as usize]).unwrap();
        let id = body.finish().unwrap();
        let mut written = writer.finish().unwrap();
        let body = Some(written.take(id));
        let image = |number| image::CriuImage { name: format!("fdinfo-{number}.img"), body: body.clone() };
        let manifest = Manifest { images: (0..10).map(image).collect(), ..Manifest::default() };
        let mut reader = Reader::new(Fetcher::new(&vault, &manifest, MEMORY, 1).unwrap(), &manifest);
        let names = reader.names("fdinfo-");
        let read: Vec<bool> = names.iter().map(|name| reader.image(name).unwrap().is_some()).collect();
        assert_eq!(read, [[true; 8].as_slice(), &[false; 2]].concat());
        assert_eq!(reader.open_files().unwrap(), None);
    }

    fn process(pid: i32, ppid: i32) -> Process {
        let (name, exe) = (String::new(), String::new());
        Process { pid, ppid, pgid: 0, sid: 0, name, exe, threads: vec![], memory: None }
    }

    #[test]
    fn the_tree_shows_each_process_once() {
        let processes = [process(1, 0), process(2, 1), process(3, 1), process(4, 2), process(7, 8), process(8, 7)];
        let found: Vec<(usize, i32)> = tree(&processes).iter().map(|(depth, process)| (*depth, process.pid)).collect();
        assert_eq!(found, [(0, 1), (1, 2), (2, 4), (1, 3)], "a circle is nobody's child");
    }
}
