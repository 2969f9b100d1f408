//! What init is told at its start. Every value that cannot be used is refused by one sentence.

use std::{ffi::CString, path::PathBuf, str::FromStr, time::Duration};

use crate::image::KeyFiles;
use crate::store::Location;
use crate::sys::signals::{self, Signal};

/// Everything that `freeze run` can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The service's program and arguments; not empty.
    pub command: Vec<CString>,
    /// Where the store is, which init does not look into.
    pub store: Location,
    /// Where its key is, which init does not look into either.
    pub keys: KeyFiles,
    /// Folder for the control socket; `None` for the first usable one of the usual ones.
    pub runtime_dir: Option<PathBuf>,
    /// PID of the root of the service's tree, where this is PID 1.
    pub first_pid: i32,
    /// Signals to send in the place of others; to 0: not at all.
    pub rewrites: Vec<Pair<SignalArg>>,
    /// Send signals to the service's process group instead of its first process.
    pub to_group: bool,
    /// How long after a forwarded SIGTERM the service is killed.
    pub kill_timeout: Option<Duration>,
    /// Exit statuses to replace by others.
    pub remap_exit: Vec<Pair<u8>>,
    /// Signal to get at the death of init's parent.
    pub parent_death_signal: Option<SignalArg>,
    /// Exit status after a checkpoint that ended the service.
    pub checkpointed_status: u8,
    /// Time limit of a checkpoint.
    pub checkpoint_timeout: Duration,
    /// Time limit of a restore.
    pub restore_timeout: Duration,
    /// Files and folders to capture beside those that the service has open.
    pub include: Vec<PathBuf>,
    /// The most memory that page data may take in a worker, in bytes.
    pub memory: u64,
}

impl Config {
    /// The exit status to report for a service that ended with `code`.
    pub fn remapped(&self, code: u8) -> u8 {
        self.remap_exit.iter().find(|pair| pair.from == code).map_or(code, |pair| pair.to)
    }
}

/// Whether a store certainly holds nothing: it is a folder that does not exist. The first start needs no worker then.
pub fn is_missing(store: &str) -> bool {
    let path = store.strip_prefix("file:").map(|path| path.strip_prefix("//").unwrap_or(path));
    let metadata = path.filter(|path| path.starts_with('/')).map(std::fs::symlink_metadata);
    matches!(metadata, Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound)
}

/// Why a value is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// Neither a name nor a number of a signal.
    #[error("\"{0}\" is no signal: give a name such as TERM or RTMIN+1, or a number from 1 to 64")]
    Signal(String),
    /// No colon.
    #[error("\"{0}\" is not of the form FROM:TO")]
    Pair(String),
    /// Not 0 to 255.
    #[error("\"{0}\" is no exit status: give a number from 0 to 255")]
    Status(String),
    /// A size.
    #[error("\"{0}\" is no size: give bytes, or a number with KiB, MiB or GiB, up to 1024 GiB")]
    Size(String),
    /// SIGKILL, SIGSTOP and SIGCHLD.
    #[error("{0} never reaches freeze as a signal for the service, so it cannot be rewritten")]
    NotForwarded(String),
}

/// FROM:TO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<T> {
    /// What to replace.
    pub from: T,
    /// By what.
    pub to: T,
}

fn split(text: &str) -> Result<(&str, &str), ParseError> {
    text.split_once(':').ok_or_else(|| ParseError::Pair(text.to_owned()))
}

impl FromStr for Pair<SignalArg> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (from, to) = split(text)?;
        let signal: SignalArg = from.parse()?;
        if [libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD].contains(&signal.0) {
            return Err(ParseError::NotForwarded(from.to_owned()));
        }
        Ok(Pair { from: signal, to: if to == "0" { SignalArg(0) } else { to.parse()? } })
    }
}

impl FromStr for Pair<u8> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let status = |text: &str| text.parse().map_err(|_| ParseError::Status(text.to_owned()));
        let (from, to) = split(text)?;
        Ok(Pair { from: status(from)?, to: status(to)? })
    }
}

/// A signal by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalArg(
    /// Its number; 0 only as the target of a rewrite: none.
    pub Signal,
);

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

impl FromStr for SignalArg {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = if let Ok(number) = name.parse() {
            Some(number)
        } else if let Some(index) = NAMES.iter().position(|known| *known == name) {
            Signal::try_from(index + 1).ok()
        } else {
            real_time(name)
        };
        let valid = number.filter(|number| (1..=signals::MAX).contains(number));
        valid.map(SignalArg).ok_or_else(|| ParseError::Signal(text.to_owned()))
    }
}

/// RTMIN, RTMIN+N, RTMAX, RTMAX-N, as the C library counts them.
fn real_time(name: &str) -> Option<Signal> {
    let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(offset), _) => (libc::SIGRTMIN(), offset.strip_prefix('+').or(offset.is_empty().then_some("0"))?),
        (_, Some(offset)) => {
            (libc::SIGRTMAX(), offset.is_empty().then_some("0").or(offset.starts_with('-').then_some(offset))?)
        }
        _ => return None,
    };
    let signal = base.checked_add(offset.parse().ok()?)?;
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal).then_some(signal)
}

/// Reads a size in bytes: a number, alone or with KiB, MiB or GiB.
///
/// # Errors
/// [`ParseError::Size`].
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match lower.get(digits.len()..) {
        Some("" | "b") => Some(1),
        Some("k" | "kib") => Some(1 << 10),
        Some("m" | "mib") => Some(1 << 20),
        Some("g" | "gib") => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit: u64| digits.trim_end().parse::<u64>().ok()?.checked_mul(unit));
    bytes.filter(|bytes| (1..=1 << 40).contains(bytes)).ok_or_else(|| ParseError::Size(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("sigterm", 15),
            ("1", 1),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+1", 35),
            ("RTMAX-1", 63),
            ("SYS", 31),
        ] {
            assert_eq!(text.parse(), Ok(SignalArg(number)), "{text}");
        }
        for text in ["", "0", "65", "-1", "TERMINATE", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN+99999999999"] {
            assert!(text.parse::<SignalArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rewrite_may_drop_but_not_invent() {
        assert_eq!("15:QUIT".parse(), Ok(Pair { from: SignalArg(15), to: SignalArg(3) }));
        assert_eq!("HUP:0".parse(), Ok(Pair { from: SignalArg(1), to: SignalArg(0) }));
        for text in ["15", "0:15", "KILL:TERM", "CHLD:0", "15:", ":", "15:66"] {
            assert!(text.parse::<Pair<SignalArg>>().is_err(), "{text}");
        }
    }

    #[test]
    fn exit_statuses() {
        assert_eq!("143:0".parse(), Ok(Pair { from: 143u8, to: 0u8 }));
        for text in ["256:0", "143", "143:-1", "a:b"] {
            assert!(text.parse::<Pair<u8>>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_folder_that_does_not_exist_is_certainly_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert!(is_missing(&format!("file:{path}/store")) && is_missing(&format!("file://{path}/store")));
        for store in
            [format!("file:{path}"), "file:store".to_owned(), format!("file:{path}/\0"), "s3://bucket/x".to_owned()]
        {
            assert!(!is_missing(&store), "{store}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1 g"), Ok(1 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for text in ["", "0", "-1", "MiB", "1.5GiB", "99999999999GiB", "1TiB", "2048GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
