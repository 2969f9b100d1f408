//! Whether this container can take the generation, found out before any page is fetched. Each failing check is one sentence.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::image::{Body, Manifest};
use crate::privileges::RestorePlan;

/// Why the restore cannot work here. Nothing was started or changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another architecture.
    #[error("the checkpoint is of a {theirs} machine and this is {ours}; restore it on {theirs}")]
    Architecture {
        /// Where it was taken.
        theirs: String,
        /// Here.
        ours: String,
    },
    /// CPU features that the service may have chosen its code by.
    #[error(
        "this CPU lacks {missing}, which the one of the checkpoint had and the service may use; restore it on a host with these features"
    )]
    CpuFeatures {
        /// The missing ones.
        missing: String,
    },
    /// A PID that the service needs is behind us.
    #[error(
        "PID {wanted} of the service cannot be had here, as this container has already used PIDs up to {used}; only a new container has fresh PIDs, so start a new one"
    )]
    PidsUsed {
        /// Lowest PID of the service.
        wanted: i32,
        /// Newest PID here.
        used: i32,
    },
    /// A PID that this host does not have.
    #[error("the service has PID {wanted}, and PIDs end at {max} on this host; raise kernel.pid_max there")]
    PidMax {
        /// Highest PID or TID of the service.
        wanted: i32,
        /// Highest here.
        max: i32,
    },
    /// Another user.
    #[error("the service ran as uid {theirs} and this container runs as uid {ours}; start it with the same user")]
    User {
        /// Uid of the service.
        theirs: u32,
        /// Uid here.
        ours: u32,
    },
    /// Not enough memory.
    #[error(
        "the service needs {needed} MiB of memory and this container may take {free} MiB more; raise its memory limit"
    )]
    Memory {
        /// MiB.
        needed: u64,
        /// MiB.
        free: u64,
    },
    /// A program or library is not here, or is another one.
    #[error("{path} of the application {what}; restore it with the same application files")]
    Executable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// What of the kernel's x86 flags user code can see and use; others (`vmx`, `nopl`, mitigations…) describe the host.
const USED_FEATURES: &[&str] = &[
    "sse3",
    "pni",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "popcnt",
    "aes",
    "pclmulqdq",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "bmi1",
    "bmi2",
    "movbe",
    "rdrand",
    "rdseed",
    "adx",
    "sha_ni",
    "vaes",
    "vpclmulqdq",
    "gfni",
    "avx512f",
    "avx512dq",
    "avx512cd",
    "avx512bw",
    "avx512vl",
    "avx512ifma",
    "avx512vbmi",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_bitalg",
    "avx512_vpopcntdq",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "rtm",
    "fsgsbase",
    "abm",
    "cx16",
    "sse4a",
    "fma4",
    "pku",
    "ospke",
    "xsavec",
    "clwb",
    "serialize",
];

/// Checks everything that can be known now.
pub fn check(manifest: &Manifest) -> Result<(), Unfit> {
    check_machine(manifest, std::env::consts::ARCH, &cpu_features())?;
    check_pid_max(manifest.processes.iter().flat_map(|process| &process.threads).copied().max(), pid_max())?;
    if !RestorePlan::here().can_go_back() {
        check_pids(manifest.processes.iter().map(|process| process.pid).min(), newest_pid())?;
    }
    check_user(manifest.uid, nix::unistd::geteuid().as_raw())?;
    check_memory(memory_of(manifest), free_memory())?;
    check_executables(manifest)
}

fn check_machine(manifest: &Manifest, arch: &str, features: &[String]) -> Result<(), Unfit> {
    if manifest.arch != arch {
        return Err(Unfit::Architecture { theirs: manifest.arch.clone(), ours: arch.to_owned() });
    }
    let ours: BTreeSet<&str> = features.iter().map(String::as_str).collect();
    let missing: Vec<&str> =
        manifest.cpu_features.iter().map(String::as_str).filter(|feature| !ours.contains(feature)).collect();
    if missing.is_empty() { Ok(()) } else { Err(Unfit::CpuFeatures { missing: missing.join(", ") }) }
}

/// Without privileges PIDs only go up.
fn check_pids(wanted: Option<i32>, used: Option<i32>) -> Result<(), Unfit> {
    match (wanted, used) {
        (Some(wanted), Some(used)) if used >= wanted => Err(Unfit::PidsUsed { wanted, used }),
        _ => Ok(()),
    }
}

fn check_pid_max(wanted: Option<i32>, max: Option<i32>) -> Result<(), Unfit> {
    match (wanted, max) {
        (Some(wanted), Some(max)) if wanted >= max => Err(Unfit::PidMax { wanted, max: max - 1 }),
        _ => Ok(()),
    }
}

/// Bytes of memory that the service had: of its pages, without its files.
fn memory_of(manifest: &Manifest) -> u64 {
    let pages = manifest.images.iter().filter(|image| image.name.starts_with("pages-"));
    pages.filter_map(|image| image.body.as_ref()).map(Body::size).sum()
}

/// Only root may make processes of another user.
fn check_user(theirs: u32, ours: u32) -> Result<(), Unfit> {
    if theirs == ours || ours == 0 { Ok(()) } else { Err(Unfit::User { theirs, ours }) }
}

fn check_memory(needed: u64, free: Option<u64>) -> Result<(), Unfit> {
    match free {
        Some(free) if free < needed => Err(Unfit::Memory { needed: needed >> 20, free: free >> 20 }),
        _ => Ok(()),
    }
}

fn check_executables(manifest: &Manifest) -> Result<(), Unfit> {
    // What was made at run time travels itself.
    let travels: BTreeSet<&[u8]> = manifest.files.iter().map(|file| file.path.as_slice()).collect();
    for file in manifest.executables.iter().filter(|file| !travels.contains(file.path.as_slice())) {
        let path = Path::new(OsStr::from_bytes(&file.path));
        let what = match fs::metadata(path) {
            Err(error) => format!("cannot be used here ({error})"),
            Ok(meta) if meta.len() != file.size => format!("has {} bytes here and had {}", meta.len(), file.size),
            Ok(_) => continue,
        };
        return Err(Unfit::Executable { path: path.to_owned(), what });
    }
    Ok(())
}

/// The CPU's features that programs choose their code by.
pub fn cpu_features() -> Vec<String> {
    let Ok(file) = fs::File::open("/proc/cpuinfo") else { return Vec::new() };
    // All processors have the same, so the first one's are enough; the whole file is long on a large host.
    let line = BufReader::new(file).lines().map_while(Result::ok).find(|line| line.starts_with("flags"));
    let flags = line.as_deref().and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    flags.split_ascii_whitespace().filter(|flag| USED_FEATURES.contains(flag)).map(str::to_owned).collect()
}

/// The number that PIDs stay below (proc_sys_kernel(5)).
fn pid_max() -> Option<i32> {
    fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()
}

/// The newest PID of this PID namespace: the last field of /proc/loadavg (proc_loadavg(5)).
pub fn newest_pid() -> Option<i32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().last()?.parse().ok()
}

/// Bytes that this container may still take, as far as it is told.
fn free_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let available: u64 =
        info.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    Some(limit.map_or(available << 10, |limit| limit.min(available << 10)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Executable;

    fn manifest() -> Manifest {
        Manifest { arch: "x86_64".into(), cpu_features: vec!["avx2".into(), "bmi2".into()], ..Manifest::default() }
    }

    #[test]
    fn the_same_machine_fits() {
        assert_eq!(check_machine(&manifest(), "x86_64", &["avx2".into(), "bmi2".into(), "avx512f".into()]), Ok(()));
    }

    #[test]
    fn sentences() {
        let unfit = |result: Result<(), Unfit>| result.unwrap_err().to_string();
        insta::assert_snapshot!(unfit(check_machine(&manifest(), "aarch64", &[])), @"the checkpoint is of a x86_64 machine and this is aarch64; restore it on x86_64");
        insta::assert_snapshot!(unfit(check_machine(&manifest(), "x86_64", &["avx2".into()])), @"this CPU lacks bmi2, which the one of the checkpoint had and the service may use; restore it on a host with these features");
        insta::assert_snapshot!(unfit(check_pids(Some(1000), Some(1200))), @"PID 1000 of the service cannot be had here, as this container has already used PIDs up to 1200; only a new container has fresh PIDs, so start a new one");
        insta::assert_snapshot!(unfit(check_pid_max(Some(40_000), Some(32_768))), @"the service has PID 40000, and PIDs end at 32767 on this host; raise kernel.pid_max there");
        insta::assert_snapshot!(unfit(check_user(1000, 1001)), @"the service ran as uid 1000 and this container runs as uid 1001; start it with the same user");
        insta::assert_snapshot!(unfit(check_memory(512 << 20, Some(100 << 20))), @"the service needs 512 MiB of memory and this container may take 100 MiB more; raise its memory limit");
    }

    #[test]
    fn a_changed_library_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let executables = vec![Executable { path: path.as_os_str().as_bytes().to_vec(), size: 5 }];
        let error = check_executables(&Manifest { executables, ..manifest() }).unwrap_err();
        assert_eq!(error, Unfit::Executable { path, what: "has 0 bytes here and had 5".into() });
    }

    #[test]
    fn a_program_that_travels_need_not_be_here() {
        let path = b"/tmp/made at run time".to_vec();
        let files = vec![crate::image::File { path: path.clone(), ..Default::default() }];
        let executables = vec![Executable { path, size: 5 }];
        assert_eq!(check_executables(&Manifest { executables, files, ..manifest() }), Ok(()));
    }

    #[test]
    fn this_machine_can_be_asked() {
        assert!(free_memory().is_some_and(|bytes| bytes > 0));
        assert!(newest_pid().is_some_and(|pid| pid > 0));
    }
}
