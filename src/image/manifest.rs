//! The manifest: everything of one generation but its chunks.
//!
//! Object: magic | format version (u32 LE) | sealed: raw size (u64 LE) | zstd of the protobuf message.
//! Must never let a decoded manifest out that was not checked.

use super::body::{Body, Extent, Slice};
use super::error::{Flaw, ImageError};
use super::format::VERSION;
use super::table::ChunkTable;
use super::vault::Vault;
use super::{Result, check, generation};

const MAGIC: &[u8; 8] = b"FRZMANIF";
/// Most bytes of a manifest object.
pub(super) const OBJECT_LIMIT: u64 = 128 << 20;
/// Most bytes of its message.
const MESSAGE_LIMIT: u64 = 256 << 20;

/// Everything of one generation but its chunks. Fields may be added; their numbers are never used again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    /// Its number, from 1; [`commit`](super::commit) sets it.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// When it was taken: milliseconds since 1970, UTC.
    #[prost(uint64, tag = "2")]
    pub created_ms: u64,
    /// Version of the freeze that took it.
    #[prost(string, tag = "3")]
    pub freeze_version: String,
    /// Machine, as uname(2) says it.
    #[prost(string, tag = "4")]
    pub arch: String,
    /// Kernel release, as uname(2) says it.
    #[prost(string, tag = "5")]
    pub kernel: String,
    /// The flags of /proc/cpuinfo.
    #[prost(string, repeated, tag = "6")]
    pub cpu_features: Vec<String>,
    /// PID of the root of the dumped tree.
    #[prost(int32, tag = "7")]
    pub root_pid: i32,
    /// PID of the service's first process.
    #[prost(int32, tag = "8")]
    pub service_pid: i32,
    /// Command line of the service, as /proc/PID/cmdline has it.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub command: Vec<Vec<u8>>,
    /// User of the service.
    #[prost(uint32, tag = "10")]
    pub uid: u32,
    /// Group of the service.
    #[prost(uint32, tag = "11")]
    pub gid: u32,
    /// All processes of the tree.
    #[prost(message, repeated, tag = "12")]
    pub processes: Vec<Process>,
    /// What the service's descriptors 0 to 2 were.
    #[prost(message, repeated, tag = "13")]
    pub stdio: Vec<Stdio>,
    /// CRIU's images.
    #[prost(message, repeated, tag = "14")]
    pub images: Vec<Image>,
    /// Captured files, folders before what is in them.
    #[prost(message, repeated, tag = "15")]
    pub files: Vec<File>,
    /// The packs that bodies refer to, by index.
    #[prost(message, repeated, tag = "16")]
    pub packs: Vec<PackInfo>,
    /// What the checkpoint took.
    #[prost(message, optional, tag = "17")]
    pub figures: Option<Figures>,
    /// Programs and libraries that the service has mapped; they must be the same where it is restored.
    #[prost(message, repeated, tag = "18")]
    pub executables: Vec<Executable>,
    /// The generation that was the newest one when this was committed; 0 for none. Set by [`commit`](super::commit).
    #[prost(uint64, tag = "20")]
    pub parent: u64,
    /// The container that it was taken in, by the name that it keeps when it is started again.
    #[prost(string, tag = "21")]
    pub instance: String,
    /// The service did not run on: whoever writes the outcome of this generation has it.
    #[prost(bool, tag = "22")]
    pub offered: bool,
    /// The clocks as the service saw them last; none where an older freeze took it.
    #[prost(message, optional, tag = "23")]
    pub clocks: Option<Clocks>,
    /// The chunks that bodies refer to, by index.
    #[prost(message, required, tag = "19")]
    pub chunks: ChunkTable,
}

/// A program or library.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Executable {
    /// Absolute path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// One process of the dumped tree.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Process {
    /// PID in the container.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its parent.
    #[prost(int32, tag = "2")]
    pub ppid: i32,
    /// Process group.
    #[prost(int32, tag = "3")]
    pub pgid: i32,
    /// Session.
    #[prost(int32, tag = "4")]
    pub sid: i32,
    /// Name, as /proc/PID/comm has it.
    #[prost(string, tag = "5")]
    pub comm: String,
    /// TIDs of its threads, the main one included.
    #[prost(int32, repeated, tag = "6")]
    pub threads: Vec<i32>,
    /// Path of its executable.
    #[prost(bytes = "vec", tag = "7")]
    pub exe: Vec<u8>,
}

/// What a descriptor of the service was.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stdio {
    /// 0 to 2.
    #[prost(uint32, tag = "1")]
    pub fd: u32,
    /// As readlink of /proc/PID/fd/N says it, such as `pipe:[123]`; or CRIU's `file[MOUNT:INODE]` of what the engine opened outside.
    #[prost(bytes = "vec", tag = "2")]
    pub target: Vec<u8>,
}

/// One of CRIU's images.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Image {
    /// Its name, such as `pages-1.img`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its bytes; always there after decoding.
    #[prost(message, optional, tag = "2")]
    pub body: Option<Body>,
}

/// A captured file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct File {
    /// Absolute path, without `.` and `..`.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// What it is.
    #[prost(enumeration = "Kind", tag = "2")]
    pub kind: i32,
    /// Permission bits.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    /// Time of last change, in nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mtime_ns: i64,
    /// Bytes of a regular file.
    #[prost(uint64, tag = "7")]
    pub size: u64,
    /// Content of a regular file; always there after decoding, and of `size` bytes.
    #[prost(message, optional, tag = "8")]
    pub body: Option<Body>,
    /// Where a symbolic link leads, or the first name of a file with several.
    #[prost(bytes = "vec", tag = "9")]
    pub target: Vec<u8>,
}

/// What a captured file is; one of these after decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Never written.
    Unknown = 0,
    /// A regular file.
    Regular = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// Another name of a regular file that comes before it.
    HardLink = 5,
}

/// A pack that bodies refer to.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PackInfo {
    /// Its name: the object is `packs/ID`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Bytes of the object.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Bytes of its sealed index and what follows it, so that one request reads it.
    #[prost(uint64, tag = "3")]
    pub tail: u64,
}

impl PackInfo {
    /// The key of the object.
    pub fn key(&self) -> String {
        super::pack::key(&self.id)
    }
}

/// Clocks that count from a host's start, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    #[prost(uint64, tag = "1")]
    pub monotonic_ns: u64,
    /// CLOCK_BOOTTIME.
    #[prost(uint64, tag = "2")]
    pub boottime_ns: u64,
}

/// What a checkpoint took.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Figures {
    /// Bytes taken from the service, zero pages included.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// Bytes of packs written for them.
    #[prost(uint64, tag = "2")]
    pub stored: u64,
    /// How long the service stood still, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub frozen_ms: u64,
    /// Of `bytes`, those that were stored anew, before they were encoded.
    #[prost(uint64, tag = "4")]
    pub new: u64,
    /// Of `bytes`, those that were stored already. All others are zero.
    #[prost(uint64, tag = "5")]
    pub shared: u64,
}

impl Manifest {
    /// The highest PID or TID of the service.
    pub fn highest_id(&self) -> Option<i32> {
        self.processes.iter().flat_map(|process| &process.threads).copied().max()
    }

    /// The whole object.
    pub fn encode_object(&self, vault: &Vault) -> Vec<u8> {
        let message = prost::Message::encode_to_vec(self);
        let size = (message.len() as u64).to_le_bytes();
        let frame = zstd::bulk::compress(&message, 1).expect("a buffer of the bound's size is enough");
        let sealed =
            vault.seal().seal_message(&generation::manifest_key(self.generation), &[&size[..], &frame].concat());
        [MAGIC, &VERSION.to_le_bytes()[..], &sealed].concat()
    }

    /// Decodes and checks the object of `generation`.
    pub fn decode_object(object: &[u8], generation: u64, vault: &Vault) -> Result<Self> {
        let key = generation::manifest_key(generation);
        match decode(object, generation, vault) {
            Ok(manifest) => Ok(manifest),
            Err(Refusal::Version(found)) => {
                Err(ImageError::Version { url: vault.url().into(), object: key, found, supported: VERSION })
            }
            Err(Refusal::Flaw(flaw)) => Err(ImageError::Damaged { url: vault.url().into(), object: key, flaw }),
        }
    }

    /// All bodies: those of the images, then those of the files.
    pub fn bodies(&self) -> impl Iterator<Item = &Body> {
        let images = self.images.iter().filter_map(|image| image.body.as_ref());
        images.chain(self.files.iter().filter_map(|file| file.body.as_ref()))
    }

    /// Every chunk once, as a body: who reads it has checked them all.
    pub fn every_chunk(&self) -> Body {
        let mut body = Body::default();
        for (index, chunk) in (0..).zip(self.chunks.iter()) {
            body.push(Extent::Slice(Slice { chunk: index, first: 0, length: chunk.raw }));
        }
        body
    }

    /// The image of that name.
    pub fn image(&self, name: &str) -> Option<&Body> {
        self.images.iter().find(|image| image.name == name)?.body.as_ref()
    }
}

enum Refusal {
    Version(u32),
    Flaw(Flaw),
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

fn decode(object: &[u8], generation: u64, vault: &Vault) -> Result<Manifest, Refusal> {
    let rest = object.strip_prefix(MAGIC).ok_or(Flaw::Magic("a manifest"))?;
    let (version, sealed) = rest.split_first_chunk::<4>().ok_or(Flaw::Truncated)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Refusal::Version(version));
    }
    let rest = vault.seal().open_message(&generation::manifest_key(generation), sealed)?;
    let (size, payload) = rest.split_first_chunk::<8>().ok_or(Flaw::Truncated)?;
    let size = Flaw::bound("size of a manifest", u64::from_le_bytes(*size), MESSAGE_LIMIT)?;
    let message = zstd::bulk::decompress(payload, size as usize).map_err(|_| Flaw::Compression)?;
    if message.len() as u64 != size {
        return Err(Flaw::Compression.into());
    }
    check::count_fields(&message)?;
    let manifest: Manifest = prost::Message::decode(message.as_slice()).map_err(|e| Flaw::Syntax(e.to_string()))?;
    check::manifest(&manifest, generation)?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::body::BODY_MAX;
    use crate::image::{ChunkRef, test_vault};
    use proptest::prelude::*;
    use prost::Message;

    fn sample() -> Manifest {
        let mut body = Body::default();
        body.push(Extent::Zero(8192));
        body.push(Extent::Slice(Slice { chunk: 0, first: 0, length: 4096 }));
        let mut chunks = ChunkTable::default();
        chunks.push(&ChunkRef { pack: 0, offset: 8, encoded: 100, raw: 4096, name: [9; 16] });
        let file = File { path: b"/a/b".into(), kind: Kind::Regular.into(), size: 3, ..File::default() };
        let link = File { path: b"/l".into(), kind: Kind::Symlink.into(), target: b"../x".into(), ..File::default() };
        Manifest {
            generation: 7,
            created_ms: 1_700_000_000_000,
            command: vec![b"sh".into(), b"-c".into()],
            processes: vec![Process { pid: 1000, comm: "sh".into(), threads: vec![1000, 1003], ..Process::default() }],
            stdio: vec![Stdio { fd: 1, target: b"pipe:[5]".into() }],
            images: vec![Image { name: "pages-1.img".into(), body: Some(body) }],
            files: vec![File { body: Some(Body::from_inline(b"abc".into())), ..file }, link],
            packs: vec![PackInfo { id: "0".repeat(32), size: 1000, tail: 100 }],
            chunks,
            clocks: Some(Clocks { monotonic_ns: 6, boottime_ns: 7 }),
            figures: Some(Figures { bytes: 1, stored: 2, frozen_ms: 3, new: 4, shared: 5 }),
            ..Manifest::default()
        }
    }

    fn vault() -> (tempfile::TempDir, Vault) {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        (folder, vault)
    }

    /// An object around any message, with the right seal.
    fn wrap(message: &[u8], vault: &Vault) -> Vec<u8> {
        let mut rest = (message.len() as u64).to_le_bytes().to_vec();
        rest.extend_from_slice(&zstd::bulk::compress(message, 1).unwrap());
        let sealed = vault.seal().seal_message("generations/7.manifest", &rest);
        [MAGIC, &VERSION.to_le_bytes()[..], &sealed].concat()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let (_folder, vault) = vault();
        let object = sample().encode_object(&vault);
        assert_eq!(Manifest::decode_object(&object, 7, &vault).unwrap(), sample());
        assert_eq!(object, wrap(&sample().encode_to_vec(), &vault));
        assert!(matches!(Manifest::decode_object(&object, 8, &vault), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn an_image_is_found_by_its_name() {
        assert_eq!(sample().image("pages-1.img").unwrap().size(), 8192 + 4096);
        assert!(sample().image("pages-2.img").is_none());
    }

    #[test]
    fn fields_of_a_later_freeze_are_skipped() {
        let mut message = sample().encode_to_vec();
        message.extend_from_slice(&[0xfa, 0x3f, 2, 1, 2]); // Field 1023, of two bytes.
        let (_folder, vault) = vault();
        assert_eq!(Manifest::decode_object(&wrap(&message, &vault), 7, &vault).unwrap(), sample());
    }

    #[test]
    fn fuzz_any_object_decodes_or_does_not() {
        let (_folder, vault) = vault();
        proptest!(|(data in prop::collection::vec(any::<u8>(), 0..400))| {
            let _ = Manifest::decode_object(&data, 7, &vault);
            let _ = Manifest::decode_object(&wrap(&data, &vault), 7, &vault);
        });
    }

    #[test]
    fn fuzz_a_damaged_object_is_refused() {
        let (_folder, vault) = vault();
        let whole = sample().encode_object(&vault);
        proptest!(|(at in any::<prop::sample::Index>(), bit in 0..8, edits in fuzz::edits())| {
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1u8 << bit;
            prop_assert!(Manifest::decode_object(&flipped, 7, &vault).is_err());
            let damaged = fuzz::damaged(&whole, &edits);
            prop_assert!(damaged == whole || Manifest::decode_object(&damaged, 7, &vault).is_err());
        });
    }

    /// With the right seal: what is decoded all the same can be relied upon.
    #[test]
    fn fuzz_a_forged_message_decodes_to_something_checked() {
        let (_folder, vault) = vault();
        let message = sample().encode_to_vec();
        proptest!(|(edits in fuzz::edits())| {
            let forged = wrap(&fuzz::damaged(&message, &edits), &vault);
            if let Ok(manifest) = Manifest::decode_object(&forged, 7, &vault) {
                let mut total = 0;
                for body in manifest.bodies() {
                    let extents = body.extents().map(|extent| match extent {
                        Extent::Zero(length) => length,
                        Extent::Slice(slice) => slice.length.into(),
                    });
                    prop_assert_eq!(body.inline().len() as u64 + extents.sum::<u64>(), body.size());
                    total += body.size();
                }
                prop_assert!(total <= BODY_MAX);
                prop_assert_eq!(manifest.every_chunk().check(&manifest.chunks), Ok(()));
                let again = manifest.encode_object(&vault);
                prop_assert_eq!(Manifest::decode_object(&again, 7, &vault).unwrap(), manifest);
            }
        });
    }
}
