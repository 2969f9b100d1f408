//! A writer is killed again and again while it commits: what was committed stays, and whole.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use freeze::image::{self, CriuImage, Fetcher, ImageWriter, KeyFiles, Lease, Manifest, Vault};
use freeze::store::{self, Location};

const MEMORY: u64 = 64 << 20;
const STORE: &str = "STORE_OF_THE_KILLED_WRITER";
const PAGES: usize = 2 << 20;

/// The pages of a generation: any that follow from its number.
fn pages(seed: u64) -> Vec<u8> {
    let mut data = vec![0; PAGES];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
    data
}

fn open(url: &str) -> Vault {
    Vault::create(store::open(&Location::at(url)).unwrap(), &KeyFiles::default()).unwrap()
}

/// Commits for ever, and says so by one byte each time.
fn commit_for_ever(vault: Vault) {
    let mut lease = Lease::for_newest(&vault).unwrap().unwrap_or_else(Lease::fresh);
    for seed in 0.. {
        let begun = Instant::now();
        let writer = ImageWriter::new(&vault, MEMORY, 1).unwrap();
        let mut body = writer.begin();
        body.write_all(&pages(seed)).unwrap();
        let id = body.finish().unwrap();
        let mut written = writer.finish().unwrap();
        let image = CriuImage { name: "pages-1.img".into(), body: Some(written.take(id)) };
        let mut manifest = Manifest {
            created_ms: seed,
            images: vec![image],
            packs: written.packs,
            chunks: written.chunks,
            ..Manifest::default()
        };
        lease = image::commit(&vault, &mut manifest, lease, begun).unwrap();
        std::io::stderr().write_all(b".").unwrap();
    }
}

#[test]
fn what_was_committed_survives_the_writer() {
    if let Ok(url) = std::env::var(STORE) {
        return commit_for_ever(open(&url));
    }
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    let vault = open(&url);
    let mut newest = 0;
    for round in 0..20 {
        let mut writer = Command::new(std::env::current_exe().unwrap());
        writer.args(["--exact", "what_was_committed_survives_the_writer", "--nocapture"]).env(STORE, &url);
        let mut writer = writer.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // It goes on while these bytes are on their way, so that the kill comes at any moment.
        let commits = round % 3;
        writer.stderr.take().unwrap().read_exact(&mut vec![0; commits as usize]).unwrap();
        writer.kill().unwrap();
        writer.wait().unwrap();

        let found = image::newest(&vault).unwrap().unwrap_or(0);
        assert!(found >= newest + commits, "{found} after {newest} and {commits} more");
        newest = found;
        for generation in image::generations(&vault).unwrap() {
            let manifest = generation.manifest.unwrap();
            let mut fetcher = Fetcher::new(&vault, &manifest, MEMORY, 1).unwrap();
            let body = manifest.image("pages-1.img").unwrap();
            assert!(fetcher.read_to_vec(body, "the pages", PAGES as u64).unwrap() == pages(manifest.created_ms));
        }
    }
    assert!(newest >= 19);
}
