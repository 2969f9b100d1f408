//! The manifest: everything of one generation but its chunks.
//!
//! Object: magic | format version (u32 LE) | sealed: raw size (u64 LE) | zstd of the protobuf message.

use super::body::{Body, Extent, Slice};
use super::chunk_table::ChunkTable;
use super::pack::PackInfo;
use super::wire;
use crate::image::crypto::seal::Seal;
use crate::image::error::Flaw;
use crate::image::layout::{VERSION, manifest_key};

pub(crate) const MAGIC: &[u8; 8] = b"FRZMANIF";
/// Most bytes of a manifest object.
pub(crate) const OBJECT_LIMIT: u64 = 128 << 20;
/// Most bytes of its message.
const MESSAGE_LIMIT: u64 = 256 << 20;

/// Everything of one generation but its chunks. Fields may be added; their numbers are never used again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    /// Its number, from 1; [`commit`](crate::image::ownership::generation::commit) sets it.
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
    /// Features of the CPU that programs may depend on: flags of /proc/cpuinfo, and names for what it does not show.
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
    /// The generation that was the newest one when this was committed; 0 for none. Set by [`commit`](crate::image::ownership::generation::commit).
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
    /// How registers are saved; none of an older freeze, and where that does not depend on the machine.
    #[prost(message, optional, tag = "24")]
    pub saved_registers: Option<SavedRegisters>,
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

/// What the kernel saves of an x86 thread's registers.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SavedRegisters {
    /// XCR0, a bit for each component, without those of MPX.
    #[prost(uint64, tag = "1")]
    pub components: u64,
    /// Bytes of XSAVE's standard format.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// `832 bytes (XCR0 0x7)`.
impl std::fmt::Display for SavedRegisters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes (XCR0 {:#x})", self.bytes, self.components)
    }
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

    /// The whole object, sealed for its place in the store.
    pub fn encode(&self, seal: &Seal) -> Vec<u8> {
        let message = prost::Message::encode_to_vec(self);
        let size = (message.len() as u64).to_le_bytes();
        let frame = zstd::bulk::compress(&message, 1).expect("a buffer of the bound's size is enough");
        let sealed = seal.seal_message(&manifest_key(self.generation), &[&size[..], &frame].concat());
        [MAGIC, &VERSION.to_le_bytes()[..], &sealed].concat()
    }

    /// Decodes the object of `generation`. What it says is not checked: see [`check`](super::check::manifest).
    ///
    /// # Errors
    /// [`Refusal`]: of another version, or not what was sealed for that place.
    pub(crate) fn decode(object: &[u8], generation: u64, seal: &Seal) -> Result<Self, Refusal> {
        let rest = object.strip_prefix(MAGIC).ok_or(Flaw::Magic("a manifest"))?;
        let (version, sealed) = rest.split_first_chunk::<4>().ok_or(Flaw::Truncated)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(Refusal::Version(version));
        }
        let rest = seal.open_message(&manifest_key(generation), sealed)?;
        let (size, payload) = rest.split_first_chunk::<8>().ok_or(Flaw::Truncated)?;
        let size = Flaw::bound("size of a manifest", u64::from_le_bytes(*size), MESSAGE_LIMIT)?;
        let message = zstd::bulk::decompress(payload, size as usize).map_err(|_| Flaw::Compression)?;
        if message.len() as u64 != size {
            return Err(Flaw::Compression.into());
        }
        wire::count_entries(&message)?;
        Ok(prost::Message::decode(message.as_slice()).map_err(|e| Flaw::Syntax(e.to_string()))?)
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

    /// The bodies of all images and files in the order of [`bodies`](Self::bodies), to be replaced.
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Body> {
        let images = self.images.iter_mut().map(|image| &mut image.body);
        images.chain(self.files.iter_mut().map(|file| &mut file.body)).flatten()
    }

    /// Whether both are of the same moment of the same service, wherever their bytes lie.
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

/// Why an object is no manifest that this freeze reads.
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
        let image = Image { name: "a.img".into(), body: Some(Body::from_inline(vec![1, 2])) };
        let one = Manifest { created_ms: 5, images: vec![image], ..Manifest::default() };
        let mut two = Manifest { generation: 9, ..one.clone() };
        assert!(one.is_same_checkpoint(&two));
        two.images[0].body = Some(Body::from_inline(vec![1]));
        assert!(!one.is_same_checkpoint(&two));
        assert!(!one.is_same_checkpoint(&Manifest { created_ms: 6, ..one.clone() }));
    }
}
