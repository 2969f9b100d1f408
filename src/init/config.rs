//! Init's configuration, and the parsers of its values. An invalid value is refused with one sentence.

use std::{ffi::CString, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;

use super::isolate::Isolate;
use crate::files::selection::Selection;
use crate::host::clock::Policy;
use crate::image::KeyFiles;
use crate::job::{Choice, OnFailure, Standby, VolumeChanged};
use crate::store::Location;
use crate::sys::signals::{self, Signal};

#[derive(Debug, Clone)]
pub struct Config {
    /// The service's program and arguments; never empty.
    pub command: Vec<CString>,
    /// For workers: init opens neither the store nor its keys.
    pub store: Location,
    pub keys: KeyFiles,
    /// Folder for the control socket; `None` for the first usable default.
    pub runtime_dir: Option<PathBuf>,
    pub isolate: Isolate,
    /// PID of the subreaper, the root of the service's tree, if it is free. Lower ones are left to init, workers
    /// and execs.
    pub first_pid: i32,
    /// Signals to replace by others; 0 as a target drops the signal.
    pub rewrites: Vec<Pair<SignalArg>>,
    /// Signals go to the service's process group instead of its first process.
    pub to_group: bool,
    /// How long after a forwarded SIGTERM the service is killed.
    pub kill_timeout: Option<Duration>,
    pub remap_exit: Vec<Pair<u8>>,
    /// Signal that init gets when its parent dies.
    pub parent_death_signal: Option<SignalArg>,
    /// Exit status after a checkpoint that ended the service.
    pub checkpointed_status: u8,
    pub checkpoint_timeout: Duration,
    pub restore_timeout: Duration,
    /// Which files a checkpoint captures.
    pub files: Selection,
    /// Lets a checkpoint end the service although the store is lost with the container.
    pub ephemeral_store: bool,
    /// Most bytes of page data in a worker's memory.
    pub memory: u64,
    /// Name of this container; stays the same when it is started again.
    pub instance: String,
    /// Signal that asks for a checkpoint; with `None` all signals are the service's.
    pub checkpoint_signal: Option<Signal>,
    pub on_term: OnTerm,
    /// How long the orchestrator waits after SIGTERM before it kills the container.
    pub term_grace: Duration,
    /// Interval of checkpoints that no request asks for.
    pub every: Option<Duration>,
    pub hooks: Hooks,
    pub restore: Choice,
    pub restore_failure: OnFailure,
    pub volume_changed: VolumeChanged,
    pub clock: Policy,
    pub standby: Standby,
    /// Heartbeat interval of an exclusive container; `None` if it is not exclusive.
    pub exclusive: Option<Duration>,
    /// File for traces; `None` for none.
    pub trace: Option<PathBuf>,
}

/// What SIGTERM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnTerm {
    /// Checkpoint the service and end it; if that fails or takes too long, send the service SIGTERM
    Checkpoint,
    /// Pass SIGTERM on to the service
    Forward,
}

/// What to run or signal at the steps of a checkpoint or restore.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Before the service is frozen.
    pub before_checkpoint: Option<Hook>,
    /// When a checkpoint has succeeded or failed.
    pub after_checkpoint: Option<Hook>,
    pub on_restore: Option<Hook>,
    /// When the service runs, started or restored.
    pub on_app_ready: Option<Hook>,
    /// Time limit of each.
    pub timeout: Duration,
    /// A checkpoint goes on if its `before_checkpoint` hook fails.
    pub may_fail: bool,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the service is frozen.
    BeforeCheckpoint,
    /// When a checkpoint has succeeded or failed.
    AfterCheckpoint,
    /// When the service was restored.
    OnRestore,
    /// When the service runs.
    OnAppReady,
}

impl Moment {
    pub fn name(self) -> &'static str {
        match self {
            Moment::BeforeCheckpoint => "before-checkpoint",
            Moment::AfterCheckpoint => "after-checkpoint",
            Moment::OnRestore => "on-restore",
            Moment::OnAppReady => "on-app-ready",
        }
    }
}

impl Hooks {
    pub fn at(&self, moment: Moment) -> Option<&Hook> {
        match moment {
            Moment::BeforeCheckpoint => self.before_checkpoint.as_ref(),
            Moment::AfterCheckpoint => self.after_checkpoint.as_ref(),
            Moment::OnRestore => self.on_restore.as_ref(),
            Moment::OnAppReady => self.on_app_ready.as_ref(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    Signal(Signal),
    /// A program and its arguments; never empty. No shell executes it.
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

/// Parses the value of `--restore`.
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

/// Whether a store certainly holds nothing: it is a folder that does not exist. The first start then executes
/// no worker.
pub fn is_missing(store: &Location) -> bool {
    let metadata = store.folder().ok().map(std::fs::symlink_metadata);
    matches!(metadata, Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound)
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    #[error("\"{0}\" is not a signal: give a name such as TERM or RTMIN+1, or a number from 1 to 64")]
    Signal(String),
    #[error("\"{0}\" does not have the form FROM:TO")]
    Pair(String),
    #[error("\"{0}\" is not an exit status: give a number from 0 to 255")]
    Status(String),
    /// SIGKILL, SIGSTOP and SIGCHLD.
    #[error("init never receives {0} from outside, so it cannot trigger a checkpoint")]
    NeverComes(String),
    #[error("\"{0}\" is not a hook: give a command with its arguments, quoted as for a shell, or signal:NAME")]
    Hook(String),
    #[error("\"{0}\" does not name a generation: give always, never, or the number of a generation")]
    Choice(String),
    #[error("\"{0}\" is not a size: give bytes, or a number with KiB, MiB or GiB, up to 1024 GiB")]
    Size(String),
    /// SIGKILL, SIGSTOP and SIGCHLD.
    #[error("init never receives {0} for the service, so --rewrite cannot use it")]
    NotForwarded(String),
}

/// `FROM:TO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<T> {
    pub from: T,
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
    /// Its number. 0 stands for no signal: as the target of a rewrite, or for `--checkpoint-signal`.
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

/// Parses RTMIN, RTMIN+N, RTMAX and RTMAX-N, as the C library counts them.
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

/// Parses a size of 1 byte to 1 TiB: a number, alone or with a unit such as MiB. Returns bytes.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    // A single letter is a power of two, as in Docker; bytesize takes it for a power of ten.
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
