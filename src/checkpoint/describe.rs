//! The manifest's description of the service, apart from its memory and files.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::tree_of_service::Tree;
use crate::control::protocol::{SOCKET_NAME, now_ms};
use crate::criu::command::{self, DUMP_LOG, RESTORE_LOG};
use crate::files::identity::{self, Identities, Identity};
use crate::files::used::Rules;
use crate::files::{names, resolve, used};
use crate::host::cpu::RegisterArea;
use crate::host::{clock, cpu, env, stdio};
use crate::image::{Executable, Manifest, Process};
use crate::job::Common;
use crate::proc::{self, tree};

/// Facts about the machine, the user and stdio. Gathered while the service runs, since that takes time on a
/// large host.
pub fn host() -> io::Result<Manifest> {
    let machine = nix::sys::utsname::uname()?;
    Ok(Manifest {
        freeze_version: env!("CARGO_PKG_VERSION").to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        kernel: machine.release().to_string_lossy().into_owned(),
        cpu_features: cpu::cpu_features(),
        saved_registers: RegisterArea::here().map(|area| area.saved()),
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        stdio: stdio::record(),
        ..Manifest::default()
    })
}

/// Adds the facts that need a frozen service. CRIU images, files and figures follow later.
pub fn service(
    host: Manifest,
    tree: &Tree,
    root: i32,
    service: i32,
    executables: Vec<Executable>,
) -> io::Result<Manifest> {
    let command = fs::read(proc::path(service, "cmdline"))?;
    Ok(Manifest {
        created_ms: now_ms(),
        clocks: clock::seen_by(root).ok(),
        root_pid: root,
        service_pid: service,
        command: command.strip_suffix(b"\0").unwrap_or(&command).split(|&byte| byte == 0).map(<[u8]>::to_vec).collect(),
        processes: tree.processes().iter().map(process).collect(),
        executables,
        ..host
    })
}

fn process(process: &tree::Process) -> Process {
    let exe = fs::read_link(proc::path(process.pid, "exe")).unwrap_or_default();
    Process {
        pid: process.pid,
        ppid: process.ppid,
        pgid: process.pgid,
        sid: process.sid,
        comm: process.comm.clone(),
        threads: process.threads.clone(),
        exe: exe.as_os_str().as_bytes().to_vec(),
    }
}

/// Mapped files that a restore needs unchanged.
pub fn executables(tree: &Tree, rules: &Rules, identities: &Identities) -> Vec<Executable> {
    let file = |path: PathBuf| {
        let meta = fs::symlink_metadata(&path).ok()?;
        let Identity { build_id, hash } = identities.of(&path, &meta);
        Some(Executable { size: meta.len(), path: bytes(&path), build_id, hash })
    };
    used::mapped(tree.processes(), rules).into_iter().filter_map(file).collect()
}

/// What is installed with freeze, in one folder.
const INSTALLED: [&str; 6] =
    ["freeze", command::PLAIN, command::WITH_CAPABILITIES, "docker-seccomp.json", "sbom.cdx.json", "licences"];

/// The folder of `freeze`, if it has nothing but what is installed with it; else that alone, as it may be one of many
/// programs in a folder such as `/usr/local/bin`.
fn installed(freeze: &Path) -> Vec<PathBuf> {
    let Some(folder) = freeze.parent() else { return Vec::new() };
    let is_installed = |name: &OsStr| freeze.file_name() == Some(name) || INSTALLED.iter().any(|it| *it == name);
    let is_its_own = |entries: fs::ReadDir| entries.flatten().all(|entry| is_installed(&entry.file_name()));
    if folder.parent().is_some() && fs::read_dir(folder).is_ok_and(is_its_own) {
        return vec![folder.to_owned()];
    }
    INSTALLED.iter().map(|name| folder.join(name)).chain([freeze.to_owned()]).collect()
}

/// freeze's own folders and files: its programs, its files in the runtime folder with the folder `work`, a
/// store in a folder, the key files. Each by its given path and its real path, since open files show real
/// paths.
pub fn our_folders(common: &Common, work: &Path) -> Vec<PathBuf> {
    let programs = std::env::current_exe().map(|freeze| installed(&freeze)).unwrap_or_default();
    let store = common.store.url.strip_prefix("file:").map(PathBuf::from);
    let keys = common.keys.clone();
    let ours = [store, Some(work.to_owned()), keys.passphrase_file, keys.key_file, common.trace.clone()];
    let runtime = [SOCKET_NAME, DUMP_LOG, RESTORE_LOG].into_iter().chain(env::FILES).chain([
        names::FILE,
        names::NEW,
        identity::FILE,
        identity::NEW,
    ]);
    let runtime = runtime.map(|name| common.runtime_dir.join(name));
    // The engine's logs: in a container that has the host's root, their paths lead to them.
    let logs = stdio::outside().into_iter().map(|file| file.path);
    let named: Vec<PathBuf> = ours.into_iter().flatten().chain(programs).chain(runtime).chain(logs).collect();
    let real: Vec<PathBuf> = named.iter().filter_map(|path| Some(resolve::follow(path).ok()?.1)).collect();
    [named, real].concat()
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::files::selection::Selection;

    #[test]
    fn this_process_is_described() {
        let us = std::process::id() as i32;
        let tree = Tree::of_processes(vec![tree::read(us).unwrap()]);
        let mut rules = Rules::of_this_container(us, Vec::new(), Selection::default()).unwrap();
        rules.began(SystemTime::now() + Duration::from_secs(3600));
        let mapped = executables(&tree, &rules, &Identities::default());
        let manifest = service(host().unwrap(), &tree, 1, us, mapped).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(manifest.service_pid, us);
        assert_eq!(OsStr::from_bytes(&manifest.processes[0].exe), exe.as_os_str());
        let program =
            manifest.executables.iter().find(|file| OsStr::from_bytes(&file.path) == exe.as_os_str()).unwrap();
        assert!(program.size > 0 && !program.build_id.is_empty() && program.hash.len() == 32);
        assert_eq!(manifest.saved_registers, RegisterArea::here().map(|area| area.saved()));
        assert!(!manifest.command.is_empty() && manifest.created_ms > 1_600_000_000_000);
    }

    fn common(runtime_dir: &Path, store: &Path, key: &Path) -> Common {
        use crate::image::KeyFiles;
        use crate::store::Location;
        Common {
            store: Location::at(&format!("file:{}", store.display())),
            keys: KeyFiles { passphrase_file: Some(key.into()), key_file: None },
            runtime_dir: runtime_dir.into(),
            memory: 1,
            instance: "one".to_owned(),
            exclusive_ms: None,
            trace: None,
        }
    }

    #[test]
    fn a_store_in_a_folder_and_its_key_are_ours() {
        let (store, key) = (Path::new("/store"), Path::new("/secret"));
        let ours = our_folders(&common(Path::new("/run/freeze"), store, key), Path::new("/run/freeze/work-1"));
        assert!([store, key].iter().all(|path| ours.contains(&path.to_path_buf())));
    }

    #[test]
    fn what_is_reached_through_a_link_is_ours_by_its_real_path() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&top, top.join("link")).unwrap();
        fs::write(top.join("key"), "secret").unwrap();
        let work = Path::new("/run/freeze/work-1");
        let ours = our_folders(&common(Path::new("/run/freeze"), &top.join("link/store"), &top.join("link/key")), work);
        for path in [top.join("key"), top.join("store"), top.join("link/store")] {
            assert!(ours.contains(&path), "{path:?}");
        }
    }

    #[test]
    fn other_programs_beside_freeze_are_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        fs::write(top.join("freeze"), "").unwrap();
        fs::create_dir(top.join("licences")).unwrap();
        assert_eq!(installed(&top.join("freeze")), [top]);
        fs::write(top.join("tool"), "").unwrap();
        let ours = installed(&top.join("freeze"));
        let is_ours = |name: &str| ours.iter().any(|path| top.join(name).starts_with(path));
        assert!(is_ours("freeze") && is_ours("criu") && is_ours("docker-seccomp.json") && !is_ours("tool"));
        assert!(!installed(Path::new("/freeze")).contains(&PathBuf::from("/")));
    }

    /// The service may use the runtime folder too.
    #[test]
    fn of_the_runtime_folder_only_what_freeze_made_is_ours() {
        let runtime = Path::new("/run/freeze");
        let ours = our_folders(&common(runtime, Path::new("/store"), Path::new("/key")), &runtime.join("work-1"));
        let is_ours = |name: &str| ours.iter().any(|path| runtime.join(name).starts_with(path));
        for name in
            ["control.sock", "dump.log", "restore.log", "env", "generation-id", ".names.new", "work-1/criu.sock"]
        {
            assert!(is_ours(name), "{name}");
        }
        assert!(!is_ours("data") && !is_ours("work-of-the-service"));
    }
}
