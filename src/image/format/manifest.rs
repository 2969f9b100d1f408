//! The manifest: the description of one generation, without its page data.
//!
//! Object: magic | format version (u32 LE) | sealed: raw size (u64 LE) | zstd of the protobuf message.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::body::{Body, Extent, Slice};
use super::chunk_table::ChunkTable;
use super::demands::{Clocks, Demands, SavedRegisters};
use super::pack::PackInfo;
use super::wire;
use crate::image::crypto::seal::Seal;
use crate::image::error::Flaw;
use crate::image::layout::{VERSION, manifest_key};

pub(crate) const MAGIC: &[u8; 8] = b"FRZMANIF";
/// Most bytes of the object.
pub(crate) const OBJECT_LIMIT: u64 = 128 << 20;
/// Most bytes of the message.
const MESSAGE_LIMIT: u64 = 256 << 20;

/// The description of one generation. Fields may be added; their numbers are never reused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    /// Number, from 1. Set by [`propose`](crate::image::ownership::generation::propose).
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// Time of the checkpoint: milliseconds since 1970, UTC.
    #[prost(uint64, tag = "2")]
    pub created_ms: u64,
    /// Version of freeze that took the checkpoint.
    #[prost(string, tag = "3")]
    pub freeze_version: String,
    /// `machine` of uname(2).
    #[prost(string, tag = "4")]
    pub arch: String,
    /// `release` of uname(2).
    #[prost(string, tag = "5")]
    pub kernel: String,
    /// CPU features that a program may depend on: flags of /proc/cpuinfo, and names for features that it does
    /// not list.
    #[prost(string, repeated, tag = "6")]
    pub cpu_features: Vec<String>,
    /// PID of the root of the dumped tree.
    #[prost(int32, tag = "7")]
    pub root_pid: i32,
    /// PID of the service's first process.
    #[prost(int32, tag = "8")]
    pub service_pid: i32,
    /// Command line of the service, from /proc/PID/cmdline.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub command: Vec<Vec<u8>>,
    /// UID of the service.
    #[prost(uint32, tag = "10")]
    pub uid: u32,
    /// GID of the service.
    #[prost(uint32, tag = "11")]
    pub gid: u32,
    /// All processes of the dumped tree.
    #[prost(message, repeated, tag = "12")]
    pub processes: Vec<Process>,
    /// Descriptors 0 to 2 of the service.
    #[prost(message, repeated, tag = "13")]
    pub stdio: Vec<Stdio>,
    /// CRIU images.
    #[prost(message, repeated, tag = "14")]
    pub images: Vec<CriuImage>,
    /// Captured files. A directory precedes its content.
    #[prost(message, repeated, tag = "15")]
    pub files: Vec<File>,
    /// Packs of the chunks, by index.
    #[prost(message, repeated, tag = "16")]
    pub packs: Vec<PackInfo>,
    /// Sizes and times of the checkpoint.
    #[prost(message, optional, tag = "17")]
    pub figures: Option<Figures>,
    /// Programs and libraries that the service has mapped, and the image's other files that it has mapped. A restore
    /// needs the same ones.
    #[prost(message, repeated, tag = "18")]
    pub executables: Vec<Executable>,
    /// The newest generation at the time of the commit; 0 for none. Set by
    /// [`propose`](crate::image::ownership::generation::propose).
    #[prost(uint64, tag = "20")]
    pub parent: u64,
    /// Instance that took the checkpoint: a container, by a name that survives its restart.
    #[prost(string, tag = "21")]
    pub instance: String,
    /// The service did not resume after the commit. The outcome of this generation decides which container
    /// has the service.
    #[prost(bool, tag = "22")]
    pub offered: bool,
    /// The clocks as the service last saw them. Older versions of freeze did not record them.
    #[prost(message, optional, tag = "23")]
    pub clocks: Option<Clocks>,
    /// How the kernel saves registers: x86 only, and not recorded by older versions of freeze.
    #[prost(message, optional, tag = "24")]
    pub saved_registers: Option<SavedRegisters>,
    /// Symbolic links on volumes that lead to folders in use. The folder may have another name in the next
    /// container. Not recorded by older versions of freeze.
    #[prost(message, repeated, tag = "25")]
    pub folder_links: Vec<FolderLink>,
    /// Paths that were deleted in the container, topmost only. Older versions of freeze did not record them.
    #[prost(bytes = "vec", repeated, tag = "26")]
    pub deleted: Vec<Vec<u8>>,
    /// What a restore will ask of a container. Older versions of freeze did not record it.
    #[prost(message, optional, tag = "27")]
    pub demands: Option<Demands>,
    /// Files on volumes that the service writes or maps. Older versions of freeze did not record them.
    #[prost(message, repeated, tag = "28")]
    pub volume_files: Vec<VolumeFile>,
    /// Chunks of the bodies, by index.
    #[prost(message, required, tag = "19")]
    pub chunks: ChunkTable,
}

/// A mapped file that is not captured.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Executable {
    /// Absolute path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// The linker's; empty if the file has none. Like the hash, not recorded by older versions of freeze.
    #[prost(bytes = "vec", tag = "3")]
    pub build_id: Vec<u8>,
    /// BLAKE3 of the content; empty if freeze may not read the file.
    #[prost(bytes = "vec", tag = "4")]
    pub hash: Vec<u8>,
}

/// A file on a volume, as it was while the service stood still. Times are nanoseconds since 1970.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VolumeFile {
    /// Absolute path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Time of modification.
    #[prost(int64, tag = "3")]
    pub mtime_ns: i64,
    /// Time of change.
    #[prost(int64, tag = "4")]
    pub ctime_ns: i64,
    /// Number of its file system.
    #[prost(uint64, tag = "5")]
    pub device: u64,
    /// Number in its file system.
    #[prost(uint64, tag = "6")]
    pub inode: u64,
    /// The service only reads it and appends to it.
    #[prost(bool, tag = "7")]
    pub appended: bool,
    /// The service has it closed; it is below a working directory.
    #[prost(bool, tag = "8")]
    pub closed: bool,
}

impl Executable {
    /// Absolute path.
    pub fn path(&self) -> &Path {
        path(&self.path)
    }
}

impl VolumeFile {
    /// Absolute path.
    pub fn path(&self) -> &Path {
        path(&self.path)
    }
}

impl File {
    /// Absolute path.
    pub fn path(&self) -> &Path {
        path(&self.path)
    }

    /// Where a symbolic link leads, or the earlier path of a hard link.
    pub fn target(&self) -> &Path {
        path(&self.target)
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A symbolic link that leads to a folder.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FolderLink {
    /// Real path of the folder, below the link's own folder.
    #[prost(bytes = "vec", tag = "1")]
    pub folder: Vec<u8>,
    /// Real path of the link.
    #[prost(bytes = "vec", tag = "2")]
    pub link: Vec<u8>,
}

/// One process of the dumped tree.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Process {
    /// PID in the container.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Parent's PID.
    #[prost(int32, tag = "2")]
    pub ppid: i32,
    /// Process group ID.
    #[prost(int32, tag = "3")]
    pub pgid: i32,
    /// Session ID.
    #[prost(int32, tag = "4")]
    pub sid: i32,
    /// Name, from /proc/PID/comm.
    #[prost(string, tag = "5")]
    pub comm: String,
    /// TIDs, including the main thread's.
    #[prost(int32, repeated, tag = "6")]
    pub threads: Vec<i32>,
    /// Path of the executable.
    #[prost(bytes = "vec", tag = "7")]
    pub exe: Vec<u8>,
}

/// A descriptor of the service.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stdio {
    /// Number, 0 to 2.
    #[prost(uint32, tag = "1")]
    pub fd: u32,
    /// Target of the link /proc/PID/fd/N, such as `pipe:[123]`; or CRIU's `file[MOUNT:INODE]` for a file that
    /// the container engine opened outside.
    #[prost(bytes = "vec", tag = "2")]
    pub target: Vec<u8>,
}

/// A CRIU image.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CriuImage {
    /// File name, such as `pages-1.img`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Content; present in every checked manifest.
    #[prost(message, optional, tag = "2")]
    pub body: Option<Body>,
}

/// A captured file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct File {
    /// Absolute path, without `.` and `..`.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// A [`Kind`].
    #[prost(enumeration = "Kind", tag = "2")]
    pub kind: i32,
    /// Permission bits.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Owner's UID.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Owner's GID.
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    /// Modification time: nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mtime_ns: i64,
    /// Bytes of a regular file.
    #[prost(uint64, tag = "7")]
    pub size: u64,
    /// Content of a regular file. A checked manifest has `size` bytes of it.
    #[prost(message, optional, tag = "8")]
    pub body: Option<Body>,
    /// Target of a symbolic link, or the earlier path of a hard link.
    #[prost(bytes = "vec", tag = "9")]
    pub target: Vec<u8>,
    /// Extended attributes. Older versions of freeze did not record them.
    #[prost(message, repeated, tag = "10")]
    pub attributes: Vec<Attribute>,
}

/// An extended attribute of a captured file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attribute {
    /// Name, such as `user.one`.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// Value; may be empty.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// Type of a captured file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Never written, and refused by the check.
    Unknown = 0,
    /// A regular file.
    Regular = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A hard link to a regular file that precedes it.
    HardLink = 5,
}

/// Sizes and times of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Figures {
    /// Bytes read from the service, including zero pages.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// Bytes of new packs.
    #[prost(uint64, tag = "2")]
    pub stored: u64,
    /// How long the service was frozen.
    #[prost(uint64, tag = "3")]
    pub frozen_ms: u64,
    /// Of `bytes`: raw bytes that were stored anew.
    #[prost(uint64, tag = "4")]
    pub new: u64,
    /// Of `bytes`: bytes that were already stored. The rest is zero.
    #[prost(uint64, tag = "5")]
    pub shared: u64,
}

impl Manifest {
    /// The highest PID or TID of the service.
    pub fn highest_id(&self) -> Option<i32> {
        self.processes.iter().flat_map(|process| &process.threads).copied().max()
    }

    /// The object, sealed for its key.
    pub fn encode(&self, seal: &Seal) -> Vec<u8> {
        let sealed = seal.seal_message(&manifest_key(self.generation), &self.to_frame());
        [MAGIC, &VERSION.to_le_bytes()[..], &sealed].concat()
    }

    /// Its size, and the message as one zstd frame.
    pub(crate) fn to_frame(&self) -> Vec<u8> {
        let message = prost::Message::encode_to_vec(self);
        let size = (message.len() as u64).to_le_bytes();
        let frame = zstd::bulk::compress(&message, 1).expect("a buffer of the bound's size is enough");
        [&size[..], &frame].concat()
    }

    /// Decodes the object of `generation`. The content is not checked: see [`check`](super::check::manifest).
    pub(crate) fn decode(object: &[u8], generation: u64, seal: &Seal) -> Result<Self, Refusal> {
        let rest = object.strip_prefix(MAGIC).ok_or(Flaw::Magic("a manifest"))?;
        let (version, sealed) = rest.split_first_chunk::<4>().ok_or(Flaw::Truncated)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(Refusal::Version(version));
        }
        let rest = seal.open_message(&manifest_key(generation), sealed)?;
        Ok(Self::from_frame(&rest, MESSAGE_LIMIT)?)
    }

    /// Decodes what [`to_frame`](Self::to_frame) gives, if its message has at most `limit` bytes. The content is not
    /// checked.
    pub(crate) fn from_frame(frame: &[u8], limit: u64) -> Result<Self, Flaw> {
        let (size, payload) = frame.split_first_chunk::<8>().ok_or(Flaw::Truncated)?;
        let size = Flaw::bound("size of a manifest", u64::from_le_bytes(*size), limit)?;
        let message = zstd::bulk::decompress(payload, size as usize).map_err(|_| Flaw::Compression)?;
        if message.len() as u64 != size {
            return Err(Flaw::Compression);
        }
        wire::count_entries(&message)?;
        prost::Message::decode(message.as_slice()).map_err(|e| Flaw::Syntax(e.to_string()))
    }

    /// All bodies: those of the CRIU images, then those of the files.
    pub fn bodies(&self) -> impl Iterator<Item = &Body> {
        let images = self.images.iter().filter_map(|image| image.body.as_ref());
        images.chain(self.files.iter().filter_map(|file| file.body.as_ref()))
    }

    /// A body of every chunk once. Reading it checks all chunks.
    pub fn every_chunk(&self) -> Body {
        let mut body = Body::default();
        for (index, chunk) in (0..).zip(self.chunks.iter()) {
            body.push(Extent::Slice(Slice { chunk: index, first: 0, length: chunk.raw }));
        }
        body
    }

    /// The content of the CRIU image `name`.
    pub fn image(&self, name: &str) -> Option<&Body> {
        self.images.iter().find(|image| image.name == name)?.body.as_ref()
    }

    /// As [`bodies`](Self::bodies), to replace them.
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Body> {
        let images = self.images.iter_mut().map(|image| &mut image.body);
        images.chain(self.files.iter_mut().map(|file| &mut file.body)).flatten()
    }

    /// Whether both describe the same checkpoint, also if their chunks are stored differently.
    pub fn is_same_checkpoint(&self, other: &Self) -> bool {
        let images = |manifest: &Self| -> Vec<_> {
            manifest.images.iter().map(|image| (image.name.clone(), image.body.as_ref().map(Body::size))).collect()
        };
        let files = |manifest: &Self| -> Vec<_> {
            manifest.files.iter().map(|file| (file.path.clone(), file.size, file.mtime_ns)).collect()
        };
        (self.created_ms, self.root_pid, &self.kernel, &self.command, &self.processes)
            == (other.created_ms, other.root_pid, &other.kernel, &other.command, &other.processes)
            && images(self) == images(other)
            && files(self) == files(other)
    }
}

/// Why an object cannot be decoded as a manifest.
#[derive(Debug)]
pub(crate) enum Refusal {
    Version(u32),
    Flaw(Flaw),
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_checkpoint_and_the_next_one_is_not() {
        let image = CriuImage { name: "a.img".into(), body: Some(Body::from_inline(vec![1, 2])) };
        let one = Manifest { created_ms: 5, images: vec![image], ..Manifest::default() };
        let mut two = Manifest { generation: 9, ..one.clone() };
        assert!(one.is_same_checkpoint(&two));
        two.images[0].body = Some(Body::from_inline(vec![1]));
        assert!(!one.is_same_checkpoint(&two));
        assert!(!one.is_same_checkpoint(&Manifest { created_ms: 6, ..one.clone() }));
    }
}
