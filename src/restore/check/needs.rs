//! What a generation needs of a container according to its manifest, and what of that is missing. Pure.

use std::collections::BTreeSet;

use super::{Here, Unfit};
use crate::criu::images::{self, Core, Descriptor};
use crate::host::cpu;
use crate::image::{Body, Manifest, SavedRegisters};

/// CRIU and its helpers, in addition to the service's processes.
const OURS: u64 = 4;

#[derive(Debug, Clone, Default)]
pub struct Needs<'a> {
    arch: &'a str,
    features: &'a [String],
    saved_registers: Option<SavedRegisters>,
    uid: u32,
    capabilities: BTreeSet<String>,
    /// The lowest PID, and the highest PID or TID.
    pids: Option<(i32, i32)>,
    /// Bytes of its pages, without its files.
    memory: u64,
    processes: u64,
    descriptor: Option<u64>,
    /// Bytes that its largest System V message queue may hold.
    queue: Option<u64>,
}

impl<'a> Needs<'a> {
    /// Looks only at images that are in the manifest itself.
    pub fn of(manifest: &'a Manifest) -> Self {
        let lowest = manifest.processes.iter().map(|process| process.pid).min();
        Self {
            arch: &manifest.arch,
            features: &manifest.cpu_features,
            saved_registers: manifest.saved_registers,
            uid: manifest.uid,
            capabilities: inline(manifest, "core-").flat_map(capabilities).collect(),
            pids: lowest.map(|lowest| (lowest, manifest.highest_id().unwrap_or(lowest))),
            memory: pages(manifest),
            processes: manifest.processes.iter().map(|process| process.threads.len() as u64).sum(),
            descriptor: inline(manifest, "fdinfo-").flat_map(descriptors).max(),
            queue: inline(manifest, "ipcns-msg-").flat_map(queues).max(),
        }
    }

    pub fn memory(&self) -> u64 {
        self.memory
    }

    pub fn missing(&self, here: &Here) -> Vec<Unfit> {
        let kernel = here.lacks.iter().map(|(ability, reason)| Unfit::Kernel { ability, reason: reason.clone() });
        let mut missing: Vec<Unfit> = kernel.collect();
        let others = [
            self.machine(here),
            self.registers(here),
            self.pid_max(here),
            self.pids(here),
            self.user(here),
            self.bounding(here),
        ];
        missing.extend(others.into_iter().flatten());
        let amounts = [self.memory_limit(here), self.processes(here), self.descriptors(here), self.queues(here)];
        missing.extend(amounts.into_iter().flatten());
        missing
    }

    fn machine(&self, here: &Here) -> Option<Unfit> {
        if self.arch != here.arch {
            return Some(Unfit::Architecture { theirs: self.arch.to_owned(), ours: here.arch.clone() });
        }
        // An older version may have recorded features that do not matter.
        let needed = self.features.iter().filter(|feature| cpu::matters(self.arch, feature));
        let lacking = needed.filter(|feature| !here.features.contains(feature));
        let missing: Vec<&str> = lacking.map(String::as_str).collect();
        (!missing.is_empty()).then(|| Unfit::CpuFeatures { missing: missing.join(", ") })
    }

    fn registers(&self, here: &Here) -> Option<Unfit> {
        let (theirs, area) = self.saved_registers.zip(here.registers.as_ref())?;
        let differs = self.arch == here.arch && !area.fits(&theirs);
        differs.then(|| Unfit::SavedRegisters { theirs, ours: area.saved() })
    }

    /// Without privileges PIDs only go up.
    fn pids(&self, here: &Here) -> Option<Unfit> {
        let ((wanted, _), used) = self.pids.zip(here.used)?;
        (used >= wanted).then_some(Unfit::PidsUsed { wanted, used })
    }

    fn pid_max(&self, here: &Here) -> Option<Unfit> {
        let ((_, wanted), max) = self.pids.zip(here.pid_max)?;
        (wanted >= max).then_some(Unfit::PidMax { wanted, max: max - 1 })
    }

    /// Only root may create processes of another user.
    fn user(&self, here: &Here) -> Option<Unfit> {
        (self.uid != here.uid && here.uid != 0).then_some(Unfit::User { theirs: self.uid, ours: here.uid })
    }

    fn bounding(&self, here: &Here) -> Option<Unfit> {
        let missing: Vec<&str> = self.capabilities.difference(&here.bounding).map(String::as_str).collect();
        (!missing.is_empty()).then(|| Unfit::Capabilities { missing: missing.join(", ") })
    }

    fn memory_limit(&self, here: &Here) -> Option<Unfit> {
        let (needed, limit) = (self.memory, here.memory?);
        (limit < needed).then_some(Unfit::Memory { needed: needed >> 20, limit: limit >> 20 })
    }

    fn processes(&self, here: &Here) -> Option<Unfit> {
        let (needed, free) = (self.processes + OURS, here.processes?);
        (free < needed).then_some(Unfit::Processes { needed, free })
    }

    fn descriptors(&self, here: &Here) -> Option<Unfit> {
        let (wanted, limit) = (self.descriptor?, here.descriptors?);
        (wanted >= limit).then_some(Unfit::Descriptors { wanted, limit })
    }

    fn queues(&self, here: &Here) -> Option<Unfit> {
        let (needed, limit) = (self.queue?, here.queue?);
        (needed > limit).then_some(Unfit::Queue { needed, limit })
    }
}

fn pages(manifest: &Manifest) -> u64 {
    let pages = manifest.images.iter().filter(|image| image.name.starts_with("pages-"));
    pages.filter_map(|image| image.body.as_ref()).map(Body::size).sum()
}

/// Small CRIU images are in the manifest itself.
fn inline<'a>(manifest: &'a Manifest, prefix: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let images = manifest.images.iter().filter(move |image| image.name.starts_with(prefix));
    images.filter_map(|image| image.body.as_ref()).map(Body::inline).filter(|data| !data.is_empty())
}

/// The permitted capabilities in a thread's CRIU image.
fn capabilities(image: &[u8]) -> Vec<String> {
    let entries = images::entries(image, images::CORE).unwrap_or_default();
    let cores = entries.into_iter().filter_map(|entry| images::decode::<Core>(entry).ok());
    cores.flat_map(|core| core.permitted()).map(capability).collect()
}

/// The name without `CAP_`; a number if the name is unknown.
fn capability(number: u8) -> String {
    let known = caps::all().into_iter().find(|known| known.index() == number);
    known.map_or_else(|| number.to_string(), |known| known.to_string().trim_start_matches("CAP_").to_owned())
}

fn descriptors(image: &[u8]) -> Vec<u64> {
    let entries = images::entries(image, images::FDINFO).unwrap_or_default();
    entries.into_iter().filter_map(|entry| Some(images::decode::<Descriptor>(entry).ok()?.fd.into())).collect()
}

fn queues(image: &[u8]) -> Vec<u64> {
    images::queues(image).unwrap_or_default().into_iter().map(|queue| queue.room.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::images::{Credentials, Queue, ThreadCore};
    use crate::host::cpu::RegisterArea;
    use crate::image::{CriuImage, Process};

    fn image<M: prost::Message>(name: &str, magic: u32, entry: M) -> CriuImage {
        CriuImage { name: name.into(), body: Some(Body::from_inline(images::encode(magic, &[entry]))) }
    }

    fn manifest() -> Manifest {
        let creds = Credentials { permitted: vec![1 << 5 | 1 << 10, 1 << (40 - 32)] };
        let core = Core { thread: Some(ThreadCore { creds: Some(creds) }) };
        Manifest {
            arch: "x86_64".into(),
            cpu_features: vec!["avx2".into(), "bmi2".into()],
            saved_registers: Some(SavedRegisters { components: 0x2e7, bytes: 2440 }),
            uid: 1000,
            processes: vec![Process { pid: 1000, threads: vec![1000, 40_000], ..Process::default() }],
            images: vec![
                image("core-1000.img", images::CORE, core),
                image("fdinfo-2.img", images::FDINFO, Descriptor { id: 1, fd: 5000 }),
                image("ipcns-msg-1000.img", images::QUEUES, Queue { room: 65_536, messages: 0 }),
                CriuImage { name: "pages-1.img".into(), body: Some(Body::from_inline(vec![1; 4096])) },
            ],
            ..Manifest::default()
        }
    }

    fn here() -> Here {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        Here {
            arch: "x86_64".into(),
            features: words(&["avx2", "bmi2", "avx512f"]),
            registers: Some(RegisterArea::of(&[
                (0, 576),
                (1, 576),
                (2, 832),
                (5, 840),
                (6, 1408),
                (7, 2432),
                (9, 2440),
            ])),
            uid: 1000,
            bounding: words(&["KILL", "NET_BIND_SERVICE", "CHECKPOINT_RESTORE"]).into_iter().collect(),
            ..Here::default()
        }
    }

    #[test]
    fn the_same_machine_fits_and_what_is_not_told_is_not_missing() {
        assert_eq!(Needs::of(&manifest()).missing(&here()), []);
    }

    #[test]
    fn another_architecture_is_not_asked_for_features() {
        let here = Here { arch: "aarch64".into(), features: vec![], ..here() };
        let found = Needs::of(&manifest()).missing(&here);
        assert_eq!(found, [Unfit::Architecture { theirs: "x86_64".into(), ours: "aarch64".into() }]);
    }

    #[test]
    fn all_that_is_missing_is_said() {
        let here = Here {
            features: vec!["avx2".into()],
            registers: Some(RegisterArea::of(&[(0, 576), (1, 576), (2, 832)])),
            uid: 1001,
            bounding: ["KILL".to_owned()].into(),
            lacks: vec![("PR_SET_MM_MAP", "EINVAL".to_owned())],
            pid_max: Some(32_768),
            used: Some(1200),
            memory: Some(1),
            processes: Some(3),
            descriptors: Some(1024),
            queue: Some(16_384),
            ..here()
        };
        let found: Vec<String> = Needs::of(&manifest()).missing(&here).iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(found.join("\n"), @r"
        no restore is possible here, because PR_SET_MM_MAP is missing (EINVAL)
        this CPU lacks bmi2, which the CPU of the checkpoint had and the service may use; restore it on a host with these features
        this host saves 832 bytes (XCR0 0x7) of a program's registers, and the host of the checkpoint saved 2440 bytes (XCR0 0x2e7), which the service may use; restore it on a host with such a CPU and an equally new kernel
        the service has PID 40000, but PIDs end at 32767 on this host; raise the host's kernel.pid_max
        PID 1000 of the service is not available here, because this container has already used PIDs up to 1200; start a new container, which has fresh PIDs
        the service ran as uid 1000, but this container runs as uid 1001; start the container as the same user
        the service has capabilities that this container does not have (CHECKPOINT_RESTORE, NET_BIND_SERVICE); start the container with the same capabilities
        the service needs 0 MiB of memory, but this container may use 0 MiB; raise its memory limit
        the service has 6 processes and threads, but this container may have 3 more; raise its PIDs limit (--pids-limit, podPidsLimit)
        the service has descriptor 5000, but this container's hard limit of open files is 1024; raise it (--ulimit nofile=5001)
        the service has a System V message queue for 65536 bytes, but this container's limit is 16384; raise it (--sysctl kernel.msgmnb=65536)
        ");
    }

    #[test]
    fn a_checkpoint_that_says_nothing_of_registers_needs_none() {
        let manifest = Manifest { saved_registers: None, ..manifest() };
        let here = Here { registers: Some(RegisterArea::of(&[(0, 576), (1, 576)])), ..here() };
        assert_eq!(Needs::of(&manifest).missing(&here), []);
    }

    #[test]
    fn what_an_older_freeze_recorded_in_vain_is_not_missing() {
        let manifest = Manifest { cpu_features: vec!["avx2".into(), "vmx".into()], ..manifest() };
        assert_eq!(Needs::of(&manifest).missing(&here()), []);
    }

    #[test]
    fn root_can_be_anybody() {
        assert_eq!(Needs::of(&manifest()).missing(&Here { uid: 0, ..here() }), []);
    }
}
