//! Has the kernel save what processes have written to mapped files of volumes, for a checkpoint after which they run on.
//! The kernel gives a file a new time at the first write to a page that is saved, and none at the next ones; without this
//! a restore would not notice those ([`volume_changes`](super::volume_changes)).
//!
//! Waits for the disk while the service runs. While it stands still, the rest is only begun, within a limit.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::sys::writeback;

/// Time that the service may stand still for this. A disk that is busy with earlier pages may take longer.
const LIMIT: Duration = Duration::from_secs(1);

/// Nothing is wrong with the checkpoint itself.
#[derive(Debug, thiserror::Error)]
pub enum Unsaved {
    #[error(
        "{path} could not be saved to its disk at the checkpoint ({error}), so a restore may not notice what the service writes to it from now on; look after that disk"
    )]
    Failed { path: PathBuf, error: io::Error },
    #[error(
        "a disk did not take the service's mapped files within {} s at the checkpoint, so a restore may not notice what the service writes to them from now on",
        LIMIT.as_secs()
    )]
    Late,
}

/// Saves the files, however long that takes.
pub fn save(files: Vec<PathBuf>) -> Result<(), Unsaved> {
    each(files, File::sync_data)
}

/// Begins to save what has been written since.
pub fn begin(files: Vec<PathBuf>) -> Result<(), Unsaved> {
    if files.is_empty() { Ok(()) } else { within(LIMIT, move || each(files, writeback::start)) }
}

fn each(files: Vec<PathBuf>, act: fn(&File) -> io::Result<()>) -> Result<(), Unsaved> {
    // One that is gone, or that the user may not open, has no disk to look after.
    let open = files.into_iter().filter_map(|path| Some((File::open(&path).ok()?, path)));
    open.map(|(file, path)| act(&file).map_err(|error| Unsaved::Failed { path, error })).fold(Ok(()), Result::and)
}

fn within(limit: Duration, act: impl FnOnce() -> Result<(), Unsaved> + Send + 'static) -> Result<(), Unsaved> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(act()));
    receiver.recv_timeout(limit).unwrap_or(Err(Unsaved::Late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_saved_and_the_first_failure_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["one", "none", "two"].map(|name| folder.path().join(name));
        for path in [&paths[0], &paths[2]] {
            std::fs::write(path, "").unwrap();
        }
        save(paths.to_vec()).unwrap();
        begin(paths.to_vec()).unwrap();
        let full = |_: &File| Err(io::ErrorKind::StorageFull.into());
        let said = each(paths.to_vec(), full).unwrap_err().to_string().replace(folder.path().to_str().unwrap(), "");
        insta::assert_snapshot!(said, @"/one could not be saved to its disk at the checkpoint (no storage space), so a restore may not notice what the service writes to it from now on; look after that disk");
    }

    #[test]
    fn a_disk_that_does_not_answer_is_left_alone() {
        let (forever, wait) = mpsc::channel::<()>();
        let late = within(Duration::from_millis(1), move || wait.recv().or(Ok(())));
        insta::assert_snapshot!(late.unwrap_err(), @"a disk did not take the service's mapped files within 1 s at the checkpoint, so a restore may not notice what the service writes to them from now on");
        drop(forever);
        within(Duration::from_secs(60), || Ok(())).unwrap();
    }
}
