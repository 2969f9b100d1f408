//! Why it cannot be told which files travel. Each names the file, and what to do.

use std::io;
use std::path::PathBuf;

use bytesize::ByteSize;

use super::groups::Group;

#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("the service's files cannot be looked up ({0}); freeze needs /proc mounted")]
    Proc(io::Error),
    #[error(
        "the service has bound a unix socket in {folder}, which freeze cannot look up: {error}. Repair the symbolic links on this path, or bind the socket elsewhere"
    )]
    Socket { folder: PathBuf, error: io::Error },
    #[error(
        "{path} was changed in this container and cannot be read ({error}), so it would be lost; make it readable for the container's user, or leave it behind with --exclude"
    )]
    Changed { path: PathBuf, error: io::Error },
    #[error(
        "the files that were changed in this container have {}, more than --files-limit allows ({}); exclude what the service can lose, keep large data on a volume, or raise the limit. The largest folders: {}",
        ByteSize(*.bytes), ByteSize(*.limit), list(.largest)
    )]
    Large { bytes: u64, limit: u64, largest: Vec<Group> },
    #[error(
        "{files} files were changed in this container, more than a checkpoint can hold ({limit}); exclude what the service can lose, or keep many files on a volume. The fullest folders: {}",
        .fullest.iter().map(|group| group.folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Many { files: usize, limit: usize, fullest: Vec<Group> },
    #[error("--include cannot read {path} ({error}); make it readable for the container's user")]
    Include { path: PathBuf, error: io::Error },
    /// Another container may decide where the link leads.
    #[error(
        "--include {path} leads through the symbolic link {link}, which freeze does not follow because it is on a volume or in shared memory, where others may change it; include the link's target by its own path"
    )]
    Link { path: PathBuf, link: PathBuf },
}

fn list(largest: &[Group]) -> String {
    let each = largest.iter().map(|group| format!("{} ({})", group.folder.display(), ByteSize(group.bytes)));
    each.collect::<Vec<_>>().join(", ")
}
