//! Decides whether to restore a generation whose files on volumes have changed since (`--volume-changed`). Changes
//! nothing.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use crate::files::mounts::Mounts;
use crate::files::volume_changes::{self, Change};
use crate::image::Manifest;
use crate::job::VolumeChanged;
use crate::restore::error::RestoreError;

/// What follows, with the sentence for the user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Unchanged,
    /// Nothing is run.
    Refuse(String),
    /// The command is started.
    Start(String),
    /// The generation is restored all the same, with these files that have grown.
    Restore {
        message: String,
        longer: Vec<PathBuf>,
    },
}

/// Compares the files and applies the policy.
pub(super) fn decide(manifest: &Manifest, mounts: &Mounts, policy: VolumeChanged) -> Decision {
    judge(manifest, &volume_changes::changes(manifest, mounts), policy)
}

/// One sentence for each file that has changed since, for the doctor.
///
/// # Errors
/// If freeze cannot look.
pub(crate) fn changed(manifest: &Manifest) -> Result<Vec<String>, RestoreError> {
    if manifest.volume_files.is_empty() && manifest.files.is_empty() {
        return Ok(Vec::new());
    }
    let mounts = Mounts::read().map_err(RestoreError::Volumes)?;
    Ok(volume_changes::changes(manifest, &mounts).iter().map(ToString::to_string).collect())
}

/// Says which files a restore overwrites on a file system that the containers of a pod share.
pub(super) fn overwritten(manifest: &Manifest, mounts: &Mounts) -> Option<String> {
    let what = sum_up(volume_changes::overwritten(manifest, mounts).iter())?;
    Some(format!(
        "{what}: generation {} has it too, so its content of then takes the place; to keep what this pod writes there, \
         leave the folder out of checkpoints (--exclude)",
        manifest.generation
    ))
}

fn judge(manifest: &Manifest, changes: &[Change], policy: VolumeChanged) -> Decision {
    let Some(what) = sum_up(changes.iter()) else { return Decision::Unchanged };
    let number = manifest.generation;
    let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(manifest.created_ms));
    match policy {
        VolumeChanged::Start => Decision::Start(format!(
            "starting the command afresh beside its volume instead of restoring generation {number} of {at}: {what}"
        )),
        VolumeChanged::Refuse => Decision::Refuse(format!(
            "{what}. Generation {number} is of {at}, and a service that goes on from there may damage newer data. \
             Choose --volume-changed start (begin afresh with the volume as it is: databases) or restore (go on all \
             the same: logs)"
        )),
        VolumeChanged::Restore => match sum_up(changes.iter().filter(|change| !change.can_go_on)) {
            None => Decision::Restore {
                message: format!("generation {number} of {at} is restored beside newer files: {what}"),
                longer: changes.iter().filter(|change| change.is_longer()).map(|change| change.path.clone()).collect(),
            },
            Some(what) => Decision::Refuse(format!(
                "{what}. Not even --volume-changed restore can go on with it: the service can keep a file \
                 open only if its size is equal, or if the service appends to it and it has grown. Put back the \
                 volume of generation {number}, or choose --volume-changed start"
            )),
        },
    }
}

/// The first, and how many more. None for none.
fn sum_up<'a>(mut changes: impl Iterator<Item = &'a Change>) -> Option<String> {
    let mut text = changes.next()?.to_string();
    let more = changes.count();
    if more > 0 {
        let _ = write!(text, " (and {more} more: `freeze doctor --for GENERATION` lists them)");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::image::VolumeFile;

    /// What is decided of a log of five bytes, of 2001, that has more or fewer now.
    fn decided(policy: VolumeChanged, content: &str, files: usize) -> Decision {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("log");
        std::fs::write(&at, content).unwrap();
        let modified = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        std::fs::File::options().write(true).open(&at).unwrap().set_modified(modified).unwrap();
        let path = at.as_os_str().as_bytes().to_vec();
        let log = VolumeFile { path, size: 5, mtime_ns: 999_999_999, appended: true, ..VolumeFile::default() };
        let volume_files = vec![log; files].into_iter().enumerate().map(|(number, log)| {
            let up = "/..".repeat(number);
            VolumeFile { path: [up.as_bytes(), &log.path].concat(), ..log }
        });
        let manifest = Manifest {
            generation: 7,
            created_ms: 999_999_999_000,
            volume_files: volume_files.collect(),
            ..Manifest::default()
        };
        let plain = |text: String| text.replace(at.to_str().unwrap(), "/data/log");
        match decide(&manifest, &Mounts::read().unwrap(), policy) {
            Decision::Unchanged => Decision::Unchanged,
            Decision::Refuse(text) => Decision::Refuse(plain(text)),
            Decision::Start(text) => Decision::Start(plain(text)),
            Decision::Restore { message, longer } => {
                assert_eq!(longer, std::slice::from_ref(&at));
                Decision::Restore { message: plain(message), longer: vec![] }
            }
        }
    }

    #[test]
    fn nothing_recorded_is_nothing_changed() {
        assert_eq!(decided(VolumeChanged::Refuse, "12345", 0), Decision::Unchanged);
    }

    #[test]
    fn each_policy_has_its_sentence() {
        let text = |policy, content| format!("{:?}", decided(policy, content, 1));
        insta::assert_snapshot!(text(VolumeChanged::Refuse, "123456"), @r#"Refuse("/data/log has changed since the checkpoint: 5 bytes then, 6 now, written at 2001-09-09T01:46:40Z. Generation 7 is of 2001-09-09T01:46:39Z, and a service that goes on from there may damage newer data. Choose --volume-changed start (begin afresh with the volume as it is: databases) or restore (go on all the same: logs)")"#);
        insta::assert_snapshot!(text(VolumeChanged::Start, "123456"), @r#"Start("starting the command afresh beside its volume instead of restoring generation 7 of 2001-09-09T01:46:39Z: /data/log has changed since the checkpoint: 5 bytes then, 6 now, written at 2001-09-09T01:46:40Z")"#);
        insta::assert_snapshot!(text(VolumeChanged::Restore, "123456"), @r#"Restore { message: "generation 7 of 2001-09-09T01:46:39Z is restored beside newer files: /data/log has changed since the checkpoint: 5 bytes then, 6 now, written at 2001-09-09T01:46:40Z", longer: [] }"#);
        insta::assert_snapshot!(text(VolumeChanged::Restore, "1234"), @r#"Refuse("/data/log has changed since the checkpoint: 5 bytes then, 4 now, written at 2001-09-09T01:46:40Z. Not even --volume-changed restore can go on with it: the service can keep a file open only if its size is equal, or if the service appends to it and it has grown. Put back the volume of generation 7, or choose --volume-changed start")"#);
    }

    #[test]
    fn of_many_files_the_first_is_said() {
        let Decision::Refuse(text) = decided(VolumeChanged::Refuse, "1", 3) else { panic!("it is not refused") };
        assert!(text.contains("(and 2 more: `freeze doctor --for GENERATION` lists them). Generation 7"), "{text}");
    }
}
