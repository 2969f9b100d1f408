//! Two files in the runtime folder. `env` is this container's environment, as a restored service keeps its
//! old one. `generation-id` changes with each start, so that a restored service can notice that and draw new
//! random numbers.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::image::Hex;

/// Lines that a shell can source.
const ENV: &str = "env";
/// 32 hexadecimal digits and a newline.
const GENERATION_ID: &str = "generation-id";

pub const FILES: [&str; 2] = [ENV, GENERATION_ID];

/// Writes both files, before a restored service runs. Only the container's user can read the environment, as
/// it may contain secrets.
pub(crate) fn write(runtime_dir: &Path) -> io::Result<()> {
    replace(runtime_dir, ENV, &lines(std::env::vars_os()), 0o600)?;
    write_generation_id(runtime_dir)
}

/// Writes a new generation ID. Ignores errors: only a service that reads the ID misses it.
pub fn renew_generation_id(runtime_dir: &Path) {
    let _ = write_generation_id(runtime_dir);
}

fn write_generation_id(runtime_dir: &Path) -> io::Result<()> {
    replace(runtime_dir, GENERATION_ID, format!("{}\n", Hex::<16>::random()).as_bytes(), 0o644)
}

/// Replaces a file atomically: a reader sees the old or the new content, whole.
fn replace(folder: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let new = folder.join(format!(".{name}.new"));
    let _ = fs::remove_file(&new);
    OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?.write_all(content)?;
    fs::rename(new, folder.join(name))
}

/// NAME='value' for each variable whose name is a shell identifier.
fn lines(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in variables.filter(|(name, _)| is_identifier(name.as_bytes())) {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"='");
        for &byte in value.as_bytes() {
            match byte {
                // A single quote cannot be escaped within single quotes: close them, escape it, reopen them.
                b'\'' => text.extend_from_slice(b"'\\''"),
                byte => text.push(byte),
            }
        }
        text.extend_from_slice(b"'\n");
    }
    text
}

fn is_identifier(name: &[u8]) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    !name.first().is_none_or(u8::is_ascii_digit) && name.iter().all(word)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_identifier_is_left_out() {
        let variables = ["A_1", "_", "1A", "A-B", "", "BASH_FUNC_f%%"].map(|name| (name.into(), "x".into()));
        assert_eq!(String::from_utf8(lines(variables.into_iter())).unwrap(), "A_1='x'\n_='x'\n");
    }

    #[test]
    fn the_identity_changes_and_the_environment_is_not_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let read = || {
            renew_generation_id(folder.path());
            fs::read_to_string(folder.path().join(GENERATION_ID)).unwrap()
        };
        let (one, two) = (read(), read());
        assert_ne!(one, two);
        assert_eq!((one.len(), one.trim_end().len()), (33, 32));
        write(folder.path()).unwrap();
        let mode = fs::metadata(folder.path().join(ENV)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_every_value_as_it_was(value in prop::collection::vec(1u8.., 0..64)) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("env");
            fs::write(&file, lines([("VALUE".into(), OsString::from_vec(value.clone()))].into_iter())).unwrap();
            let output = Command::new("sh").args(["-c", ". \"$0\"; printf %s \"$VALUE\""]).arg(&file).output().unwrap();
            prop_assert_eq!(output.stdout, value);
        }
    }
}
