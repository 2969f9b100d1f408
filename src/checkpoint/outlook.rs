//! What of the container's files a checkpoint would carry, for the doctor. Changes nothing.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::describe;
use super::preflight::write_leases;
use crate::files::groups::{self, Group};
use crate::files::selection::{Scope, Selection};
use crate::files::survey::Survey;
use crate::files::used::{self, LookupError, Rules};
use crate::job::Common;
use crate::proc::fd;
use crate::proc::tree::Process;

/// How an SQLite database begins (fileformat2.html), and where it says that it has a rollback journal.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";
const WRITE_VERSION: usize = 18;
const ROLLBACK: u8 = 1;

/// Most folders that the changed files are summed up in.
const GROUPS: usize = 8;

/// The container's files, as the next checkpoint would see them. Open files are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Changed files that travel.
    pub travel: Vec<Group>,
    /// Number of deleted names that travel.
    pub deleted: usize,
    /// Names of the image were not all listed at the start, so others may be gone.
    pub may_miss_deletions: bool,
    /// Volumes, whose files stay.
    pub stay: Vec<PathBuf>,
    /// What travels although it is on a volume (`--include`).
    #[serde(skip)]
    pub included: Vec<PathBuf>,
    /// Open SQLite databases that travel, by process and descriptor.
    #[serde(skip)]
    pub databases: Vec<Database>,
    /// Why a checkpoint would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// An open SQLite database with a rollback journal. A connection to it compares inodes before it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub pid: i32,
    pub fd: i32,
    pub path: PathBuf,
}

/// Looks at the container of this `init`.
pub fn look(common: &Common, files: Selection, init: i32, processes: &[Process]) -> Result<Outlook, LookupError> {
    let (scope, limit, included) = (files.scope, files.limit, files.named.include.clone());
    let ours = describe::our_folders(common, &common.runtime_dir);
    let rules = Rules::of_this_container(init, ours, files).map_err(LookupError::Proc)?.with_names(&common.runtime_dir);
    let refused = used::check_included(&rules).err().map(|error| error.to_string());
    let mut outlook = Outlook { stay: rules.volumes(), included, refused, ..Outlook::default() };
    if scope == Scope::Open {
        return Ok(outlook);
    }
    match Survey::look(&rules) {
        Ok(survey) => {
            outlook.travel = groups::groups(survey.files(), GROUPS);
            outlook.databases = databases(processes, &survey);
            outlook.deleted = rules.deleted().len();
            outlook.may_miss_deletions = rules.may_miss_deletions();
            outlook.refused = outlook.refused.or(survey.check(limit).err().map(|error| error.to_string()));
        }
        Err(error) => outlook.refused = Some(error.to_string()),
    }
    Ok(outlook)
}

fn databases(processes: &[Process], survey: &Survey) -> Vec<Database> {
    let open = processes.iter().flat_map(|process| {
        let links = fd::links(process.pid).unwrap_or_default();
        links.into_iter().map(|(fd, path)| Database { pid: process.pid, fd, path })
    });
    let leased: HashSet<u64> = write_leases().into_iter().map(|(_, inode)| inode).collect();
    let may_open = |path: &Path| survey.changed.get(path).is_some_and(|stamp| !leased.contains(&stamp.inode.1));
    open.filter(|open| may_open(&open.path) && is_database(&open.path)).collect()
}

/// Opens nothing but a file: it would wait for a fifo's data, and take it away from the service.
fn is_database(path: &Path) -> bool {
    let mut start = [0; WRITE_VERSION + 1];
    let mut read =
        || fs::symlink_metadata(path)?.is_file().then(|| File::open(path)?.read_exact(&mut start)).transpose();
    matches!(read(), Ok(Some(()))) && start.starts_with(SQLITE) && start[WRITE_VERSION] == ROLLBACK
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::files::survey::Stamp;
    use crate::proc::tree;

    #[test]
    fn an_open_database_that_compares_inodes_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let start = |version: u8| [&SQLITE[..], &[16, 0, version, version]].concat();
        let mut survey = Survey::default();
        let mut open = Vec::new();
        for (name, content) in
            [("rollback", start(ROLLBACK)), ("wal", start(2)), ("short", SQLITE.to_vec()), ("stays", start(1))]
        {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            if name != "stays" {
                survey.changed.insert(path.clone(), Stamp::of(&path.metadata().unwrap()));
            }
            open.push(File::open(path).unwrap());
        }
        let fifo = folder.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        survey.changed.insert(fifo.clone(), Stamp::of(&fifo.metadata().unwrap()));
        let mut held = File::options().read(true).write(true).open(&fifo).unwrap();
        std::io::Write::write_all(&mut held, &start(ROLLBACK)).unwrap();
        open.push(held);
        let found = databases(&[tree::read(std::process::id() as i32).unwrap()], &survey);
        assert_eq!(found.into_iter().map(|it| it.path).collect::<Vec<_>>(), [folder.path().join("rollback")]);
    }
}
