//! How fast an image is written and read back: a third zero, a third text, a third noise, through a pipe as CRIU gives it.
//!
//! `cargo run --release --example image_throughput [MIB] [FOLDER]`

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use freeze::image::{Fetcher, Front, ImageWriter, Manifest};
use freeze::store;

const MIB: usize = 1 << 20;
const MEMORY: u64 = 64 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mib: usize = arguments.next().map_or(Ok(512), |n| n.parse())?;
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("image-throughput"), PathBuf::from);
    let store = store::open(&format!("file:{}", folder.display()))?;
    let threads = thread::available_parallelism()?.get();
    let blocks = Blocks::new();
    let resident = resident_kib()?;

    let (mut source, sink) = pipe()?;
    let feeder = thread::spawn(move || blocks.feed(sink, mib));
    let begin = Instant::now();
    let writer = ImageWriter::new(store.clone(), MEMORY, threads)?;
    let mut body = writer.begin();
    while body.fill_from(&mut source)? > 0 {}
    let id = body.finish()?;
    let read = begin.elapsed();
    let mut written = writer.finish()?;
    let total = begin.elapsed();
    feeder.join().expect("the feeder does not panic")?;
    let rate = |time: std::time::Duration| mib as f64 / time.as_secs_f64();
    println!(
        "read {mib} MiB in {read:.0?} ({:.0} MiB/s), stored after {total:.0?} ({:.0} MiB/s)",
        rate(read),
        rate(total)
    );
    println!("{} packs, {} MiB, peak {} KiB", written.packs.len(), written.stored >> 20, resident_kib()? - resident);

    let manifest = Manifest { packs: std::mem::take(&mut written.packs), ..Manifest::default() };
    let body = written.take(id);
    println!("{} chunks of {} KiB", body.extents().count(), (mib << 10) / body.extents().count());
    let resident = resident_kib()?;
    let (mut drain, mut out) = pipe()?;
    let drain = thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; MIB];
        while drain.read(&mut buffer)? > 0 {}
        Ok(())
    });
    let begin = Instant::now();
    let mut fetcher = Fetcher::new(store.clone(), &manifest, MEMORY, threads.max(4))?;
    let stream = fetcher.open(&body);
    loop {
        let count = match fetcher.front(stream)? {
            Front::Data(data) => out.write(data)?,
            Front::Pending => {
                let mut fds = [nix::poll::PollFd::new(fetcher.wake_fd(), nix::poll::PollFlags::POLLIN)];
                nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE)?;
                continue;
            }
            Front::End => break,
        };
        fetcher.consume(stream, count);
    }
    let time = begin.elapsed();
    drop(out);
    drain.join().expect("the drain does not panic")?;
    println!("restored in {time:.0?} ({:.0} MiB/s), peak {} KiB", rate(time), resident_kib()? - resident);
    fs::remove_dir_all(folder)?;
    Ok(())
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
