//! How fast an image is written and read back: a third zero, a third text, a third noise, through a pipe as CRIU gives it.
//!
//! `cargo run --release --example image_throughput [MIB] [FOLDER]`

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use freeze::image::{Fetcher, Front, Image, ImageWriter, Manifest};
use freeze::store::{self, Store};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const MIB: usize = 1 << 20;
const MEMORY: u64 = 64 << 20;
const IMAGE: &str = "pages-1.img";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "512".into());
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("image-throughput"), PathBuf::from);
    let store = store::open(&format!("file:{}", folder.display()))?;
    if first == "restore" {
        return restore(store);
    }
    checkpoint(store, first.parse()?)?;
    // In a process of its own, so that its memory can be told apart.
    Command::new(std::env::current_exe()?).arg("restore").arg(&folder).status()?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

fn checkpoint(store: Arc<dyn Store>, mib: usize) -> Result<(), Box<dyn std::error::Error>> {
    let blocks = Blocks::new();
    let resident = resident_kib()?;
    let (mut source, sink) = pipe()?;
    let feeder = thread::spawn(move || blocks.feed(sink, mib));
    let begin = Instant::now();
    let writer = ImageWriter::new(store.clone(), MEMORY, thread::available_parallelism()?.get())?;
    let mut body = writer.begin();
    while body.fill_from(&mut source)? > 0 {}
    let id = body.finish()?;
    let read = begin.elapsed();
    let mut written = writer.finish()?;
    let stored = begin.elapsed();
    feeder.join().expect("the feeder does not panic")?;
    println!("read     {}, all stored after {stored:.0?}, at most {} KiB", rate(mib, read), resident_kib()? - resident);

    let body = written.take(id);
    let chunks = body.extents().count();
    let image = Image { name: IMAGE.into(), body: Some(body) };
    let mut manifest = Manifest { images: vec![image], packs: written.packs, ..Manifest::default() };
    println!("stored   {} MiB, {chunks} extents of {} KiB", written.stored >> 20, (mib << 10) / chunks);
    println!("manifest {} KiB", manifest.encode_object().len() >> 10);
    freeze::image::commit(&*store, &mut manifest)?;
    Ok(())
}

fn restore(store: Arc<dyn Store>) -> Result<(), Box<dyn std::error::Error>> {
    let (mut drain, mut out) = pipe()?;
    let drain = thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; MIB];
        while drain.read(&mut buffer)? > 0 {}
        Ok(())
    });
    let resident = resident_kib()?;
    let begin = Instant::now();
    let manifest = Manifest::load(&*store, None)?.ok_or("nothing was committed")?;
    let body = manifest.image(IMAGE).ok_or("no image")?;
    let mut fetcher = Fetcher::new(store, &manifest, MEMORY, thread::available_parallelism()?.get().max(4))?;
    let stream = fetcher.open(body);
    loop {
        let count = match fetcher.front(stream)? {
            Front::Data(data) => out.write(data)?,
            Front::Pending => {
                let mut fds = [PollFd::new(fetcher.wake_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::NONE)?;
                continue;
            }
            Front::End => break,
        };
        fetcher.consume(stream, count);
    }
    drop(out);
    drain.join().expect("the drain does not panic")?;
    let time = begin.elapsed();
    println!("restored {}, at most {} KiB", rate((body.size() >> 20) as usize, time), resident_kib()? - resident);
    Ok(())
}

fn rate(mib: usize, time: Duration) -> String {
    format!("{mib} MiB in {time:.0?}, {:.0} MiB/s", mib as f64 / time.as_secs_f64())
}

fn pipe() -> std::io::Result<(std::io::PipeReader, std::io::PipeWriter)> {
    let (source, sink) = std::io::pipe()?;
    nix::fcntl::fcntl(&sink, nix::fcntl::FcntlArg::F_SETPIPE_SZ(MIB as i32))?;
    Ok((source, sink))
}

/// One MiB of each kind in turn, from what is made beforehand.
struct Blocks {
    text: Vec<u8>,
    noise: Vec<u8>,
}

impl Blocks {
    fn new() -> Self {
        let mut noise = vec![0; 16 * MIB];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let words = ["key", "value", "session", "user", "counter", "0x", "name=", "\n"];
        let word = |n: &u8| format!("{}{}", words[*n as usize % 8], u32::from(*n) * 7919 % 10_000);
        let mut text: Vec<u8> = noise.iter().flat_map(|n| word(n).into_bytes()).take(16 * MIB).collect();
        text.shrink_to_fit();
        Self { text, noise }
    }

    fn feed(&self, mut sink: impl Write, mib: usize) -> std::io::Result<()> {
        let zeros = vec![0; MIB];
        for i in 0..mib {
            let at = (i / 3 % 15) * MIB + (i % 7) * 4096;
            sink.write_all(match i % 3 {
                0 => &zeros,
                1 => &self.text[at..at + MIB],
                _ => &self.noise[at..at + MIB],
            })?;
        }
        Ok(())
    }
}

/// The most memory that this process ever had resident.
fn resident_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
}
