//! What generations cost that differ a little from each other, how fast they are written and read back, and in how much
//! memory; beside `zstd -1 -T2` and a plain copy of the same bytes.
//!
//! `cargo run --release --example image_throughput [MIB] [FOLDER]`

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use freeze::image::{self, CriuImage, Fetcher, ImageWriter, KeyFiles, Lease, Manifest, Piece, Vault};
use freeze::store::{self, Location};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const MEMORY: u64 = 64 << 20;
const IMAGE: &str = "pages-1.img";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "512".into());
    let folder = arguments.next().map_or_else(|| PathBuf::from("/dev/shm/image-throughput"), PathBuf::from);
    match first.as_str() {
        "write" => write(&folder),
        "read" => read(&folder),
        mib => all(mib.parse()?, &folder),
    }
}

fn all(mib: usize, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let data = Data { file: File::create(folder.join("data"))?, pages: mib * MIB / PAGE };
    (0..data.pages).try_for_each(|page| data.put(page, page as u64))?;
    compare(&folder.join("data"), mib)?;
    for (what, change) in [("first", 0), ("unchanged", 0), ("1 % of pages", 100), ("10 % of pages", 10)] {
        data.scatter(change, what.len() as u64)?;
        step(what, "write", folder)?;
        step("", "read", folder)?;
    }
    insert(&folder.join("data"))?;
    step("a page inserted", "write", folder)?;
    step("", "read", folder)?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// Each step is a process of its own, so that its memory can be told apart.
fn step(what: &str, verb: &str, folder: &Path) -> Result<()> {
    print!("{what:16}");
    std::io::stdout().flush()?;
    if !Command::new(std::env::current_exe()?).arg(verb).arg(folder).status()?.success() {
        return Err(format!("{verb} failed").into());
    }
    Ok(())
}

fn compare(data: &Path, mib: usize) -> Result<()> {
    let begin = Instant::now();
    let zstd = Command::new("zstd").args(["-1", "-T2", "-q", "-c"]).arg(data).stdout(Stdio::piped()).spawn()?;
    let size = zstd.wait_with_output()?.stdout.len();
    println!("zstd -1 -T2     {}, {} KiB", rate(mib, begin), size >> 10);
    let bytes = fs::read(data)?;
    let mut copy = vec![1; bytes.len()];
    let begin = Instant::now();
    copy.copy_from_slice(&bytes);
    println!("memcpy          {}", rate(mib, begin));
    Ok(())
}

fn open(folder: &Path) -> Result<Vault> {
    let store = store::open(&Location::at(&format!("file:{}/store", folder.display())))?;
    Ok(Vault::create(store, &KeyFiles::default())?)
}

fn write(folder: &Path) -> Result<()> {
    let vault = open(folder)?;
    let mut source = File::open(folder.join("data"))?;
    let mib = source.metadata()?.len() as usize / MIB;
    let begin = Instant::now();
    let writer = ImageWriter::new(&vault, MEMORY, std::thread::available_parallelism()?.get())?;
    let known = begin.elapsed();
    let mut body = writer.begin();
    while body.fill_from(&mut source)? > 0 {}
    let id = body.finish()?;
    let mut written = writer.finish()?;
    let body = written.take(id);
    let (extents, chunks) = (body.extents().count(), written.chunks.len());
    let images = vec![CriuImage { name: IMAGE.into(), body: Some(body) }];
    let mut manifest = Manifest { images, packs: written.packs, chunks: written.chunks, ..Manifest::default() };
    let lease = Lease::for_newest(&vault)?.unwrap_or_else(Lease::fresh);
    let number = image::commit(&vault, &mut manifest, lease, begin)?.generation;
    println!(
        "{}, indexes {known:.0?}; {} KiB new, {} KiB stored, manifest {} KiB of {extents} extents, {chunks} chunks, {} packs; {}",
        rate(mib, begin),
        written.new >> 10,
        written.stored >> 10,
        fs::metadata(folder.join(format!("store/generations/{number}.manifest")))?.len() >> 10,
        manifest.packs.len(),
        resident()?,
    );
    Ok(())
}

fn read(folder: &Path) -> Result<()> {
    let vault = open(folder)?;
    let begin = Instant::now();
    let manifest = Manifest::load(&vault, None)?.ok_or("nothing was committed")?;
    let body = manifest.image(IMAGE).ok_or("no image")?;
    let mut fetcher = Fetcher::new(&vault, &manifest, MEMORY, std::thread::available_parallelism()?.get())?;
    let mut sum = 0;
    fetcher.for_each(body, |piece| {
        if let Piece::Data(data) = piece {
            sum ^= data.len() ^ usize::from(data[0]);
        }
        Ok(())
    })?;
    std::hint::black_box(sum);
    println!("  read back {}; {}", rate(body.size() as usize / MIB, begin), resident()?);
    Ok(())
}

fn rate(mib: usize, begin: Instant) -> String {
    let time = begin.elapsed();
    format!("{time:.2?} ({:.0} MiB/s)", mib as f64 / time.as_secs_f64())
}

/// The most memory that this process ever had resident.
fn resident() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).ok_or("no VmHWM")?;
    Ok(line.replace('\t', " "))
}

/// Pages as services have them, an eighth of them zero; no two are equal.
struct Data {
    file: File,
    pages: usize,
}

impl Data {
    fn put(&self, page: usize, seed: u64) -> Result<()> {
        let mut bytes = [0; PAGE];
        let mut noise = [0; PAGE];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
        match page / 64 % 8 {
            0 => {}
            1..4 => fill_text(&mut bytes, &noise),
            4..6 => fill_pointers(&mut bytes, &noise),
            _ => bytes = noise,
        }
        Ok(self.file.write_all_at(&bytes, (page * PAGE) as u64)?)
    }

    /// Changes one page in so many, none where that is 0.
    fn scatter(&self, one_in: usize, seed: u64) -> Result<()> {
        for n in 0..self.pages.checked_div(one_in).unwrap_or(0) as u64 {
            let hash = blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat());
            let random = u64::from_le_bytes(*hash.as_bytes().first_chunk().ok_or("a hash is longer")?);
            self.put(random as usize % self.pages, random)?;
        }
        Ok(())
    }
}

fn fill_text(bytes: &mut [u8], noise: &[u8]) {
    let words = ["key:", "value ", "session=", "user", "counter", "0x", "name=", "\n"];
    let text =
        noise.iter().flat_map(|n| format!("{}{}", words[*n as usize % 8], u32::from(*n) * 7919 % 10_000).into_bytes());
    bytes.iter_mut().zip(text).for_each(|(byte, text)| *byte = text);
}

fn fill_pointers(bytes: &mut [u8], noise: &[u8]) {
    for (n, words) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *words = [noise[n], noise[n / 2], noise[n / 16] & 15, 0x40, 0x7f, 0x55, 0, 0];
    }
}

/// Puts one page in the middle.
fn insert(path: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let middle = bytes.len() / PAGE / 2 * PAGE;
    let mut page = vec![0; PAGE];
    blake3::Hasher::new().update(b"inserted").finalize_xof().fill(&mut page);
    bytes.splice(middle..middle, page);
    Ok(fs::write(path, bytes)?)
}
