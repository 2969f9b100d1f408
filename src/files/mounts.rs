//! Which file systems belong to the container alone and vanish with it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::proc::mountinfo::{self, Mount};

/// Lifetime of a mount's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The container's root: files of the container image, and changes since the container started.
    Root,
    /// A file system of this container alone: in memory, or an empty volume that the engine made for it. All
    /// its files are new.
    Own,
    /// A volume, a kernel file system or a file of the engine.
    Foreign,
}

/// File systems of the kernel, whose files nobody stores.
const KERNELS: &[&str] = &["proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "devtmpfs", "tmpfs"];

#[derive(Debug)]
struct At {
    point: PathBuf,
    kind: Kind,
    /// Whether its files are data that the container can write and does not lose.
    is_volume: bool,
}

#[derive(Debug)]
pub struct Mounts {
    mounts: Vec<At>,
    volumes: Vec<PathBuf>,
    root_is_overlay: bool,
}

impl Mounts {
    pub fn read() -> io::Result<Self> {
        Ok(Self::of(mountinfo::read("self")?))
    }

    /// Kind of the mount that holds `path`.
    pub fn kind(&self, path: &Path) -> Kind {
        self.holding(path).map_or(Kind::Foreign, |at| at.kind)
    }

    /// Whether `path` is on a volume that the container can write to and that outlives it.
    pub fn is_on_volume(&self, path: &Path) -> bool {
        self.holding(path).is_some_and(|at| at.is_volume)
    }

    fn holding(&self, path: &Path) -> Option<&At> {
        mountinfo::holding(&self.mounts, |at| &at.point, path)
    }

    /// All mount points.
    pub fn points(&self) -> impl Iterator<Item = &PathBuf> {
        self.mounts.iter().map(|at| &at.point)
    }

    /// Folders on file systems that outlive the container.
    pub fn volumes(&self) -> impl Iterator<Item = &Path> {
        self.volumes.iter().map(PathBuf::as_path)
    }

    /// The container's own file systems that are in sight. The engine fills /dev.
    pub fn own(&self) -> impl Iterator<Item = (&Path, Kind)> {
        let last = self
            .mounts
            .iter()
            .enumerate()
            .filter(|(index, at)| !self.mounts[index + 1..].iter().any(|later| at.point.starts_with(&later.point)));
        last.map(|(_, at)| (at.point.as_path(), at.kind))
            .filter(|(point, kind)| *kind != Kind::Foreign && *point != Path::new("/dev"))
    }

    pub fn root_is_overlay(&self) -> bool {
        self.root_is_overlay
    }

    pub(super) fn of(all: Vec<Mount>) -> Self {
        Self::at(Path::new("/"), all)
    }

    /// Mounts of a container whose root is at `root`.
    pub(super) fn at(root: &Path, all: Vec<Mount>) -> Self {
        let mut mounts = Self { mounts: Vec::new(), volumes: Vec::new(), root_is_overlay: false };
        for mount in all {
            let kind = if mount.point == root { Kind::Root } else { kind(&mount) };
            if kind == Kind::Root {
                mounts.root_is_overlay = mount.fstype == "overlay";
            }
            let is_volume = kind == Kind::Foreign && mount.writable && !KERNELS.contains(&&*mount.fstype);
            if is_volume && mount.point.is_dir() {
                mounts.volumes.push(mount.point.clone());
            }
            mounts.mounts.push(At { point: mount.point, kind, is_volume });
        }
        mounts
    }
}

fn kind(mount: &Mount) -> Kind {
    match &*mount.fstype {
        // A mount of a folder inside a larger tmpfs is the engine's: a secret, a config map, /etc/hosts.
        "tmpfs" | "ramfs" if mount.root == Path::new("/") && mount.writable => Kind::Own,
        _ if is_empty_volume(mount.root.as_os_str().as_bytes()) && mount.writable => Kind::Own,
        _ => Kind::Foreign,
    }
}

/// A volume that ends with the pod or the container: Kubernetes' emptyDir, or an anonymous volume of Docker, Podman,
/// nerdctl (in a folder named after its namespace), containerd's CRI plugin or CRI-O (in a folder of the container).
fn is_empty_volume(root: &[u8]) -> bool {
    let anonymous = |name: &[u8]| name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit);
    let parts: Vec<&[u8]> = root.split(|&byte| byte == b'/').collect();
    parts.contains(&b"kubernetes.io~empty-dir".as_slice())
        || match parts.as_slice() {
            [.., b"volumes", name, b"_data"] | [.., b"volumes", _, name, b"_data"] => anonymous(name),
            [.., b"containers", container, b"volumes", name] | [.., container, b"userdata", b"mounts", name] => {
                anonymous(container) && anonymous(name)
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &[u8] = b"\
500 400 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l
501 500 0:51 / /proc rw,nosuid - proc proc rw
502 500 0:52 / /dev rw,nosuid - tmpfs tmpfs rw
503 502 0:53 / /dev/shm rw,nosuid - tmpfs shm rw
504 500 254:0 /volumes/v /data rw,relatime shared:1 - ext4 /dev/vda rw
505 500 0:54 /secret /run/secrets ro - tmpfs tmpfs rw
508 500 254:0 /lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache /cache rw - ext4 /dev/vda rw
509 500 254:0 /docker/volumes/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef/_data /anonymous rw - ext4 /dev/vda rw
506 500 0:55 / /with\\040space rw - tmpfs tmpfs rw
";

    #[test]
    fn kinds_of_a_docker_container() {
        let mounts = Mounts::of(mountinfo::parse(DOCKER));
        for (path, kind) in [
            ("/var/log/app.log", Kind::Root),
            ("/dev/shm/cache", Kind::Own),
            ("/data/db", Kind::Foreign),
            ("/database", Kind::Root),
            ("/proc/self/maps", Kind::Foreign),
            ("/run/secrets/key", Kind::Foreign),
            ("/with space/x", Kind::Own),
            ("/cache/x", Kind::Own),
            ("/anonymous/x", Kind::Own),
        ] {
            assert_eq!(mounts.kind(Path::new(path)), kind, "{path}");
            assert_eq!(mounts.is_on_volume(Path::new(path)), path == "/data/db", "{path}");
        }
    }

    #[test]
    fn unnamed_volumes_of_all_engines_are_known() {
        let id = "0123456789abcdef".repeat(4);
        for (root, is_empty) in [
            (format!("/var/lib/containerd/io.containerd.grpc.v1.cri/containers/{id}/volumes/{id}"), true),
            (format!("/containers/storage/overlay-containers/{id}/userdata/mounts/{id}"), true),
            (format!("/var/lib/nerdctl/1935db59/volumes/default/{id}/_data"), true),
            ("/var/lib/nerdctl/1935db59/volumes/default/named/_data".into(), false),
            (format!("/home/containers/{id}/volumes/named"), false),
            (format!("/backups/volumes/{id}"), false),
        ] {
            assert_eq!(is_empty_volume(root.as_bytes()), is_empty, "{root}");
        }
    }

    #[test]
    fn a_writable_folder_of_another_file_system_is_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, mode: &str| {
            format!("510 500 254:0 /v {} {mode} - ext4 ext4 rw\n", folder.path().join(name).display())
        };
        for name in ["volume", "read-only"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("file"), "").unwrap();
        let more = [at("volume", "rw"), at("read-only", "ro"), at("file", "rw")].concat();
        let mounts = Mounts::of(mountinfo::parse(&[DOCKER, more.as_bytes()].concat()));
        assert!(mounts.volumes().filter(|path| path.starts_with(folder.path())).eq([folder.path().join("volume")]));
    }

    #[test]
    fn the_last_mount_on_a_point_counts() {
        let both = [DOCKER, b"507 500 0:56 / /data rw - tmpfs tmpfs rw\n"].concat();
        assert_eq!(Mounts::of(mountinfo::parse(&both)).kind(Path::new("/data/db")), Kind::Own);
    }

    #[test]
    fn what_a_later_mount_hides_is_out_of_sight() {
        let both = [DOCKER, b"507 500 0:56 / /cache rw - ext4 ext4 rw\n"].concat();
        let mounts = Mounts::of(mountinfo::parse(&both));
        let own: Vec<_> = mounts.own().collect();
        let anonymous = (Path::new("/anonymous"), Kind::Own);
        let expected = [("/", Kind::Root), ("/dev/shm", Kind::Own)].map(|(at, kind)| (Path::new(at), kind));
        assert_eq!(own, [expected.as_slice(), &[anonymous, (Path::new("/with space"), Kind::Own)]].concat());
    }

    #[test]
    fn this_machine_has_a_root() {
        assert_eq!(Mounts::read().unwrap().kind(Path::new("/")), Kind::Root);
    }
}
