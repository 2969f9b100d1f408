//! Any tree as criu's images.
//!
//! One small tree, `subject.c`, is dumped. Its images of a process, a subreaper, a thread and a zombie then serve for every process,
//! subreaper, thread and zombie of another tree; `pstree.img` and `ids-PID.img` are written anew.

use std::fs;
use std::path::{Path, PathBuf};

use freeze::criu::images::{self, PSTREE, Task};
use freeze::proc::tree::Process;
use prost::Message;

use crate::corpus::Node;

/// Of `ids-PID.img` (criu/include/magic.h).
const IDS: u32 = 0x5443_2030;
/// Images of one process or thread, beside `ids`.
const OF_ONE: [&str; 4] = ["core", "mm", "pagemap", "fs"];

/// Two processes with the same number share a table or a namespace (`task_kobj_ids_entry`).
#[derive(Clone, PartialEq, Message)]
struct Ids {
    #[prost(uint32, required, tag = "1")]
    memory: u32,
    #[prost(uint32, required, tag = "2")]
    files: u32,
    #[prost(uint32, required, tag = "3")]
    fs: u32,
    #[prost(uint32, required, tag = "4")]
    signals: u32,
    #[prost(uint32, optional, tag = "5")]
    pid_ns: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    net_ns: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    ipc_ns: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    uts_ns: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    mnt_ns: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    user_ns: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    cgroup_ns: Option<u32>,
    #[prost(uint32, optional, tag = "12")]
    time_ns: Option<u32>,
}

/// The dumped subject.
pub struct Subject {
    images: PathBuf,
    /// PIDs and the TID by which its images are named.
    plain: u32,
    thread: u32,
    zombie: u32,
    subreaper: u32,
}

impl Subject {
    /// Finds out which image is of what.
    pub fn of(images: &Path) -> Self {
        let tree = fs::read(images.join("pstree.img")).unwrap();
        let tasks = images::entries(&tree, PSTREE).unwrap().into_iter().map(|entry| images::decode(entry).unwrap());
        let tasks: Vec<Task> = tasks.collect();
        let is_zombie = |pid: u32| !images.join(format!("mm-{pid}.img")).exists();
        let single = |zombie: bool| tasks.iter().find(|task| task.threads.len() == 1 && is_zombie(task.pid) == zombie);
        let plain = tasks.iter().find(|task| task.threads.len() == 2).expect("the first has two threads");
        Self {
            images: images.to_owned(),
            plain: plain.threads[0],
            thread: plain.threads[1],
            zombie: single(true).expect("one is a zombie").pid,
            subreaper: single(false).expect("one is a subreaper").pid,
        }
    }

    /// Writes the images of a tree, most of them as links.
    pub fn write(&self, tree: &[Node], to: &Path) {
        for entry in fs::read_dir(&self.images).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let of_one = name.split_once('-').is_some_and(|(kind, _)| kind == "ids" || OF_ONE.contains(&kind));
            if !of_one && name != "pstree.img" && name != "log" {
                self.link(&name, to, &name);
            }
        }
        for Node { process, subreaper } in tree {
            let pid = process.pid;
            let kind = match (process.is_zombie(), subreaper) {
                (true, _) => self.zombie,
                (false, true) => self.subreaper,
                (false, false) => self.plain,
            };
            for image in OF_ONE.map(|image| (format!("{image}-{kind}.img"), format!("{image}-{pid}.img"))) {
                if self.images.join(&image.0).exists() {
                    self.link(&image.0, to, &image.1);
                }
            }
            for tid in process.threads.iter().filter(|tid| **tid != pid) {
                self.link(&format!("core-{}.img", self.thread), to, &format!("core-{tid}.img"));
            }
            if !process.is_zombie() {
                fs::write(to.join(format!("ids-{pid}.img")), self.ids(pid as u32)).unwrap();
            }
        }
        let tasks: Vec<Task> = tree.iter().map(|node| task(&node.process)).collect();
        fs::write(to.join("pstree.img"), images::encode(PSTREE, &tasks)).unwrap();
    }

    fn link(&self, from: &str, to: &Path, name: &str) {
        fs::hard_link(self.images.join(from), to.join(name)).unwrap();
    }

    /// Those of a process that shares only namespaces.
    fn ids(&self, pid: u32) -> Vec<u8> {
        let image = fs::read(self.images.join(format!("ids-{}.img", self.plain))).unwrap();
        let ids: Ids = images::decode(images::entries(&image, IDS).unwrap()[0]).unwrap();
        images::encode(IDS, &[Ids { memory: pid, files: pid, fs: pid, signals: pid, ..ids }])
    }
}

fn task(process: &Process) -> Task {
    let [pid, ppid, pgid, sid] = [process.pid, process.ppid, process.pgid, process.sid].map(|id| id as u32);
    // The first process of an image has no parent, and the first thread of each is its leader.
    let ppid = if ppid == 1 { 0 } else { ppid };
    let others = process.threads.iter().map(|tid| *tid as u32).filter(|tid| *tid != pid);
    Task { pid, ppid, pgid, sid, threads: std::iter::once(pid).chain(others).collect() }
}
