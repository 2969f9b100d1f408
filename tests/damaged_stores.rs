//! Stores damaged in every way that we could think of, and what freeze says of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use freeze::image::{
    self, Body, ChunkRef, ChunkTable, Fetcher, File, Image, ImageError, ImageWriter, KeyFiles, Kind, Lease, Manifest,
    Vault,
};
use freeze::store::{self, Location};
use prost::Message;

const MEMORY: u64 = 64 << 20;

fn open(folder: &Path) -> Result<Vault, ImageError> {
    Vault::create(store::open(&Location::at(&format!("file:{}", folder.display())))?, &KeyFiles::default())
}

/// A body as it is on the wire, to be filled with anything.
#[derive(Clone, PartialEq, Message)]
struct WireBody {
    #[prost(bytes = "vec", optional, tag = "1")]
    whole: Option<Vec<u8>>,
    #[prost(uint64, repeated, tag = "2")]
    lengths: Vec<u64>,
    #[prost(uint32, repeated, tag = "3")]
    chunks: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    firsts: Vec<u32>,
}

/// A table of chunks as it is on the wire.
#[derive(Clone, PartialEq, Message)]
struct WireChunks {
    #[prost(uint32, repeated, tag = "1")]
    packs: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    offsets: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    encoded: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    raw: Vec<u32>,
    #[prost(bytes = "vec", tag = "5")]
    names: Vec<u8>,
}

/// A whole store of one generation, and what is in it.
struct Fixture {
    folder: tempfile::TempDir,
    manifest: Manifest,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = open(folder.path()).unwrap();
        let writer = ImageWriter::new(&vault, MEMORY, 1).unwrap();
        let mut noise = vec![0; 300_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text = b"some text that shrinks ".repeat(10_000);
        let ids = [&noise[..], &text, b"small"].map(|data| {
            let mut body = writer.begin();
            body.write_all(data).unwrap();
            body.finish().unwrap()
        });
        let mut written = writer.finish().unwrap();
        let [pages, data, small] = ids.map(|id| Some(written.take(id)));
        let image = |name: &str, body| Image { name: name.into(), body };
        let file =
            File { path: b"/data/dump".into(), kind: Kind::Regular.into(), size: text.len() as u64, ..File::default() };
        let mut manifest = Manifest {
            images: vec![image("pages-1.img", pages), image("inventory.img", small)],
            files: vec![File { body: data, ..file }],
            packs: written.packs,
            chunks: written.chunks,
            ..Manifest::default()
        };
        image::commit(&vault, &mut manifest, Lease::fresh(), Instant::now()).unwrap();
        Self { folder, manifest }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join(key)
    }

    fn manifest_path(&self) -> PathBuf {
        self.path("generations/1.manifest")
    }

    fn pack_path(&self) -> PathBuf {
        self.path(&format!("packs/{}", self.manifest.packs[0].id))
    }

    /// Puts a manifest in the place of the right one that differs from it, with the right hash.
    fn forge(&self, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        let message = manifest.encode_to_vec();
        self.forge_message(&zstd::bulk::compress(&message, 1).unwrap(), message.len() as u64);
    }

    /// Forges the body of the pages.
    fn forge_body(&self, change: impl FnOnce(&mut WireBody)) {
        self.forge(|manifest| forge_body(&mut manifest.images[0].body, change));
    }

    /// Forges the table of chunks.
    fn forge_chunks(&self, change: impl FnOnce(&mut WireChunks)) {
        self.forge(|manifest| {
            let mut wire = WireChunks::decode(&*manifest.chunks.encode_to_vec()).unwrap();
            change(&mut wire);
            manifest.chunks = ChunkTable::decode(&*wire.encode_to_vec()).unwrap();
        });
    }

    /// The last chunk, which is of the text.
    fn text(&self) -> ChunkRef {
        self.manifest.chunks.iter().last().unwrap()
    }

    /// Puts any message, of any declared size, in the place of the manifest, with the right hash.
    fn forge_message(&self, compressed: &[u8], size: u64) {
        let content = [&size.to_le_bytes(), compressed].concat();
        let hash =
            self.hash("freeze store 2: hashes of messages", &[b"generations/1.manifest\0", &content[..]].concat());
        let object = [b"FRZMANIF", &2u32.to_le_bytes()[..], &hash, &content].concat();
        fs::write(self.manifest_path(), object).unwrap();
    }

    /// The hash of something in this store, as docs/store-format.md says.
    fn hash(&self, context: &str, data: &[u8]) -> [u8; 32] {
        let format: serde_json::Value = serde_json::from_slice(&fs::read(self.path("format")).unwrap()).unwrap();
        let key = unhex(format["keys"]["plain"].as_str().unwrap());
        *blake3::keyed_hash(&blake3::derive_key(context, &key), data).as_bytes()
    }

    fn forge_format(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut format = serde_json::from_slice(&fs::read(self.path("format")).unwrap()).unwrap();
        change(&mut format);
        fs::write(self.path("format"), format.to_string()).unwrap();
    }

    /// Puts a head in the place of the right one, with the right hash.
    fn forge_head(&self, generation: u64, epoch: u64) {
        let format: serde_json::Value = serde_json::from_slice(&fs::read(self.path("format")).unwrap()).unwrap();
        let id = unhex(format["id"].as_str().unwrap());
        let numbers = [generation, epoch].map(u64::to_le_bytes).concat();
        let mac = self.hash("freeze store 2: head", &[&2u32.to_le_bytes(), &id[..], &numbers, &[1; 8]].concat());
        let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let writer = "01".repeat(8);
        let head =
            format!(r#"{{"version":2,"generation":{generation},"epoch":{epoch},"writer":"{writer}","mac":"{mac}"}}"#);
        fs::write(self.path("head"), head).unwrap();
    }

    /// What a restore does: reads everything.
    fn restore(&self) -> Result<(), ImageError> {
        let vault = open(self.folder.path())?;
        let Some(manifest) = Manifest::load(&vault, None)? else { return Ok(()) };
        let mut fetcher = Fetcher::new(&vault, &manifest, MEMORY, 1)?;
        let images = manifest.images.iter().map(|image| &image.body);
        for body in images.chain(manifest.files.iter().map(|file| &file.body)) {
            fetcher.read_to_vec(body.as_ref().unwrap(), "the body", 1 << 30)?;
        }
        Ok(())
    }

    /// What a restore of this damaged store says, without what differs from run to run.
    fn report(&self) -> String {
        let text = self.restore().expect_err("this store is damaged").to_string();
        let text = text.replace(&self.folder.path().display().to_string(), "/STORE");
        text.replace(&self.manifest.packs[0].id, "ID")
    }
}

fn wire(body: &Option<Body>) -> WireBody {
    WireBody::decode(&*body.as_ref().unwrap().encode_to_vec()).unwrap()
}

fn forge_body(body: &mut Option<Body>, change: impl FnOnce(&mut WireBody)) {
    let mut wire = wire(body);
    change(&mut wire);
    *body = Some(Body::decode(&*wire.encode_to_vec()).unwrap());
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn flip(path: &Path, at: usize) {
    let mut data = fs::read(path).unwrap();
    data[at] ^= 0x10;
    fs::write(path, data).unwrap();
}

fn truncate(path: &Path, size: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
}

fn file(path: &[u8], kind: Kind, target: &[u8]) -> File {
    File { path: path.into(), kind: kind.into(), target: target.into(), ..File::default() }
}

type Damage = (&'static str, fn(&Fixture));

fn say(damages: &[Damage]) -> String {
    let one = |(name, damage): &Damage| {
        let fixture = Fixture::new();
        fixture.restore().unwrap();
        damage(&fixture);
        format!("{name}:\n    {}\n", fixture.report())
    };
    damages.iter().map(one).collect()
}

#[test]
fn damaged_head() {
    insta::assert_snapshot!(say(&[
        ("a flipped bit", |f| flip(&f.path("head"), 0)),
        ("truncated", |f| truncate(&f.path("head"), 10)),
        ("empty", |f| truncate(&f.path("head"), 0)),
        ("missing", |f| fs::remove_file(f.path("head")).unwrap()),
        ("huge", |f| truncate(&f.path("head"), 1 << 40)),
        ("a later version", |f| fs::write(f.path("head"), r#"{"version":7,"generation":1}"#).unwrap()),
        ("written by hand", |f| {
            let head = fs::read_to_string(f.path("head")).unwrap();
            fs::write(f.path("head"), head.replace("\"generation\":1", "\"generation\":9")).unwrap();
        }),
        ("without its hash", |f| fs::write(f.path("head"), r#"{"version":2,"generation":1}"#).unwrap()),
        ("another generation", |f| f.forge_head(9, 1)),
        ("an absurd generation", |f| f.forge_head(u64::MAX, 1)),
        ("an absurd epoch", |f| f.forge_head(1, u64::MAX)),
    ]), @r"
    a flipped bit:
        head in file:/STORE is damaged: it cannot be parsed: expected value at line 1 column 1. Put it back from a copy of the store, or start afresh with an empty store
    truncated:
        head in file:/STORE is damaged: it cannot be parsed: EOF while parsing an object at line 1 column 10. Put it back from a copy of the store, or start afresh with an empty store
    empty:
        head in file:/STORE is damaged: it cannot be parsed: EOF while parsing a value at line 1 column 0. Put it back from a copy of the store, or start afresh with an empty store
    missing:
        file:/STORE holds generations but no head, so head was removed. Put it back from a copy of the store; to start afresh on purpose, use an empty store
    huge:
        head in file:/STORE has 1099511627776 bytes, and at most 65536 can be right. The object is damaged or not of freeze
    a later version:
        head in file:/STORE has format version 7, and this freeze reads version 2. Use the freeze that wrote it, or a later one
    written by hand:
        head in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    without its hash:
        head in file:/STORE is damaged: it cannot be parsed: missing field `mac` at line 1 column 28. Put it back from a copy of the store, or start afresh with an empty store
    another generation:
        head of file:/STORE names generation 9, whose manifest is missing. Put generations/9.manifest back from a copy of the store
    an absurd generation:
        head in file:/STORE is damaged: its generation is 18446744073709551615, and at most 9007199254740992 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an absurd epoch:
        head in file:/STORE is damaged: its epoch is 18446744073709551615, and at most 9007199254740992 can be right. Put it back from a copy of the store, or start afresh with an empty store
    ");
}

#[test]
fn damaged_format() {
    insta::assert_snapshot!(say(&[
        ("a flipped bit", |f| flip(&f.path("format"), 0)),
        ("truncated", |f| truncate(&f.path("format"), 10)),
        ("empty", |f| truncate(&f.path("format"), 0)),
        ("missing", |f| fs::remove_file(f.path("format")).unwrap()),
        ("huge", |f| truncate(&f.path("format"), 1 << 40)),
        ("a later version", |f| fs::write(f.path("format"), r#"{"version":7,"id":[]}"#).unwrap()),
        ("another id", |f| f.forge_format(|format| format["id"] = "00".repeat(16).into())),
        ("another key", |f| f.forge_format(|format| format["keys"]["plain"] = "00".repeat(32).into())),
        ("a short id", |f| f.forge_format(|format| format["id"] = "00".into())),
        ("a key of an unknown kind", |f| f.forge_format(|format| format["keys"] = serde_json::json!({"quantum": 1}))),
        ("another store's", |f| fs::copy(Fixture::new().path("format"), f.path("format")).map(drop).unwrap()),
        ("a store of version 1", |f| {
            fs::remove_file(f.path("format")).unwrap();
            fs::write(f.path("head"), "{\"version\":1,\"generation\":1}\n").unwrap();
        }),
    ]), @r"
    a flipped bit:
        format in file:/STORE is damaged: it cannot be parsed: expected value at line 1 column 1. Put it back from a copy of the store, or start afresh with an empty store
    truncated:
        format in file:/STORE is damaged: it cannot be parsed: EOF while parsing an object at line 1 column 10. Put it back from a copy of the store, or start afresh with an empty store
    empty:
        format in file:/STORE is damaged: it cannot be parsed: EOF while parsing a value at line 1 column 0. Put it back from a copy of the store, or start afresh with an empty store
    missing:
        file:/STORE holds checkpoints but no format object, so it was removed. Put it back from a copy of the store: without it nothing can be read
    huge:
        format in file:/STORE has 1099511627776 bytes, and at most 65536 can be right. The object is damaged or not of freeze
    a later version:
        format in file:/STORE has format version 7, and this freeze reads version 2. Use the freeze that wrote it, or a later one
    another id:
        format in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    another key:
        format in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    a short id:
        format in file:/STORE is damaged: it cannot be parsed: 32 hexadecimal digits are expected at line 1 column 85. Put it back from a copy of the store, or start afresh with an empty store
    a key of an unknown kind:
        format in file:/STORE is damaged: it cannot be parsed: unknown variant `quantum`, expected `plain` or `wrapped` at line 1 column 133. Put it back from a copy of the store, or start afresh with an empty store
    another store's:
        head in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    a store of version 1:
        file:/STORE holds checkpoints of format version 1, which this freeze does not read. Restore them with the freeze that made them, or begin with an empty store
    ");
}

#[test]
fn damaged_manifest() {
    insta::assert_snapshot!(say(&[
        ("missing", |f| fs::remove_file(f.manifest_path()).unwrap()),
        ("a flipped bit in the magic", |f| flip(&f.manifest_path(), 3)),
        ("a flipped bit in the hash", |f| flip(&f.manifest_path(), 20)),
        ("a flipped bit in the size", |f| flip(&f.manifest_path(), 45)),
        ("a flipped bit in the content", |f| flip(&f.manifest_path(), 100)),
        ("empty", |f| truncate(&f.manifest_path(), 0)),
        ("truncated in its head", |f| truncate(&f.manifest_path(), 30)),
        ("truncated in its content", |f| truncate(&f.manifest_path(), 100)),
        ("huge", |f| truncate(&f.manifest_path(), 1 << 40)),
        ("a later version", |f| {
            let mut object = fs::read(f.manifest_path()).unwrap();
            object[8] = 9;
            fs::write(f.manifest_path(), object).unwrap();
        }),
        ("another generation's", |f| f.forge(|m| m.generation = 5)),
        ("its own parent", |f| f.forge(|m| m.parent = 1)),
        ("an absurd size", |f| f.forge_message(b"", 1 << 60)),
        ("a bomb", |f| f.forge_message(&zstd::bulk::compress(&vec![0; 300 << 20], 1).unwrap(), 1000)),
        ("less than its size", |f| f.forge_message(&zstd::bulk::compress(&[0; 10], 1).unwrap(), 1000)),
        ("no message", |f| f.forge_message(&zstd::bulk::compress(b"\xff\xff", 1).unwrap(), 2)),
        ("two million empty processes", |f| {
            let message = [0x62, 0].repeat(2 << 20);
            f.forge_message(&zstd::bulk::compress(&message, 1).unwrap(), message.len() as u64);
        }),
    ]), @r"
    missing:
        head of file:/STORE names generation 1, whose manifest is missing. Put generations/1.manifest back from a copy of the store
    a flipped bit in the magic:
        generations/1.manifest in file:/STORE is damaged: it does not begin as a manifest does. Put it back from a copy of the store, or start afresh with an empty store
    a flipped bit in the hash:
        generations/1.manifest in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    a flipped bit in the size:
        generations/1.manifest in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    a flipped bit in the content:
        generations/1.manifest in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    empty:
        generations/1.manifest in file:/STORE is damaged: it does not begin as a manifest does. Put it back from a copy of the store, or start afresh with an empty store
    truncated in its head:
        generations/1.manifest in file:/STORE is damaged: it ends too early. Put it back from a copy of the store, or start afresh with an empty store
    truncated in its content:
        generations/1.manifest in file:/STORE is damaged: its content does not have the hash that was written with it. Put it back from a copy of the store, or start afresh with an empty store
    huge:
        generations/1.manifest in file:/STORE has 1099511627776 bytes, and at most 134217728 can be right. The object is damaged or not of freeze
    a later version:
        generations/1.manifest in file:/STORE has format version 9, and this freeze reads version 2. Use the freeze that wrote it, or a later one
    another generation's:
        generations/1.manifest in file:/STORE is damaged: it says that it is generation 5. Put it back from a copy of the store, or start afresh with an empty store
    its own parent:
        generations/1.manifest in file:/STORE is damaged: its parent is 1, and at most 0 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an absurd size:
        generations/1.manifest in file:/STORE is damaged: its size of a manifest is 1152921504606846976, and at most 268435456 can be right. Put it back from a copy of the store, or start afresh with an empty store
    a bomb:
        generations/1.manifest in file:/STORE is damaged: it cannot be decompressed to the size that it declares. Put it back from a copy of the store, or start afresh with an empty store
    less than its size:
        generations/1.manifest in file:/STORE is damaged: it cannot be decompressed to the size that it declares. Put it back from a copy of the store, or start afresh with an empty store
    no message:
        generations/1.manifest in file:/STORE is damaged: it cannot be parsed: failed to decode Protobuf message: invalid varint. Put it back from a copy of the store, or start afresh with an empty store
    two million empty processes:
        generations/1.manifest in file:/STORE is damaged: its number of entries is 1048577, and at most 1048576 can be right. Put it back from a copy of the store, or start afresh with an empty store
    ");
}

#[test]
fn forged_bodies() {
    insta::assert_snapshot!(say(&[
        ("no body", |f| f.forge(|m| m.images[0].body = None)),
        ("an absurd slice", |f| f.forge_body(|b| b.lengths[0] = 1 << 40)),
        ("an absurd zero run", |f| f.forge_body(|b| {
            b.lengths.push(u64::MAX);
            b.chunks.push(0);
        })),
        ("an empty zero run", |f| f.forge_body(|b| {
            b.lengths.push(0);
            b.chunks.push(0);
        })),
        ("a chunk that is not listed", |f| f.forge_body(|b| b.chunks[0] = 99)),
        ("a slice behind its chunk", |f| f.forge_body(|b| b.firsts[0] = 1)),
        ("part of a page", |f| f.forge_body(|b| b.lengths[0] -= 1)),
        ("a missing first page", |f| f.forge_body(|b| b.firsts.clear())),
        ("a pack that is not listed", |f| f.forge_chunks(|c| c.packs[0] = 8)),
        ("an absurd chunk", |f| f.forge_chunks(|c| c.raw[0] = 1 << 30)),
        ("an offset behind the pack", |f| f.forge_chunks(|c| c.offsets[0] = u32::MAX)),
        ("an offset in the pack's head", |f| f.forge_chunks(|c| c.offsets[0] = 0)),
        ("longer encoded than raw", |f| f.forge_chunks(|c| c.encoded[0] += 1)),
        ("an empty chunk", |f| f.forge_chunks(|c| c.encoded[0] = 0)),
        ("a missing offset", |f| f.forge_chunks(|c| c.offsets.clear())),
        ("a missing name", |f| f.forge_chunks(|c| c.names.truncate(20))),
        ("another chunk in its place", |f| f.forge_chunks(|c| c.offsets[0] += 1)),
        ("inline and chunks", |f| f.forge_body(|b| b.whole = Some(vec![1]))),
        ("too much inline", |f| f.forge_body(|b| *b = WireBody { whole: Some(vec![0; 20_000]), ..WireBody::default() })),
        ("a shorter raw length", |f| f.forge_chunks(|c| *c.raw.last_mut().unwrap() += 1)),
        ("another size of a file", |f| f.forge(|m| m.files[0].size += 1)),
    ]), @r"
    no body:
        generations/1.manifest in file:/STORE is damaged: an image and its body do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    an absurd slice:
        generations/1.manifest in file:/STORE is damaged: its end of a slice is 1099511627776, and at most 131072 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an absurd zero run:
        generations/1.manifest in file:/STORE is damaged: its size of a body is 18446744073709551615, and at most 4503599627370496 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an empty zero run:
        generations/1.manifest in file:/STORE is damaged: the columns of a body do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    a chunk that is not listed:
        generations/1.manifest in file:/STORE is damaged: its index of a chunk is 98, and at most 4 can be right. Put it back from a copy of the store, or start afresh with an empty store
    a slice behind its chunk:
        generations/1.manifest in file:/STORE is damaged: its end of a slice is 135168, and at most 131072 can be right. Put it back from a copy of the store, or start afresh with an empty store
    part of a page:
        generations/1.manifest in file:/STORE is damaged: a slice and the pages of its chunk do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    a missing first page:
        generations/1.manifest in file:/STORE is damaged: the columns of a body do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    a pack that is not listed:
        generations/1.manifest in file:/STORE is damaged: its index of a pack is 8, and at most 0 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an absurd chunk:
        generations/1.manifest in file:/STORE is damaged: its length of a chunk is 1073741824, and at most 262144 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an offset behind the pack:
        generations/1.manifest in file:/STORE is damaged: its end of a chunk is 4295098367, and at most 302274 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an offset in the pack's head:
        generations/1.manifest in file:/STORE is damaged: the lengths and the offset of a chunk do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    longer encoded than raw:
        generations/1.manifest in file:/STORE is damaged: the lengths and the offset of a chunk do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    an empty chunk:
        generations/1.manifest in file:/STORE is damaged: the lengths and the offset of a chunk do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    a missing offset:
        generations/1.manifest in file:/STORE is damaged: the columns of the chunks do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    a missing name:
        generations/1.manifest in file:/STORE is damaged: the columns of the chunks do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    another chunk in its place:
        packs/ID in file:/STORE is damaged: the chunk at byte 9 does not have the hash that its manifest says. Put it back from a copy of the store, or start afresh with an empty store
    inline and chunks:
        generations/1.manifest in file:/STORE is damaged: the columns of a body do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    too much inline:
        generations/1.manifest in file:/STORE is damaged: its number of inline bytes is 20000, and at most 16384 can be right. Put it back from a copy of the store, or start afresh with an empty store
    a shorter raw length:
        generations/1.manifest in file:/STORE is damaged: a slice and the pages of its chunk do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    another size of a file:
        generations/1.manifest in file:/STORE is damaged: the size of a file and its body do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    ");
}

#[test]
fn forged_names() {
    insta::assert_snapshot!(say(&[
        ("a path out of its folder", |f| f.forge(|m| m.files.push(file(b"/data/../etc/passwd", Kind::Directory, b"")))),
        ("a relative path", |f| f.forge(|m| m.files.push(file(b"etc/passwd", Kind::Directory, b"")))),
        ("the root", |f| f.forge(|m| m.files.push(file(b"/", Kind::Directory, b"")))),
        ("a zero byte in a path", |f| f.forge(|m| m.files.push(file(b"/a\0b", Kind::Fifo, b"")))),
        ("a path twice", |f| f.forge(|m| m.files.push(file(b"/data/dump", Kind::Directory, b"")))),
        ("a link to nowhere", |f| f.forge(|m| m.files.push(file(b"/link", Kind::Symlink, b"")))),
        ("another name of a file that is not there", |f| {
            f.forge(|m| m.files.push(file(b"/a", Kind::HardLink, b"/etc/shadow")))
        }),
        ("an unknown kind", |f| f.forge(|m| m.files.push(file(b"/a", Kind::Unknown, b"")))),
        ("a regular file without content", |f| f.forge(|m| m.files.push(file(b"/a", Kind::Regular, b"")))),
        ("bits beside the mode", |f| f.forge(|m| m.files[0].mode = 0o100_644)),
        ("an image with a path", |f| f.forge(|m| m.images[0].name = "../pages-1.img".into())),
        ("an image twice", |f| f.forge(|m| m.images[1].name = "pages-1.img".into())),
        ("a pack with a path", |f| f.forge(|m| m.packs[0].id = "../../../../etc/shadow".into())),
        ("an absurd pack", |f| f.forge(|m| m.packs[0].size = 1 << 40)),
    ]), @r#"
    a path out of its folder:
        generations/1.manifest in file:/STORE is damaged: the path "/data/../etc/passwd" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    a relative path:
        generations/1.manifest in file:/STORE is damaged: the path "etc/passwd" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    the root:
        generations/1.manifest in file:/STORE is damaged: the path "/" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    a zero byte in a path:
        generations/1.manifest in file:/STORE is damaged: the path "/a\0b" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    a path twice:
        generations/1.manifest in file:/STORE is damaged: the path "/data/dump" appears twice. Put it back from a copy of the store, or start afresh with an empty store
    a link to nowhere:
        generations/1.manifest in file:/STORE is damaged: the link target "" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    another name of a file that is not there:
        generations/1.manifest in file:/STORE is damaged: the link target "/etc/shadow" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    an unknown kind:
        generations/1.manifest in file:/STORE is damaged: the kind of a file and its body do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    a regular file without content:
        generations/1.manifest in file:/STORE is damaged: the kind of a file and its body do not agree with each other. Put it back from a copy of the store, or start afresh with an empty store
    bits beside the mode:
        generations/1.manifest in file:/STORE is damaged: its mode of a file is 33188, and at most 4095 can be right. Put it back from a copy of the store, or start afresh with an empty store
    an image with a path:
        generations/1.manifest in file:/STORE is damaged: the image name "../pages-1.img" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    an image twice:
        generations/1.manifest in file:/STORE is damaged: the image "pages-1.img" appears twice. Put it back from a copy of the store, or start afresh with an empty store
    a pack with a path:
        generations/1.manifest in file:/STORE is damaged: the pack name "../../../../etc/shadow" is not allowed. Put it back from a copy of the store, or start afresh with an empty store
    an absurd pack:
        generations/1.manifest in file:/STORE is damaged: its size of a pack is 1099511627776, and at most 67108864 can be right. Put it back from a copy of the store, or start afresh with an empty store
    "#);
}

#[test]
fn damaged_pack() {
    insta::assert_snapshot!(say(&[
        ("missing", |f| fs::remove_file(f.pack_path()).unwrap()),
        ("a flipped bit in a chunk stored as it is", |f| flip(&f.pack_path(), 1000)),
        ("a flipped bit in a compressed chunk", |f| {
            flip(&f.pack_path(), f.text().offset as usize + 30);
        }),
        ("truncated", |f| truncate(&f.pack_path(), 5000)),
        ("empty", |f| truncate(&f.pack_path(), 0)),
        ("a bomb in the place of a chunk", |f| {
            let bomb = zstd::bulk::compress(&vec![0; 4 << 20], 1).unwrap();
            f.forge_chunks(|c| *c.encoded.last_mut().unwrap() = bomb.len() as u32);
            let mut pack = fs::read(f.pack_path()).unwrap();
            pack[f.text().offset as usize..][..bomb.len()].copy_from_slice(&bomb);
            fs::write(f.pack_path(), pack).unwrap();
        }),
    ]), @r"
    missing:
        file:/STORE has no object packs/ID. If it was there before, put it back from a copy of the store
    a flipped bit in a chunk stored as it is:
        packs/ID in file:/STORE is damaged: the chunk at byte 8 does not have the hash that its manifest says. Put it back from a copy of the store, or start afresh with an empty store
    a flipped bit in a compressed chunk:
        packs/ID in file:/STORE is damaged: the chunk at byte 300051 does not have the hash that its manifest says. Put it back from a copy of the store, or start afresh with an empty store
    truncated:
        packs/ID in file:/STORE has 5000 bytes, and bytes 8..300008 of it are needed. It was cut short: put it back from a copy
    empty:
        packs/ID in file:/STORE has 0 bytes, and bytes 8..300008 of it are needed. It was cut short: put it back from a copy
    a bomb in the place of a chunk:
        packs/ID in file:/STORE is damaged: the chunk at byte 300051 cannot be decompressed. Put it back from a copy of the store, or start afresh with an empty store
    ");
}

#[test]
fn one_damaged_manifest_does_not_hide_the_others() {
    let fixture = Fixture::new();
    let vault = open(fixture.folder.path()).unwrap();
    let lease = Lease::for_newest(&vault).unwrap().unwrap();
    image::commit(&vault, &mut fixture.manifest.clone(), lease, Instant::now()).unwrap();
    flip(&fixture.manifest_path(), 100);
    let whole: Vec<_> =
        image::generations(&vault).unwrap().into_iter().map(|g| (g.number, g.manifest.is_ok())).collect();
    assert_eq!(whole, [(1, false), (2, true)]);
    fixture.restore().unwrap();
}
