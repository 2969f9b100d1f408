//! Reads and writes some of CRIU's images: two magic numbers, then entries, each a 32-bit length and that
//! many bytes of protobuf (criu/protobuf.c, images/*.proto). Declares only the fields in use. Never trusts
//! its input.

use prost::Message;

/// Largest image that is parsed, in bytes. Decoded entries take up to some 40 times that in memory.
pub(crate) const LIMIT: u64 = 8 << 20;

/// First word of every image that is read here (criu/include/magic.h, as all below).
const COMMON: u32 = 0x5456_4319;
pub(crate) const FILES: u32 = 0x5630_3138;
pub(crate) const FDINFO: u32 = 0x5621_3732;
pub(crate) const MM: u32 = 0x5749_2820;
/// `pagemap-PID.img` and `pagemap-shmem-N.img`.
pub const PAGEMAP: u32 = 0x5608_4025;
pub(crate) const CORE: u32 = 0x5505_3847;
/// `ipcns-msg-PID.img`.
pub(crate) const QUEUES: u32 = 0x5545_3737;
/// `remap-fpath.img`.
pub(crate) const REMAPS: u32 = 0x5913_3954;
/// `timens-0.img`.
pub(crate) const TIME: u32 = 0x4311_4433;
/// `pstree.img`.
pub const PSTREE: u32 = 0x5027_3030;

/// The image is not in CRIU's format.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// The entries of an image of the kind `magic`.
pub fn entries(image: &[u8], magic: u32) -> Result<Vec<&[u8]>, Malformed> {
    let mut rest = body(image, magic)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        entries.push(next(&mut rest)?);
    }
    Ok(entries)
}

fn body(image: &[u8], magic: u32) -> Result<&[u8], Malformed> {
    let (head, body) = image.split_first_chunk::<8>().ok_or(Malformed)?;
    if *head == [COMMON.to_le_bytes(), magic.to_le_bytes()].concat()[..] { Ok(body) } else { Err(Malformed) }
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
    let (entry, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(Malformed)?;
    *rest = after;
    Ok(entry)
}

/// The System V message queues of an image. Behind each are its messages.
pub(crate) fn queues(image: &[u8]) -> Result<Vec<Queue>, Malformed> {
    let mut rest = body(image, QUEUES)?;
    let mut queues = Vec::new();
    while !rest.is_empty() {
        let queue: Queue = decode(next(&mut rest)?)?;
        for _ in 0..queue.messages {
            let head: QueuedMessage = decode(next(&mut rest)?)?;
            let padded = (head.size as usize).next_multiple_of(8);
            rest = rest.split_at_checked(padded).ok_or(Malformed)?.1;
        }
        queues.push(queue);
    }
    Ok(queues)
}

/// An image of the kind `magic` with these entries.
pub fn encode<M: Message>(magic: u32, entries: &[M]) -> Vec<u8> {
    let mut image = [COMMON.to_le_bytes(), magic.to_le_bytes()].concat();
    entries.iter().for_each(|entry| push(&mut image, entry));
    image
}

/// Appends an entry to an image.
pub(crate) fn push<M: Message>(image: &mut Vec<u8>, entry: &M) {
    image.extend((entry.encoded_len() as u32).to_le_bytes());
    image.extend(entry.encode_to_vec());
}

/// Decodes one entry.
pub fn decode<M: Message + Default>(entry: &[u8]) -> Result<M, Malformed> {
    M::decode(entry).map_err(|_| Malformed)
}

/// A process of the tree (`pstree_entry`). Has all fields, since it is written as well.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Task {
    /// PID.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// PID of the parent.
    #[prost(uint32, required, tag = "2")]
    pub ppid: u32,
    /// Process group.
    #[prost(uint32, required, tag = "3")]
    pub pgid: u32,
    /// Session.
    #[prost(uint32, required, tag = "4")]
    pub sid: u32,
    /// IDs of all threads.
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    pub threads: Vec<u32>,
}

/// The kernel's clocks (`timens_entry`), of which the processes' own are known by what they are ahead.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Time {
    #[prost(message, repeated, tag = "100")]
    pub shifted: Vec<Shifted>,
}

/// A process whose clocks are ahead, in seconds (`shifted_task_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shifted {
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    #[prost(int64, required, tag = "2")]
    pub monotonic: i64,
    #[prost(int64, required, tag = "3")]
    pub boottime: i64,
}

/// A thread (`core_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Core {
    /// None in a thread's image.
    #[prost(message, optional, tag = "3")]
    pub task: Option<TaskCore>,
    #[prost(message, optional, tag = "5")]
    pub thread: Option<ThreadCore>,
}

/// The part of a process (`task_core_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TaskCore {
    #[prost(message, optional, tag = "8")]
    pub limits: Option<ResourceLimits>,
}

/// By number (`task_rlimits_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResourceLimits {
    #[prost(message, repeated, tag = "1")]
    pub limits: Vec<ResourceLimit>,
}

/// No limit is the highest number (`rlimit_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResourceLimit {
    #[prost(uint64, tag = "1")]
    pub soft: u64,
    #[prost(uint64, tag = "2")]
    pub hard: u64,
}

/// The part of a thread that is the same on all architectures (`thread_core_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ThreadCore {
    #[prost(message, optional, tag = "10")]
    pub creds: Option<Credentials>,
}

/// Credentials of a thread (`creds_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Credentials {
    /// Permitted capabilities as 32-bit words, the low one first.
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    pub permitted: Vec<u32>,
}

impl Core {
    /// Numbers of the permitted capabilities.
    pub fn permitted(&self) -> Vec<u8> {
        let words =
            self.thread.as_ref().and_then(|thread| thread.creds.as_ref()).map(|creds| creds.permitted.as_slice());
        let bits = (0u8..64).filter(|bit| {
            let word = words.unwrap_or_default().get(usize::from(bit / 32)).copied().unwrap_or_default();
            word & (1 << (bit % 32)) != 0
        });
        bits.collect()
    }
}

/// Memory map of a process (`mm_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mm {
    /// In ascending order.
    #[prost(message, repeated, tag = "14")]
    pub vmas: Vec<Vma>,
}

/// One mapping (`vma_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Vma {
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// Byte after the last.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// As for mmap(2).
    #[prost(uint32, tag = "6")]
    pub flags: u32,
    /// Bits of [`status`].
    #[prost(uint32, tag = "7")]
    pub status: u32,
}

/// Bits of [`Vma::status`] (criu/include/image.h).
pub(crate) mod status {
    pub const VSYSCALL: u32 = 1 << 2;
    pub const VDSO: u32 = 1 << 3;
    pub const HEAP: u32 = 1 << 5;
    pub const FILE_PRIVATE: u32 = 1 << 6;
    pub const FILE_SHARED: u32 = 1 << 7;
    pub const ANON_SHARED: u32 = 1 << 8;
    pub const ANON_PRIVATE: u32 = 1 << 9;
    pub const SYSVIPC: u32 = 1 << 10;
    pub const VVAR: u32 = 1 << 12;
    pub const GUARD: u32 = 1 << 16;
}

/// The first entry of a map of pages (`pagemap_head`).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct PagesHead {
    /// The number in the name of the image of pages.
    #[prost(uint32, required, tag = "1")]
    pub image: u32,
}

/// A run of pages (`pagemap_entry`).
#[derive(Clone, PartialEq, Message)]
pub struct Pages {
    /// Address of the first page.
    #[prost(uint64, required, tag = "1")]
    pub vaddr: u64,
    /// Page count in images from before `nr_pages`.
    #[prost(uint32, required, tag = "2")]
    pub compat_nr_pages: u32,
    /// `PE_…` bits.
    #[prost(uint32, optional, tag = "4")]
    pub flags: Option<u32>,
    /// Page count.
    #[prost(uint64, optional, tag = "5")]
    pub nr_pages: Option<u64>,
}

impl Pages {
    /// It is in the image of pages (`PE_PRESENT`).
    const SAVED: u32 = 1 << 2;
    /// CRIU has it already (criu/README.md, 0099).
    const AHEAD: u32 = 1 << 8;

    /// A part of it, which is not in the image of pages if CRIU has it already.
    pub(crate) fn part(&self, vaddr: u64, pages: u64, is_ahead: bool) -> Self {
        let flags = self.flags.unwrap_or(Self::SAVED);
        let flags = if is_ahead { flags & !Self::SAVED | Self::AHEAD } else { flags };
        Self { vaddr, flags: Some(flags), nr_pages: Some(pages), ..self.clone() }
    }

    /// Bytes that the run has in the image of pages, of a kernel with such pages.
    pub fn saved(&self, page_size: u64) -> u64 {
        if self.flags.is_some_and(|flags| flags & Self::SAVED == 0) {
            return 0;
        }
        self.nr_pages.unwrap_or(self.compat_nr_pages.into()).saturating_mul(page_size)
    }
}

/// A descriptor (`fdinfo_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Descriptor {
    /// ID of the open file, [`OpenFile::id`].
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(uint32, tag = "4")]
    pub fd: u32,
}

/// A System V message queue (`ipc_msg_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Queue {
    /// Bytes that it may hold.
    #[prost(uint32, tag = "2")]
    pub room: u32,
    #[prost(uint32, tag = "3")]
    pub messages: u32,
}

/// The head of a message (`ipc_msg`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct QueuedMessage {
    #[prost(uint32, tag = "2")]
    pub size: u32,
}

/// An open or mapped file (`file_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OpenFile {
    /// One of `fd_types`.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(uint32, tag = "2")]
    pub id: u32,
    #[prost(message, optional, tag = "3")]
    pub regular: Option<Regular>,
    #[prost(message, optional, tag = "4")]
    pub inet: Option<Inet>,
    #[prost(message, optional, tag = "13")]
    pub inotify: Option<Inotify>,
    #[prost(message, optional, tag = "14")]
    pub fanotify: Option<Fanotify>,
    #[prost(message, optional, tag = "16")]
    pub unix: Option<Unix>,
    #[prost(message, optional, tag = "19")]
    pub tty: Option<Tty>,
}

/// A regular file or folder (`reg_file_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Regular {
    /// Absolute path; of an external file the name by which a restore is given it.
    #[prost(bytes = "vec", tag = "6")]
    pub name: Vec<u8>,
    #[prost(bool, tag = "9")]
    pub is_external: bool,
}

/// A file whose path does not lead to it (`remap_file_path_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Remap {
    /// Its [`OpenFile::id`].
    #[prost(uint32, tag = "1")]
    pub file: u32,
}

/// A terminal (`tty_file_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tty {
    /// [`OpenFile::id`] of its path.
    #[prost(uint32, tag = "6")]
    pub file: u32,
}

/// An inotify instance (`inotify_file_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Inotify {
    #[prost(message, repeated, tag = "5")]
    pub watches: Vec<Watch>,
}

/// `inotify_wd_entry`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Watch {
    #[prost(message, optional, tag = "7")]
    pub handle: Option<Handle>,
}

/// A fanotify group (`fanotify_file_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Fanotify {
    #[prost(message, repeated, tag = "6")]
    pub marks: Vec<FanotifyMark>,
}

/// `fanotify_mark_entry`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FanotifyMark {
    #[prost(message, optional, tag = "7")]
    pub inode: Option<InodeMark>,
    #[prost(message, optional, tag = "8")]
    pub mount: Option<MountMark>,
}

/// `fanotify_inode_mark_entry`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InodeMark {
    #[prost(message, optional, tag = "2")]
    pub handle: Option<Handle>,
}

/// `fanotify_mount_mark_entry`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MountMark {
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
}

/// What a watch is on (`fh_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Handle {
    /// Absolute; empty if CRIU needs none.
    #[prost(bytes = "vec", tag = "4")]
    pub path: Vec<u8>,
}

/// A TCP, UDP or raw socket (`inet_sk_entry`). Addresses are in network byte order, as little-endian words.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Inet {
    #[prost(uint32, tag = "4")]
    pub kind: u32,
    #[prost(uint32, tag = "5")]
    pub protocol: u32,
    #[prost(uint32, tag = "6")]
    pub state: u32,
    #[prost(uint32, tag = "7")]
    pub src_port: u32,
    #[prost(uint32, tag = "8")]
    pub dst_port: u32,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub src_addr: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    pub dst_addr: Vec<u32>,
    #[prost(message, optional, tag = "16")]
    pub options: Option<InetOptions>,
}

/// Options of an internet socket (`ip_opts_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InetOptions {
    /// Any address may be bound (IP_FREEBIND).
    #[prost(bool, optional, tag = "1")]
    pub any_address: Option<bool>,
}

/// A unix socket (`unix_sk_entry`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Unix {
    /// As for socket(2).
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    #[prost(uint32, tag = "4")]
    pub state: u32,
    /// Bits; the lowest is that of a peer outside of the tree (`USK_EXTERN` in criu/sk-unix.c).
    #[prost(uint32, tag = "6")]
    pub flags: u32,
    /// Path, or a zero byte and an abstract name; empty if unbound.
    #[prost(bytes = "vec", tag = "11")]
    pub name: Vec<u8>,
    /// The folder of a relative path.
    #[prost(bytes = "vec", tag = "14")]
    pub folder: Vec<u8>,
    /// Its path is gone, or leads to another file.
    #[prost(bool, tag = "15")]
    pub is_deleted: bool,
    /// Paths that its file has instead, or besides.
    #[prost(bytes = "vec", repeated, tag = "32")]
    pub links: Vec<Vec<u8>>,
    /// It is connected and was bound itself: its name is not the listener's.
    #[prost(bool, tag = "33")]
    pub has_own_name: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(magic: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        let head = [COMMON.to_le_bytes(), magic.to_le_bytes()].concat();
        entries.iter().fold(head, |image, entry| [&image[..], &(entry.len() as u32).to_le_bytes(), entry].concat())
    }

    #[test]
    fn entries_come_back() {
        let written = [vec![8, 1], vec![], vec![8, 2]];
        assert_eq!(entries(&image(MM, &written), MM).unwrap(), written);
        assert_eq!(entries(&image(MM, &written), FILES), Err(Malformed));
        assert_eq!(decode::<Descriptor>(&[8, 2]).unwrap().id, 2);
        assert_eq!(decode::<Descriptor>(&[8]), Err(Malformed));
    }

    #[test]
    fn a_length_beyond_the_end_is_malformed() {
        let mut long = image(MM, &[vec![1, 2, 3]]);
        long.pop();
        assert_eq!(entries(&long, MM), Err(Malformed));
        assert_eq!(entries(b"short", MM), Err(Malformed));
    }

    #[test]
    fn queues_are_found_behind_the_messages_of_others() {
        let queue = |room, messages| Queue { room, messages }.encode_to_vec();
        let message = QueuedMessage { size: 9 }.encode_to_vec();
        let one = [image(QUEUES, &[queue(100, 1), message]), vec![0xff; 16]].concat();
        let both = [&one[..], &image(QUEUES, &[queue(200, 0)])[8..]].concat();
        let rooms: Vec<u32> = queues(&both).unwrap().iter().map(|queue| queue.room).collect();
        assert_eq!(rooms, [100, 200]);
        assert_eq!(queues(&one[..one.len() - 1]), Err(Malformed));
    }

    #[test]
    fn pages_that_are_elsewhere_are_not_saved() {
        let pages = |flags, nr_pages| Pages { vaddr: 0, compat_nr_pages: 3, flags, nr_pages }.saved(4096);
        assert_eq!([pages(None, None), pages(Some(4), Some(2)), pages(Some(1), Some(2))], [3 * 4096, 2 * 4096, 0]);
        assert_eq!(pages(None, Some(u64::MAX)), u64::MAX);
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_are_queues_or_not(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let image = [&COMMON.to_le_bytes()[..], &QUEUES.to_le_bytes()[..], &data[..]].concat();
            if let Ok(queues) = queues(&image) {
                prop_assert!(queues.len() * 4 <= data.len());
            }
        }

        #[test]
        fn fuzz_any_bytes_are_entries_or_not(data in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(found) = entries(&image(FILES, std::slice::from_ref(&data)), FILES) {
                prop_assert_eq!(&found, &[&data[..]]);
                let _ = decode::<OpenFile>(&data);
            }
            let _ = entries(&[&image(FILES, &[])[..], &data].concat(), FILES);
        }
    }
}
