//! What a restore will ask of a container, as a manifest records it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a restore will ask of a container. 0 and an empty list ask for nothing. Fields may be added; their
/// numbers are never reused.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Demands {
    /// As in the manifest.
    #[prost(string, tag = "1")]
    pub arch: String,
    /// As in the manifest.
    #[prost(string, repeated, tag = "2")]
    pub cpu_features: Vec<String>,
    /// How its kernel saves registers.
    #[prost(message, optional, tag = "3")]
    pub saved_registers: Option<SavedRegisters>,
    /// User.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Capabilities that a process is permitted, one bit each.
    #[prost(uint64, tag = "5")]
    pub capabilities: u64,
    /// Of the service, in its container.
    #[prost(int32, tag = "6")]
    pub lowest_pid: i32,
    /// Highest PID or TID.
    #[prost(int32, tag = "7")]
    pub highest_id: i32,
    /// Processes and threads.
    #[prost(uint64, tag = "8")]
    pub tasks: u64,
    /// Bytes of its pages, without its files.
    #[prost(uint64, tag = "9")]
    pub memory: u64,
    /// One more than the highest descriptor.
    #[prost(uint64, tag = "10")]
    pub descriptors: u64,
    /// Bytes that the largest System V message queue may hold.
    #[prost(uint64, tag = "11")]
    pub queue: u64,
    /// Most bytes that one process has locked.
    #[prost(uint64, tag = "12")]
    pub locked: u64,
    /// Most bytes of addresses that one process has mapped.
    #[prost(uint64, tag = "13")]
    pub address_space: u64,
    /// Most bytes of private writable memory that one process has mapped.
    #[prost(uint64, tag = "14")]
    pub data: u64,
    /// Most mappings of one process.
    #[prost(uint64, tag = "15")]
    pub mappings: u64,
    /// Bytes of private writable memory that all processes have mapped.
    #[prost(uint64, tag = "16")]
    pub committed: u64,
    /// Bytes of the largest file that is put back.
    #[prost(uint64, tag = "17")]
    pub file: u64,
    /// TCP sockets that listen, and UDP sockets with a port.
    #[prost(message, repeated, tag = "18")]
    pub bound: Vec<Bound>,
    /// Of all processes, as are the next two.
    #[prost(uint64, tag = "19")]
    pub inotify_instances: u64,
    /// Files that inotify watches.
    #[prost(uint64, tag = "20")]
    pub inotify_watches: u64,
    /// Descriptors that epolls watch.
    #[prost(uint64, tag = "21")]
    pub epoll_watches: u64,
    /// POSIX timers and pending signals, of all processes.
    #[prost(uint64, tag = "22")]
    pub signals: u64,
    /// Without their threads.
    #[prost(uint64, tag = "23")]
    pub processes: u64,
    /// Files on volumes that it has open.
    #[prost(message, repeated, tag = "24")]
    pub files: Vec<Opened>,
    /// System V objects that must have their IDs.
    #[prost(message, repeated, tag = "25")]
    pub objects: Vec<SystemV>,
    /// As in the manifest. Those of a service that runs advance as every host's do, so they are compared at once.
    #[prost(message, optional, tag = "26")]
    pub clocks: Option<Clocks>,
    /// Bytes of a page of its kernel.
    #[prost(uint64, tag = "27")]
    pub page_size: u64,
}

/// Clocks that count from the host's boot.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Clocks {
    #[prost(uint64, tag = "1")]
    pub monotonic_ns: u64,
    #[prost(uint64, tag = "2")]
    pub boottime_ns: u64,
    /// The service has code that lets them go on (docs/explanation/clocks.md), and keeps it in each restore.
    #[prost(bool, tag = "3")]
    pub in_user_space: bool,
}

impl Demands {
    /// The demands of a service whose clocks go on in user space, `seconds` ahead of the kernel's. None changes nothing.
    pub fn with_clocks_ahead(self, seconds: Option<u64>) -> Self {
        let ahead = |clocks: Clocks| seconds.map_or(clocks, |seconds| clocks.ahead(seconds));
        Self { clocks: self.clocks.map(ahead), ..self }
    }
}

impl Clocks {
    /// The clocks of a service that are `seconds` ahead of the kernel's, which these are.
    pub fn ahead(self, seconds: u64) -> Self {
        let ahead = |clock: u64| clock.saturating_add(seconds.saturating_mul(1_000_000_000));
        Self { monotonic_ns: ahead(self.monotonic_ns), boottime_ns: ahead(self.boottime_ns), in_user_space: true }
    }
}

/// What names a System V object.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SystemV {
    /// 0: memory, 1: queue, 2: semaphores.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// In its IPC namespace, of all of its kind.
    #[prost(int32, tag = "2")]
    pub id: i32,
    /// 0 for none.
    #[prost(int32, tag = "3")]
    pub key: i32,
}

/// A file that stays where it is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Opened {
    /// By the symbolic link that leads to its folder, if there is one.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Open for reading.
    #[prost(bool, tag = "2")]
    pub read: bool,
    /// Open for writing.
    #[prost(bool, tag = "3")]
    pub write: bool,
    /// If it is absent, the volume has changed since the checkpoint.
    #[prost(bool, tag = "4")]
    pub may_be_absent: bool,
}

impl Opened {
    /// Any bytes.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }
}

/// A socket's own address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Bound {
    /// 4 or 16 bytes, in network order.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// Its number.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// UDP; else TCP.
    #[prost(bool, tag = "3")]
    pub datagrams: bool,
}

/// How the kernel saves the registers of an x86 thread.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SavedRegisters {
    /// XCR0, one bit per component, without the two of MPX.
    #[prost(uint64, tag = "1")]
    pub components: u64,
    /// Bytes of the XSAVE area in the standard format.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// `832 bytes (XCR0 0x7)`.
impl std::fmt::Display for SavedRegisters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes (XCR0 {:#x})", self.bytes, self.components)
    }
}
