//! What a container lacks for a restore, in sentences: a fact, a semicolon, and what to do.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::clock;
use crate::image::SavedRegisters;

/// One thing that this container lacks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the checkpoint is from a {theirs} machine, and this machine is {ours}; restore it on {theirs}")]
    Architecture { theirs: String, ours: String },
    #[error(
        "this CPU lacks {missing}, which the CPU of the checkpoint had and the service may use; restore it on a host with these features"
    )]
    CpuFeatures { missing: String },
    /// Fewer registers are saved, or the area is smaller.
    #[error(
        "this host saves {ours} of a program's registers, and the host of the checkpoint saved {theirs}, which the service may use; restore it on a host with such a CPU and an equally new kernel"
    )]
    SavedRegisters { theirs: SavedRegisters, ours: SavedRegisters },
    #[error(
        "the service's clock (CLOCK_MONOTONIC or CLOCK_BOOTTIME) would go back by {} here, because this host booted later; restore it on a host that booted earlier, let the container make a time namespace (--isolate auto with user namespaces, or the capabilities SYS_ADMIN and SYS_TIME), or accept the jump (--clock host)",
        clock::rough(*.behind)
    )]
    Clock { behind: Duration },
    #[error(
        "the checkpoint has pages of {theirs} bytes, and this host's kernel has pages of {ours} bytes; restore it on a host where `getconf PAGESIZE` prints {theirs}"
    )]
    PageSize { theirs: u64, ours: u64 },
    #[error(
        "PID {wanted} of the service is not available here, because this container has already used PIDs up to {used}; start a new container, which has fresh PIDs"
    )]
    PidsUsed {
        /// Lowest PID of the service.
        wanted: i32,
        /// Newest PID here.
        used: i32,
    },
    #[error("the service has PID {wanted}, but PIDs end at {max} on this host; raise the host's kernel.pid_max")]
    PidMax {
        /// Highest PID or TID of the service.
        wanted: i32,
        max: i32,
    },
    #[error(
        "the service ran as uid {theirs}, but this container runs as uid {ours}; start the container as the same user"
    )]
    User { theirs: u32, ours: u32 },
    #[error("a restore of the service needs {} MiB of memory, but this container may use {} MiB; raise its memory limit", .needed.div_ceil(1 << 20), .limit >> 20)]
    Memory {
        /// Bytes of the service and of what restores it.
        needed: u64,
        /// Bytes, swap included.
        limit: u64,
    },
    #[error(
        "the service has {needed} processes and threads, but this container may have {free} more; raise its PIDs limit (--pids-limit, podPidsLimit)"
    )]
    Processes {
        /// The service's, and a few for CRIU.
        needed: u64,
        free: u64,
    },
    #[error(
        "the service has {needed} processes and threads, but this container's user may have {limit} (RLIMIT_NPROC); raise the hard limit (--ulimit nproc={needed})"
    )]
    UserProcesses { needed: u64, limit: u64 },
    #[error(
        "a restore of the service needs {needed} descriptors in one process, but this container's hard limit of open files is {limit}; raise it (--ulimit nofile={needed})"
    )]
    Descriptors { needed: u64, limit: u64 },
    #[error(
        "the service has {needed} bytes of memory locked in one process, but this container's hard limit is {limit} (RLIMIT_MEMLOCK); raise it (--ulimit memlock={needed})"
    )]
    Locked { needed: u64, limit: u64 },
    #[error(
        "a restore of the service needs {needed} bytes of address space in one process, but this container's hard limit is {limit} (RLIMIT_AS); raise it (ulimit -Hv)"
    )]
    AddressSpace { needed: u64, limit: u64 },
    #[error(
        "a restore of the service needs {needed} bytes of writable memory in one process, but this container's hard limit is {limit} (RLIMIT_DATA); raise it (ulimit -Hd)"
    )]
    Data { needed: u64, limit: u64 },
    #[error(
        "the service has a file of {needed} bytes, but this container's hard limit of file size is {limit} (RLIMIT_FSIZE); raise it (--ulimit fsize={needed})"
    )]
    FileSize { needed: u64, limit: u64 },
    #[error(
        "the service has {needed} mappings in one process, but this host allows {limit}; raise the host's vm.max_map_count"
    )]
    Mappings { needed: u64, limit: u64 },
    #[error(
        "the service has {needed} bytes of writable memory mapped, but this host promises only {limit} more (vm.overcommit_memory=2); raise the host's vm.overcommit_ratio, or set vm.overcommit_memory=0"
    )]
    Committed { needed: u64, limit: u64 },
    #[error(
        "the service has {needed} inotify instances, but this host allows its user {limit}; raise the host's fs.inotify.max_user_instances"
    )]
    InotifyInstances { needed: u64, limit: u64 },
    #[error(
        "the service has {needed} inotify watches, but this host allows its user {limit}; raise the host's fs.inotify.max_user_watches"
    )]
    InotifyWatches { needed: u64, limit: u64 },
    #[error(
        "the service watches {needed} files with epoll, but this host allows its user {limit}; raise the host's fs.epoll.max_user_watches"
    )]
    EpollWatches { needed: u64, limit: u64 },
    #[error(
        "the service has {needed} timers and pending signals, but this container's hard limit is {limit} (RLIMIT_SIGPENDING); raise it (--ulimit sigpending={needed})"
    )]
    Signals { needed: u64, limit: u64 },
    #[error(
        "the service has a System V message queue for {needed} bytes, but this container's limit is {limit}; raise it (--sysctl kernel.msgmnb={needed})"
    )]
    Queue { needed: u64, limit: u64 },
    #[error(
        "the service has port {port}, but this container's user may only bind ports from {first} on; allow it (--sysctl net.ipv4.ip_unprivileged_port_start={port}), or add the capability NET_BIND_SERVICE"
    )]
    PrivilegedPort { port: u32, first: u32 },
    #[error(
        "the service has a socket at {address}, an address that this container does not have; give the container that address, or have the service listen on 0.0.0.0 or ::"
    )]
    Address { address: IpAddr },
    #[error(
        "the service has a socket at {address}, and this container has no loopback address of that family; bring its interface lo up, or allow IPv6 on it"
    )]
    Loopback { address: IpAddr },
    #[error(
        "the service listens on port {port}, which another process of this network namespace has; end that process, or give this container a network namespace of its own"
    )]
    PortTaken { port: u32 },
    #[error(
        "the service has the file {path} of a volume open, and it {what}; give the container the same volume, and its user the rights that the service had"
    )]
    Opened { path: PathBuf, what: String },
    #[error(
        "the service has System V {kind} with the ID {id} and the key {key}, and this IPC namespace has something else under one of the two; start the container in a new pod, or give it an IPC namespace of its own (--ipc private)"
    )]
    Object { kind: &'static str, id: i32, key: i32 },
    /// A capability outside the bounding set cannot be restored.
    #[error(
        "the service has capabilities that this container does not have ({missing}); start the container with the same capabilities"
    )]
    Capabilities {
        /// Without `CAP_`.
        missing: String,
    },
    #[error("no restore is possible here, because this container lacks {lacks}; `freeze doctor` says what to add")]
    Kernel { lacks: String },
    #[error(
        "the service's file {path} cannot be put back ({reason}); make it and its folder writable for the container's user"
    )]
    Unwritable { path: PathBuf, reason: String },
    #[error(
        "the service's file {path} cannot be put back: {link} is a symbolic link here, and was a folder at the checkpoint; replace the link by a folder, because freeze does not follow it"
    )]
    Link { path: PathBuf, link: PathBuf },
    #[error("the application's file {path} {what}; start the same image")]
    Executable { path: PathBuf, what: String },
}

impl Unfit {
    /// The two parts of the sentence.
    pub fn fact_and_advice(&self) -> (String, String) {
        let sentence = self.to_string();
        let (fact, advice) = sentence.split_once("; ").unwrap_or((&sentence, ""));
        (fact.to_owned(), advice.to_owned())
    }
}
