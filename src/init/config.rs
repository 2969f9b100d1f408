//! What init is told at its start. Every value that cannot be used is refused by one sentence.

use std::{ffi::CString, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;

use super::{isolate::Isolate, machine::Moment};
use crate::image::KeyFiles;
use crate::job::{Choice, OnFailure, Standby};
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
    /// Whether init makes namespaces for itself and the service.
    pub isolate: Isolate,
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
    /// A checkpoint may end the service although its store goes with the container.
    pub ephemeral_store: bool,
    /// The most memory that page data may take in a worker, in bytes.
    pub memory: u64,
    /// Names this container, also after it was started again.
    pub instance: String,
    /// Signal that asks for a checkpoint; `None` where all are the service's.
    pub checkpoint_signal: Option<Signal>,
    /// What SIGTERM does.
    pub on_term: OnTerm,
    /// How long the orchestrator waits after SIGTERM before it kills the container.
    pub term_grace: Duration,
    /// Time between two checkpoints that nobody asks for.
    pub every: Option<Duration>,
    /// What to run or signal beside the steps of a checkpoint and restore.
    pub hooks: Hooks,
    /// Which generation to restore.
    pub restore: Choice,
    /// What to do where that cannot be restored.
    pub restore_failure: OnFailure,
    /// How to wait for a generation.
    pub standby: Standby,
    /// Let only one container have the application, which looks so often.
    pub exclusive: Option<Duration>,
}

/// What SIGTERM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnTerm {
    /// Checkpoint the service and end it; where that cannot be done in time, send the service SIGTERM
    Checkpoint,
    /// Send the service SIGTERM
    Forward,
}

/// What to run or signal beside the steps of a checkpoint and restore.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Before the service is frozen.
    pub before_checkpoint: Option<Hook>,
    /// When a checkpoint has succeeded or failed.
    pub after_checkpoint: Option<Hook>,
    /// When the service was restored.
    pub on_restore: Option<Hook>,
    /// When the service runs, started or restored.
    pub on_app_ready: Option<Hook>,
    /// How long each may take.
    pub timeout: Duration,
    /// A checkpoint goes on where its hook before it has failed.
    pub may_fail: bool,
}

impl Hooks {
    /// The hook of a moment.
    pub fn at(&self, moment: Moment) -> Option<&Hook> {
        match moment {
            Moment::BeforeCheckpoint => self.before_checkpoint.as_ref(),
            Moment::AfterCheckpoint => self.after_checkpoint.as_ref(),
            Moment::OnRestore => self.on_restore.as_ref(),
            Moment::OnAppReady => self.on_app_ready.as_ref(),
        }
    }
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// A signal to the service.
    Signal(Signal),
    /// A program and its arguments, not empty; no shell is needed.
    Command(Vec<CString>),
}

impl FromStr for Hook {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(signal) = text.strip_prefix("signal:") {
            return Ok(Hook::Signal(signal.parse::<SignalArg>()?.0));
        }
        let words = shlex::split(text).filter(|words| !words.is_empty());
        let words = words.map(|words| words.into_iter().map(CString::new).collect::<Result<_, _>>());
        match words {
            Some(Ok(words)) => Ok(Hook::Command(words)),
            _ => Err(ParseError::Hook(text.to_owned())),
        }
    }
}

/// Reads a choice of `--restore`.
///
/// # Errors
/// [`ParseError::Choice`].
pub fn parse_choice(text: &str) -> Result<Choice, ParseError> {
    match text {
        "always" => Ok(Choice::Newest),
        "never" => Ok(Choice::Never),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(Choice::Generation(number)),
            _ => Err(ParseError::Choice(text.to_owned())),
        },
    }
}

impl Config {
    /// The exit status to report for a service that ended with `code`.
    pub fn remapped(&self, code: u8) -> u8 {
        self.remap_exit.iter().find(|pair| pair.from == code).map_or(code, |pair| pair.to)
    }
}

/// Whether a store certainly holds nothing: it is a folder that does not exist. The first start needs no worker then.
pub fn is_missing(store: &Location) -> bool {
    let metadata = store.folder().ok().map(std::fs::symlink_metadata);
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
    /// SIGKILL, SIGSTOP and SIGCHLD.
    #[error("{0} never reaches freeze as a signal from outside, so it cannot ask for a checkpoint")]
    NeverComes(String),
    /// A hook.
    #[error("\"{0}\" is no hook: give a command with its arguments, quoted as for a shell, or signal:NAME")]
    Hook(String),
    /// Which generation.
    #[error("\"{0}\" says no generation: give always, never, or the number of a generation")]
    Choice(String),
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
    // A letter alone is a power of two, as Docker has it; bytesize takes it for a power of ten.
    let unit = if text.ends_with(['k', 'm', 'g', 't', 'K', 'M', 'G', 'T']) { "iB" } else { "" };
    let bytes = format!("{text}{unit}").parse().map(|ByteSize(bytes)| bytes);
    bytes.ok().filter(|bytes| (1..=1 << 40).contains(bytes)).ok_or_else(|| ParseError::Size(text.to_owned()))
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
        let is_missing = |url: &str| super::is_missing(&Location::at(url));
        assert!(is_missing(&format!("file:{path}/store")) && is_missing(&format!("file://{path}/store")));
        for store in
            [format!("file:{path}"), "file:store".to_owned(), format!("file:{path}/\0"), "s3://bucket/x".to_owned()]
        {
            assert!(!is_missing(&store), "{store}");
        }
    }

    #[test]
    fn a_hook_is_a_signal_or_words() {
        assert_eq!("signal:USR1".parse(), Ok(Hook::Signal(10)));
        let words = ["/bin/say", "it's ready", ""].map(|word| CString::new(word).unwrap());
        assert_eq!(r#"/bin/say "it's ready" '' "#.parse(), Ok(Hook::Command(words.into())));
        for text in ["", "  ", "signal:", "signal:NONE", "say 'it", "a\0b"] {
            assert!(text.parse::<Hook>().is_err(), "{text}");
        }
    }

    #[test]
    fn choices() {
        assert_eq!(parse_choice("always"), Ok(Choice::Newest));
        assert_eq!(parse_choice("never"), Ok(Choice::Never));
        assert_eq!(parse_choice("12"), Ok(Choice::Generation(12)));
        for text in ["", "0", "-1", "newest", "1.5"] {
            assert!(parse_choice(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!([parse_size("1 g"), parse_size("1K")], [Ok(1 << 30), Ok(1 << 10)]);
        assert_eq!([parse_size("4096"), parse_size("4096b")], [Ok(4096), Ok(4096)]);
        assert_eq!([parse_size("1.5GiB"), parse_size("1t")], [Ok(3 << 29), Ok(1 << 40)]);
        for text in ["", "0", "-1", "MiB", "g", "1 XiB", "1MiBk", "99999999999GiB", "1025GiB", "2TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
