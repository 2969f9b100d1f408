//! Compares the demands of a restore with the means of a container. Pure. Every comparison is here, so a checkpoint,
//! a doctor and a restore come to the same result.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Means, Unfit};
use crate::host::clock::Plan;
use crate::host::cpu;
use crate::image::{Bound, Demands, Opened, SystemV};
use crate::proc::sysvipc::Name;
use crate::sys::system_v::Kind;

/// CRIU and its helpers, in addition to the service's processes.
const OURS: u64 = 4;
/// Descriptors of CRIU's own above the highest of a process, and the steps in which it makes room for them
/// (criu/servicefd.c, choose_service_fd_base).
const SERVICE_FDS: u64 = 31;
const FD_STEP: u64 = 128;

/// Bytes of init, the worker and CRIU beside the service, and the least for pages on their way. Measured: 4.9 MiB were
/// too little, and 5.9 MiB enough.
const MEMORY: u64 = 4 << 20;
/// For each byte of the service, this part of one for page tables and CRIU's lists. Measured with 120 and 400 MiB.
const PART: u64 = 256;
/// For each process, and for each further thread of one: CRIU's copy, and what the kernel keeps. Measured: 183 to 206 KiB,
/// with 128 and 400 processes, and 72 to 120 KiB, with 64 and 256 threads.
const PROCESS: u64 = 224 << 10;
const THREAD: u64 = 128 << 10;
/// Of a process, what CRIU has mapped in it until its last step: all, and what is private and writable. Measured: 2 MiB
/// were too little and 4 MiB enough; 2 MiB were too little and 4 MiB enough.
const MAPPED: u64 = 8 << 20;
const WRITABLE: u64 = 4 << 20;
/// Least memory for pages on their way.
const PAGES_LEAST: u64 = 4 << 20;

/// What is missing of one demand.
type Compare = fn(&Demands, &Means) -> Option<Unfit>;

/// Every demand, the hopeless first. docs/reference/demands.md lists them in this order.
pub const ALL: &[Compare] = &[
    kernel,
    machine,
    registers,
    clocks,
    page_size,
    highest_pid,
    lowest_pid,
    user,
    capabilities,
    |d, m| at_most(memory(d), m.memory, |needed, limit| Unfit::Memory { needed, limit }),
    |d, m| at_most(tasks(d), m.processes, |needed, free| Unfit::Processes { needed, free }),
    |d, m| at_most(tasks(d), m.user_processes, |needed, limit| Unfit::UserProcesses { needed, limit }),
    |d, m| at_most(descriptors(d), m.descriptors, |needed, limit| Unfit::Descriptors { needed, limit }),
    |d, m| at_most(d.locked, m.locked, |needed, limit| Unfit::Locked { needed, limit }),
    |d, m| {
        at_most(beside(d, d.address_space, MAPPED), m.address_space, |needed, limit| Unfit::AddressSpace {
            needed,
            limit,
        })
    },
    |d, m| at_most(beside(d, d.data, WRITABLE), m.data, |needed, limit| Unfit::Data { needed, limit }),
    |d, m| at_most(d.file, m.file_size, |needed, limit| Unfit::FileSize { needed, limit }),
    |d, m| at_most(d.mappings, m.mappings, |needed, limit| Unfit::Mappings { needed, limit }),
    |d, m| at_most(d.committed, m.commit, |needed, limit| Unfit::Committed { needed, limit }),
    |d, m| at_most(d.inotify_instances, m.inotify_instances, |needed, limit| Unfit::InotifyInstances { needed, limit }),
    |d, m| at_most(d.inotify_watches, m.inotify_watches, |needed, limit| Unfit::InotifyWatches { needed, limit }),
    |d, m| at_most(d.epoll_watches, m.epoll_watches, |needed, limit| Unfit::EpollWatches { needed, limit }),
    |d, m| at_most(d.signals, m.signals, |needed, limit| Unfit::Signals { needed, limit }),
    |d, m| at_most(d.queue, m.queue, |needed, limit| Unfit::Queue { needed, limit }),
    privileged_port,
    address,
    taken,
    opened,
    objects,
];

impl Demands {
    /// Everything that a container lacks.
    pub fn missing(&self, means: &Means) -> Vec<Unfit> {
        ALL.iter().filter_map(|compare| compare(self, means)).collect()
    }
}

/// Bytes for pages on their way: `wanted`, or what the service leaves below `limit`.
pub fn for_pages(wanted: u64, demands: &Demands, limit: Option<u64>) -> u64 {
    let left = limit.map_or(wanted, |limit| limit.saturating_sub(memory(demands)));
    wanted.min(left.max(PAGES_LEAST))
}

fn at_most(needed: u64, limit: Option<u64>, unfit: fn(u64, u64) -> Unfit) -> Option<Unfit> {
    limit.filter(|limit| needed > *limit).map(|limit| unfit(needed, limit))
}

fn kernel(_: &Demands, means: &Means) -> Option<Unfit> {
    let lacks: Vec<String> = means.lacks.iter().map(|(ability, reason)| format!("{ability} ({reason})")).collect();
    (!lacks.is_empty()).then(|| Unfit::Kernel { lacks: lacks.join(", ") })
}

fn machine(demands: &Demands, means: &Means) -> Option<Unfit> {
    if demands.arch != means.arch {
        return Some(Unfit::Architecture { theirs: demands.arch.clone(), ours: means.arch.clone() });
    }
    // An older version may have recorded features that do not matter.
    let needed = demands.cpu_features.iter().filter(|feature| cpu::matters(&demands.arch, feature));
    let lacking = needed.filter(|feature| !means.features.contains(feature));
    let missing: Vec<&str> = lacking.map(String::as_str).collect();
    (!missing.is_empty()).then(|| Unfit::CpuFeatures { missing: missing.join(", ") })
}

fn registers(demands: &Demands, means: &Means) -> Option<Unfit> {
    let (theirs, area) = demands.saved_registers.zip(means.registers.as_ref())?;
    let differs = demands.arch == means.arch && !area.fits(&theirs);
    differs.then(|| Unfit::SavedRegisters { theirs, ours: area.saved() })
}

fn clocks(demands: &Demands, means: &Means) -> Option<Unfit> {
    let (before, here) = demands.clocks.as_ref().zip(means.clock.as_ref())?;
    match here.plan(before) {
        Plan::Refuse(behind) => Some(Unfit::Clock { behind }),
        _ => None,
    }
}

/// An image has whole pages, at addresses and of sizes that are multiples of one. Another architecture says so itself.
fn page_size(demands: &Demands, means: &Means) -> Option<Unfit> {
    let (theirs, ours) = (demands.page_size, means.page_size?);
    (theirs != 0 && theirs != ours && demands.arch == means.arch).then_some(Unfit::PageSize { theirs, ours })
}

/// Without privileges PIDs only go up.
fn lowest_pid(demands: &Demands, means: &Means) -> Option<Unfit> {
    let (wanted, used) = (demands.lowest_pid, means.used?);
    (wanted > 0 && used >= wanted).then_some(Unfit::PidsUsed { wanted, used })
}

fn highest_pid(demands: &Demands, means: &Means) -> Option<Unfit> {
    let (wanted, max) = (demands.highest_id, means.pid_max?);
    (wanted >= max).then_some(Unfit::PidMax { wanted, max: max - 1 })
}

/// Only root may create processes of another user.
fn user(demands: &Demands, means: &Means) -> Option<Unfit> {
    (demands.uid != means.uid && means.uid != 0).then_some(Unfit::User { theirs: demands.uid, ours: means.uid })
}

fn capabilities(demands: &Demands, means: &Means) -> Option<Unfit> {
    let needed = (0..64).filter(|bit| demands.capabilities & 1 << bit != 0).map(capability);
    let missing: Vec<String> = needed.filter(|name| !means.bounding.contains(name)).collect();
    (!missing.is_empty()).then(|| Unfit::Capabilities { missing: missing.join(", ") })
}

/// The name without `CAP_`; a number if the name is unknown.
fn capability(number: u8) -> String {
    let known = caps::all().into_iter().find(|known| known.index() == number);
    known.map_or_else(|| number.to_string(), |known| known.to_string().trim_start_matches("CAP_").to_owned())
}

/// Bytes of threads beyond the first ones.
fn threads(demands: &Demands) -> u64 {
    demands.tasks.saturating_sub(demands.processes).saturating_mul(THREAD)
}

/// What a process has mapped, and CRIU in it. Any of them may have all the threads.
fn beside(demands: &Demands, mapped: u64, ours: u64) -> u64 {
    if mapped == 0 { 0 } else { mapped.saturating_add(ours).saturating_add(threads(demands)) }
}

fn memory(demands: &Demands) -> u64 {
    let tasks = demands.processes.saturating_mul(PROCESS).saturating_add(threads(demands));
    demands.memory.saturating_add(demands.memory / PART).saturating_add(tasks).saturating_add(MEMORY)
}

fn tasks(demands: &Demands) -> u64 {
    demands.tasks.saturating_add(OURS)
}

fn descriptors(demands: &Demands) -> u64 {
    demands.descriptors.saturating_add(SERVICE_FDS).checked_next_multiple_of(FD_STEP).unwrap_or(u64::MAX)
}

fn privileged_port(demands: &Demands, means: &Means) -> Option<Unfit> {
    let first = means.first_port?;
    let port = demands.bound.iter().map(|bound| bound.port).find(|port| *port < first)?;
    Some(Unfit::PrivilegedPort { port, first })
}

fn address(demands: &Demands, means: &Means) -> Option<Unfit> {
    let here = means.addresses.as_ref()?;
    // One loopback address stands for all of its family.
    let is_here = |ip: &IpAddr| match ip.is_loopback() {
        true => here.iter().any(|one| one.is_loopback() && one.is_ipv4() == ip.is_ipv4()),
        false => !is_of_a_container(*ip) || here.contains(ip),
    };
    let address = demands.bound.iter().filter_map(Bound::ip).find(|ip| !is_here(ip))?;
    match address.is_loopback() {
        true => Some(Unfit::Loopback { address }),
        false => Some(Unfit::Address { address }),
    }
}

/// Whether only some containers have the address.
pub fn is_of_a_container(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}

fn taken(demands: &Demands, means: &Means) -> Option<Unfit> {
    let listeners = demands.bound.iter().filter(|bound| !bound.datagrams);
    let wanted = listeners.filter_map(|bound| Some((bound.ip()?, bound.port)));
    let (_, port) = wanted.into_iter().find(|own| means.taken.iter().any(|other| is_in_the_way(*own, *other)))?;
    Some(Unfit::PortTaken { port })
}

/// Two listeners have no room if their addresses are equal, or one has all of the family. Whether one of IPv6 takes those
/// of IPv4 too, the kernel does not tell (IPV6_V6ONLY).
fn is_in_the_way((own, port): (IpAddr, u32), (other, taken): (IpAddr, u32)) -> bool {
    let is_of_all = own.is_unspecified() || other.is_unspecified();
    port == taken && (own == other || (is_of_all && own.is_ipv4() == other.is_ipv4()))
}

/// The first is named.
fn opened(demands: &Demands, means: &Means) -> Option<Unfit> {
    let refusal = means.refusal?;
    let refused = |file: &Opened| Some(Unfit::Opened { path: file.path().to_owned(), what: refusal(file)? });
    demands.files.iter().find_map(refused)
}

/// An object of both the ID and the key may be the service's own, of an earlier start in the same pod.
fn objects(demands: &Demands, means: &Means) -> Option<Unfit> {
    let in_the_way = |own: &SystemV, other: &SystemV| {
        let (id, key) = (own.id == other.id, own.key == other.key);
        own.kind == other.kind && id != key && (id || own.key != 0)
    };
    let object = demands.objects.iter().find(|own| means.objects.iter().any(|other| in_the_way(own, other)))?;
    Some(Unfit::Object { kind: object.kind_name(), id: object.id, key: object.key })
}

impl SystemV {
    fn kind_name(&self) -> &'static str {
        match self.kind {
            0 => "shared memory",
            1 => "a message queue",
            _ => "semaphores",
        }
    }
}

impl From<Name> for SystemV {
    fn from(name: Name) -> Self {
        let kind = match name.kind {
            Kind::Memory => 0,
            Kind::Queue => 1,
            Kind::Semaphores => 2,
        };
        Self { kind, id: name.id, key: name.key }
    }
}

impl Bound {
    /// The address and port of a socket; TCP unless `datagrams`.
    pub fn new(ip: IpAddr, port: u16, datagrams: bool) -> Self {
        let address = match ip {
            IpAddr::V4(four) => four.octets().to_vec(),
            IpAddr::V6(six) => six.octets().to_vec(),
        };
        Self { address, port: port.into(), datagrams }
    }

    /// None if it is no address.
    pub fn ip(&self) -> Option<IpAddr> {
        let four = <[u8; 4]>::try_from(&self.address[..]).map(|four| Ipv4Addr::from(four).into());
        let six = || <[u8; 16]>::try_from(&self.address[..]).map(|six| Ipv6Addr::from(six).into());
        four.or_else(|_| six()).ok()
    }
}
