//! Makes whole stores, damages them, and says what freeze says of each.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use freeze::image::{
    self, ChunkRef, CriuImage, Fetcher, File, ImageError, ImageWriter, KeyFiles, Kind, Lease, Manifest, Vault,
};
use freeze::store::{self, Location};
use freeze::upkeep::Quiet;
use freeze::upkeep::verify::{Options, verify};
use prost::Message;
use serde_json::Value;

use crate::secrets::{self, Secrets};
use crate::wire::{WireBody, WireChunks, changed};

const MEMORY: u64 = 64 << 20;
const KEY_FILE: &[u8] = &[7; 32];

/// What a store suffers, and what that is called.
pub type Damage = (&'static str, fn(&mut Fixture));

/// A store of one generation, and what is in it.
pub struct Fixture {
    folder: tempfile::TempDir,
    pub keys: KeyFiles,
    /// The newest generation's.
    pub manifest: Manifest,
    contents: BTreeMap<u64, Vec<Vec<u8>>>,
}

/// A whole store in memory, so that it need not be made and synced for each damage.
struct Template {
    objects: Vec<(String, Vec<u8>)>,
    manifest: Manifest,
    contents: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Template {
    fn of(encrypt: bool) -> &'static Self {
        static WHOLE: [OnceLock<Template>; 2] = [const { OnceLock::new() }; 2];
        WHOLE[usize::from(encrypt)].get_or_init(|| {
            let mut whole = Fixture::empty(encrypt);
            whole.commit();
            let keys = whole.open().unwrap().store().list("").unwrap().into_iter().map(|object| object.key);
            let objects = keys.map(|key| (key.clone(), whole.read(&key))).collect();
            Self { objects, manifest: whole.manifest, contents: whole.contents }
        })
    }
}

impl Fixture {
    pub fn new(encrypt: bool) -> Self {
        let Template { objects, manifest, contents } = Template::of(encrypt);
        let whole = Self { manifest: manifest.clone(), contents: contents.clone(), ..Self::empty(encrypt) };
        objects.iter().for_each(|(key, data)| whole.write(key, data));
        whole
    }

    pub fn empty(encrypt: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key"), KEY_FILE).unwrap();
        let keys = KeyFiles { passphrase_file: None, key_file: encrypt.then(|| folder.path().join("key")) };
        Self { folder, keys, manifest: Manifest::default(), contents: BTreeMap::new() }
    }

    /// Commits one more generation, of other pages and the same file.
    pub fn commit(&mut self) {
        let vault = self.open().unwrap();
        let generation = self.contents.len() as u64 + 1;
        let mut noise = vec![0; 300_000];
        blake3::Hasher::new().update(&generation.to_le_bytes()).finalize_xof().fill(&mut noise);
        let text = b"some text that shrinks ".repeat(10_000);
        let contents = vec![noise, b"small".to_vec(), text];
        let writer = ImageWriter::new(&vault, MEMORY, 1).unwrap();
        let ids: Vec<_> = contents.iter().map(|content| write(&writer, content)).collect();
        let mut written = writer.finish().unwrap();
        let mut bodies = ids.into_iter().map(|id| Some(written.take(id)));
        let images = ["pages-1.img", "inventory.img"];
        let images = images.map(|name| CriuImage { name: name.into(), body: bodies.next().unwrap() }).to_vec();
        let (size, body) = (contents[2].len() as u64, bodies.next().unwrap());
        let file = File { path: b"/data/dump".into(), kind: Kind::Regular.into(), size, body, ..File::default() };
        let (packs, chunks) = (written.packs, written.chunks);
        self.manifest = Manifest { images, files: vec![file], packs, chunks, ..Manifest::default() };
        let lease = Lease::for_newest(&vault).unwrap().unwrap_or_else(Lease::fresh);
        image::commit(&vault, &mut self.manifest, lease, Instant::now()).unwrap();
        image::mark_committed(&vault, self.manifest.generation);
        self.contents.insert(generation, contents);
    }

    pub fn open(&self) -> Result<Vault, ImageError> {
        Vault::create(store::open(&Location::at(&format!("file:{}", self.path("").display()))).unwrap(), &self.keys)
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("store").join(key)
    }

    pub fn read(&self, key: &str) -> Vec<u8> {
        fs::read(self.path(key)).unwrap()
    }

    pub fn write(&self, key: &str, data: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(key).parent().unwrap()).unwrap();
        fs::write(self.path(key), data).unwrap();
    }

    pub fn remove(&self, key: &str) {
        fs::remove_file(self.path(key)).unwrap();
    }

    pub fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut data = self.read(key);
        change(&mut data);
        self.write(key, data);
    }

    pub fn flip(&self, key: &str, at: usize) {
        self.change(key, |data| data[at] ^= 0x10);
    }

    /// Makes an object shorter, or longer by a hole.
    pub fn resize(&self, key: &str, size: u64) {
        fs::OpenOptions::new().write(true).open(self.path(key)).unwrap().set_len(size).unwrap();
    }

    pub fn manifest_key(&self) -> String {
        image::manifest_key(self.manifest.generation)
    }

    /// The key of the pack that the newest generation wrote.
    pub fn pack_key(&self) -> String {
        format!("packs/{}", self.manifest.packs.last().unwrap().id)
    }

    /// The last chunk, which is of the text.
    pub fn text(&self) -> ChunkRef {
        self.manifest.chunks.iter().last().unwrap()
    }

    pub fn format(&self) -> Value {
        serde_json::from_slice(&self.read("format")).unwrap()
    }

    pub fn secrets(&self) -> Secrets {
        Secrets::of(&self.format(), KEY_FILE)
    }

    /// Changes `format`, and leaves the hash as it was.
    pub fn change_format(&self, change: impl FnOnce(&mut Value)) {
        let mut format = self.format();
        change(&mut format);
        self.write("format", format.to_string());
    }

    /// Changes `format`, with the right hash.
    pub fn forge_format(&self, change: impl FnOnce(&mut Value)) {
        self.change_format(change);
        self.change_format(|format| format["check"] = secrets::check(format).into());
    }

    /// Puts a head in the place of the right one, with the right hash.
    pub fn forge_head(&self, generation: u64, epoch: u64) {
        let secrets = self.secrets();
        let numbers = [generation, epoch].map(u64::to_le_bytes).concat();
        let bytes = [&2u32.to_le_bytes()[..], &secrets.id, &numbers, &[1; 8]].concat();
        let mac = blake3::Hash::from(secrets.hash("freeze store 2: head", &bytes)).to_string();
        let writer = "01".repeat(8);
        let head = serde_json::json!({
            "version": 2, "generation": generation, "epoch": epoch, "writer": writer, "mac": mac,
        });
        self.write("head", head.to_string());
    }

    /// Puts a manifest in the place of the right one that differs from it, with the right seal.
    pub fn forge(&self, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        self.forge_message(&manifest.encode_to_vec());
    }

    pub fn forge_message(&self, message: &[u8]) {
        self.forge_frame(&zstd::bulk::compress(message, 1).unwrap(), message.len() as u64);
    }

    /// Puts any frame, of any declared size, in the place of the manifest's.
    pub fn forge_frame(&self, frame: &[u8], size: u64) {
        let sealed = self.secrets().seal(&self.manifest_key(), &[&size.to_le_bytes(), frame].concat());
        self.write(&self.manifest_key(), [b"FRZMANIF", &2u32.to_le_bytes()[..], &sealed].concat());
    }

    /// Forges the body of the pages.
    pub fn forge_body(&self, change: impl FnOnce(&mut WireBody)) {
        self.forge(|m| m.images[0].body = Some(changed(m.images[0].body.as_ref().unwrap(), change)));
    }

    pub fn forge_chunks(&self, change: impl FnOnce(&mut WireChunks)) {
        self.forge(|m| m.chunks = changed(&m.chunks, change));
    }

    /// Changes the index of the pack, with the right seal. The manifest learns how large the pack is now.
    pub fn forge_index(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let (key, secrets) = (self.pack_key(), self.secrets());
        let tail = self.manifest.packs[0].tail as usize;
        self.change(&key, |pack| {
            let start = pack.len() - tail;
            let mut index = secrets.open(&key, &pack[start..pack.len() - 12]);
            change(&mut index);
            let sealed = secrets.seal(&key, &index);
            pack.truncate(start);
            pack.extend([&sealed[..], &(sealed.len() as u32).to_le_bytes(), b"FRZPACK\x02"].concat());
        });
        let size = self.read(&key).len() as u64;
        self.forge(|m| {
            m.packs[0].tail = tail as u64 + size - m.packs[0].size;
            m.packs[0].size = size;
        });
    }

    /// What a restore does: reads everything.
    fn restore(&self) -> Result<(), ImageError> {
        let vault = self.open()?;
        let manifest = Manifest::load(&vault, None)?.expect("there is a generation");
        let mut fetcher = Fetcher::new(&vault, &manifest, MEMORY, 1)?;
        for (body, content) in manifest.bodies().zip(&self.contents[&manifest.generation]) {
            assert!(fetcher.read_to_vec(body, "the body", 1 << 30)? == *content, "other bytes come back");
        }
        Ok(())
    }

    fn restore_says(&self) -> String {
        self.plainly(self.restore().map_or_else(|error| error.to_string(), |()| "everything comes back".into()))
    }

    fn verify_says(&self) -> String {
        let found = match self.open() {
            Ok(vault) => verify(&vault, &Options::default(), &Quiet).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let errors = match found {
            Ok(found) => found.damaged.into_iter().map(|damage| damage.error).collect(),
            Err(error) => vec![error],
        };
        self.plainly(if errors.is_empty() { "nothing is damaged".into() } else { errors.join(" | ") })
    }

    /// A sentence without what differs from run to run.
    fn plainly(&self, sentence: String) -> String {
        let sentence = sentence.replace(&self.folder.path().display().to_string(), "");
        let ids = self.manifest.packs.iter().rev().map(|pack| &pack.id).zip(["ID", "OLD"]);
        ids.fold(sentence, |sentence, (id, name)| sentence.replace(id, name))
    }
}

fn write(writer: &ImageWriter, data: &[u8]) -> image::BodyId {
    let mut body = writer.begin();
    body.write_all(data).unwrap();
    body.finish().unwrap()
}

/// What a restore and `verify` say of each damage to a store that is not encrypted, and of the same to one that is.
pub fn say(damages: &[Damage]) -> String {
    damages.iter().map(|(name, damage)| format!("{name}:\n{}", say_one(*damage))).collect()
}

fn say_one(damage: fn(&mut Fixture)) -> String {
    let mut said: Vec<(String, Vec<&str>)> = Vec::new();
    for (encrypt, names) in [(false, ["restore", "verify"]), (true, ["encrypted restore", "encrypted verify"])] {
        let mut fixture = Fixture::new(encrypt);
        damage(&mut fixture);
        for (name, sentence) in names.into_iter().zip([fixture.restore_says(), fixture.verify_says()]) {
            match said.iter_mut().find(|(known, _)| *known == sentence) {
                Some((_, names)) => names.push(name),
                None => said.push((sentence, vec![name])),
            }
        }
    }
    match &said[..] {
        [(sentence, _)] => format!("    {sentence}\n"),
        _ => said.iter().map(|(sentence, names)| format!("    {}: {sentence}\n", names.join(", "))).collect(),
    }
}
