//! The folder of a proof, which goes with it.

use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir};

/// Where it is tried, in this order, beside what the user names. Init's own folders lie there too, and are left alone.
const PARENTS: [&str; 3] = ["/run", "/dev/shm", "/tmp"];

/// No place for it.
#[derive(Debug, thiserror::Error)]
#[error("no folder can be written ({0}): mount a tmpfs at /run, /dev/shm or /tmp, or name a folder with --runtime-dir")]
pub struct NoFolder(String);

/// Makes one in the folder named, or else in the first of the usual places.
///
/// # Errors
/// [`NoFolder`], with what is wrong with each.
pub fn make(named: Option<&Path>) -> Result<TempDir, NoFolder> {
    match named {
        None => make_in(&PARENTS.map(PathBuf::from)),
        // `freeze run` makes the one that is named; this only has to show that it could.
        Some(folder) if folder.is_dir() => make_in(&[folder.to_owned()]),
        Some(folder) => make_in(&[folder.parent().unwrap_or(folder).to_owned()]),
    }
}

fn make_in(parents: &[PathBuf]) -> Result<TempDir, NoFolder> {
    let mut reasons = Vec::new();
    for parent in parents {
        match Builder::new().prefix("freeze-doctor-").tempdir_in(parent) {
            Ok(folder) => return Ok(folder),
            // The error itself names the folder that was to be made, at random.
            Err(error) => reasons.push(format!("{}: {}", parent.display(), error.kind())),
        }
    }
    Err(NoFolder(reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_written_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let made = make_in(&["/proc".into(), folder.path().into(), "/tmp".into()]).unwrap();
        assert_eq!(made.path().parent(), Some(folder.path()));
    }

    #[test]
    fn one_that_is_still_to_be_made_stands_for_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(make(Some(folder.path())).unwrap().path().parent(), Some(folder.path()));
        let named = folder.path().join("freeze");
        assert_eq!(make(Some(&named)).unwrap().path().parent(), Some(folder.path()));
        assert!(!named.exists());
    }

    #[test]
    fn where_there_is_none_each_reason_is_said() {
        insta::assert_snapshot!(
            make_in(&["/proc".into(), "/nonexistent".into()]).unwrap_err(),
            @"no folder can be written (/proc: entity not found; /nonexistent: entity not found): mount a tmpfs at /run, /dev/shm or /tmp, or name a folder with --runtime-dir"
        );
    }
}
