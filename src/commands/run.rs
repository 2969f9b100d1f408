//! `freeze run`: turns the command line into init's configuration and runs init.

use std::{
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::FalseyValueParser;
use clap::{Args, FromArgMatches};

use crate::control::protocol::{MAX_LINE, millis};
use crate::exit;
use crate::files::selection::{Named, Pattern, Scope, Selection};
use crate::host::clock::Policy;
use crate::image::KeyFiles;
use crate::init::{self, Config, Hook, Hooks, Isolate, OnTerm, Pair, ParseError, SignalArg, parse_choice, parse_size};
use crate::job::{Choice, OnFailure, Standby, VolumeChanged};
use crate::store::Location;

/// Most bytes of `--include` and `--exclude`: they must fit into the one line that a worker gets.
const MAX_FILE_OPTIONS: usize = MAX_LINE / 2;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: Location,
    #[command(flatten)]
    keys: KeyFiles,
    #[command(flatten)]
    folder: super::Folder,
    /// Whether to give init and the service namespaces of their own, in which clocks continue after a restore and freeze can choose PIDs
    #[arg(long, env = "FREEZE_ISOLATE", value_name = "WHETHER", default_value = "never")]
    isolate: Isolate,
    /// Lowest PID of the service's tree; lower PIDs are left to init, workers, probes and execs
    #[arg(long, env = "FREEZE_FIRST_PID", value_name = "PID", default_value_t = 1000,
          value_parser = clap::value_parser!(i32).range(2..4_194_000))]
    first_pid: i32,
    /// Send the service signal TO when init gets FROM; none if TO is 0
    #[arg(long, env = "FREEZE_REWRITE", value_name = "FROM:TO", value_delimiter = ',')]
    rewrite: Vec<Pair<SignalArg>>,
    /// Send signals to the service's process group instead of its first process
    #[arg(long, env = "FREEZE_TO_GROUP", value_parser = FalseyValueParser::new())]
    to_group: bool,
    /// Kill the service if it has not ended this long after SIGTERM
    #[arg(long, env = "FREEZE_KILL_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    kill_timeout: Option<Duration>,
    /// Exit with status TO if the service exits with FROM
    #[arg(long, env = "FREEZE_REMAP_EXIT", value_name = "FROM:TO", value_delimiter = ',')]
    remap_exit: Vec<Pair<u8>>,
    /// Get this signal when the process that started freeze dies
    #[arg(long, env = "FREEZE_PARENT_DEATH_SIGNAL", value_name = "SIGNAL")]
    parent_death_signal: Option<SignalArg>,
    /// Exit status after a checkpoint that ended the service
    #[arg(long, env = "FREEZE_CHECKPOINTED_STATUS", value_name = "STATUS", default_value_t = exit::CHECKPOINTED)]
    checkpointed_status: u8,
    /// Give up a checkpoint after this time; the service keeps running
    #[arg(long, env = "FREEZE_CHECKPOINT_TIMEOUT", value_name = "DURATION", default_value = "10min", value_parser = humantime::parse_duration)]
    checkpoint_timeout: Duration,
    /// Give up a restore after this time
    #[arg(long, env = "FREEZE_RESTORE_TIMEOUT", value_name = "DURATION", default_value = "10min", value_parser = humantime::parse_duration)]
    restore_timeout: Duration,
    #[command(flatten)]
    files: FileArguments,
    /// Allow a checkpoint to end the service although the store is deleted with the container
    #[arg(long, env = "FREEZE_EPHEMERAL_STORE", value_parser = FalseyValueParser::new())]
    ephemeral_store: bool,
    /// The most memory that page data may take during a checkpoint or restore
    #[arg(long, env = "FREEZE_MEMORY_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    memory_limit: u64,
    #[command(flatten)]
    triggers: Triggers,
    #[command(flatten)]
    hooks: HookArguments,
    #[command(flatten)]
    restore: RestoreArguments,
    /// Add a trace of each checkpoint and restore to this file; Perfetto opens it
    #[arg(long, env = "FREEZE_TRACE", value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The service's program and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Which files a checkpoint captures.
#[derive(Debug, clap::Args)]
struct FileArguments {
    /// Which files of the container travel with a checkpoint
    #[arg(long, env = "FREEZE_FILES", value_name = "WHICH", default_value = "changed")]
    files: Scope,
    /// The most that changed files may have together; a checkpoint with more is refused
    #[arg(long, env = "FREEZE_FILES_LIMIT", value_name = "SIZE", default_value = "4GiB", value_parser = parse_size)]
    files_limit: u64,
    /// Checkpoint this file or folder in any case, also on a volume
    #[arg(long, alias = "preserve-path", env = "FREEZE_INCLUDE", value_name = "PATH", value_delimiter = ',')]
    include: Vec<PathBuf>,
    /// Leave behind the files and folders of this path or name; it may have wildcards
    #[arg(long, env = "FREEZE_EXCLUDE", value_name = "GLOB", value_delimiter = ',')]
    exclude: Vec<Pattern>,
}

impl FileArguments {
    /// What a standby has fetched ahead is left behind, too.
    fn selection(self, standby_cache: &Path) -> Selection {
        let include = self.include.into_iter().map(plain).collect();
        let exclude = self.exclude.into_iter().chain(Pattern::of_path(standby_cache)).collect();
        Selection { scope: self.files, named: Named { include, exclude }, limit: self.files_limit }
    }
}

/// Triggers of a checkpoint besides `freeze checkpoint`.
#[derive(Debug, clap::Args)]
struct Triggers {
    /// Signal on which init checkpoints the service and ends it; 0 for none
    #[arg(long, env = "FREEZE_CHECKPOINT_SIGNAL", value_name = "SIGNAL", default_value = "RTMIN+1", value_parser = signal_or_none)]
    checkpoint_signal: SignalArg,
    /// What SIGTERM does
    #[arg(long, env = "FREEZE_ON_TERM", value_name = "WHAT", default_value = "forward")]
    on_term: OnTerm,
    /// How long the orchestrator waits after SIGTERM before it kills the container
    #[arg(long, env = "FREEZE_TERM_GRACE", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    term_grace: Duration,
    /// Checkpoint the service at this interval, and keep it running
    #[arg(long, env = "FREEZE_EVERY", value_name = "DURATION", value_parser = some_time)]
    every: Option<Duration>,
}

/// Commands, or signals to the service, at the steps of a checkpoint or restore.
#[derive(Debug, clap::Args)]
struct HookArguments {
    /// Before each checkpoint, run this command, or send the service a signal (signal:NAME)
    #[arg(long, env = "FREEZE_BEFORE_CHECKPOINT", value_name = "HOOK")]
    before_checkpoint: Option<Hook>,
    /// The same after each checkpoint, committed or not
    #[arg(long, env = "FREEZE_AFTER_CHECKPOINT", value_name = "HOOK")]
    after_checkpoint: Option<Hook>,
    /// The same after a restore, when the service runs
    #[arg(long, env = "FREEZE_ON_RESTORE", value_name = "HOOK")]
    on_restore: Option<Hook>,
    /// The same when the service runs, started or restored
    #[arg(long, env = "FREEZE_ON_APP_READY", value_name = "HOOK")]
    on_app_ready: Option<Hook>,
    /// Kill a hook after this time
    #[arg(long, env = "FREEZE_HOOK_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    hook_timeout: Duration,
    /// Take the checkpoint even if its --before-checkpoint hook fails
    #[arg(long, env = "FREEZE_HOOK_MAY_FAIL", value_parser = FalseyValueParser::new())]
    hook_may_fail: bool,
}

/// Which generation to restore, when, and in which container.
#[derive(Debug, clap::Args)]
struct RestoreArguments {
    /// Restore the newest generation (always), none (never), or this one
    #[arg(long, env = "FREEZE_RESTORE", value_name = "WHICH", default_value = "always", value_parser = parse_choice)]
    restore: Choice,
    /// The same as --restore never
    #[arg(long, hide = true, conflicts_with = "restore")]
    no_restore: bool,
    /// What to do if the restore fails
    #[arg(long, env = "FREEZE_RESTORE_FAILURE", value_name = "WHAT", default_value = "fail")]
    restore_failure: OnFailure,
    /// What to do if files on a volume have changed since the checkpoint
    #[arg(long, env = "FREEZE_VOLUME_CHANGED", value_name = "WHAT", default_value = "refuse")]
    volume_changed: VolumeChanged,
    /// What to do if the service's clocks would go back, because this host booted later
    #[arg(long, env = "FREEZE_CLOCK", value_name = "WHAT", default_value = "auto")]
    clock: Policy,
    /// Wait for a generation to be handed over, and restore it
    #[arg(long, env = "FREEZE_STANDBY", value_parser = FalseyValueParser::new())]
    standby: bool,
    /// How often a standby polls the store
    #[arg(long, env = "FREEZE_STANDBY_POLL", value_name = "DURATION", default_value = "1s", value_parser = some_time)]
    standby_poll: Duration,
    /// Folder for the packs that a standby fetches ahead
    #[arg(long, env = "FREEZE_STANDBY_CACHE", value_name = "FOLDER", default_value = "/tmp/freeze-cache")]
    standby_cache: PathBuf,
    /// Limit of what a standby fetches ahead
    #[arg(long, env = "FREEZE_STANDBY_CACHE_SIZE", value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    standby_cache_size: u64,
    /// Allow one container at a time to run the application: renew its lease at this interval, and end if another container has taken it
    #[arg(long, env = "FREEZE_EXCLUSIVE", value_name = "INTERVAL", num_args = 0..=1, require_equals = true,
          default_missing_value = "10s", value_parser = some_time)]
    exclusive: Option<Duration>,
    /// Name of this container in the store; keep it when the container is started again [default: the host name]
    #[arg(long, env = "FREEZE_INSTANCE", value_name = "NAME", value_parser = parse_instance)]
    instance: Option<String>,
}

fn signal_or_none(text: &str) -> Result<SignalArg, ParseError> {
    let signal = if text == "0" { SignalArg(0) } else { text.parse()? };
    if [libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD].contains(&signal.0) {
        return Err(ParseError::NeverComes(text.to_owned()));
    }
    Ok(signal)
}

/// Parses an interval. Refuses less than 1 ms, which would repeat an action without a pause.
fn some_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_millis(1) { Err("give 1ms or more".to_owned()) } else { Ok(time) }
}

/// Accepts 1 to 253 printable ASCII characters but no space: the name goes into store objects and log lines.
fn parse_instance(text: &str) -> Result<String, String> {
    let plain = (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { Ok(text.to_owned()) } else { Err("give 1 to 253 letters, digits and signs without spaces".to_owned()) }
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| parse_instance(name).is_ok()).unwrap_or_else(|| "localhost".to_owned())
}

/// What the command line of an init names, and for the rest this process's environment.
pub(super) struct OfInit {
    pub store: Location,
    pub keys: KeyFiles,
    pub files: Selection,
    pub isolate: Isolate,
    pub clock: Policy,
}

/// None if it cannot be understood.
pub(super) fn of_init(command_line: &[u8]) -> Option<OfInit> {
    let words = command_line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let command = Arguments::augment_args(clap::Command::new("run"));
    let matches = command.try_get_matches_from(words.skip_while(|word| word != "run")).ok()?;
    let arguments = Arguments::from_arg_matches(&matches).ok()?;
    let files = arguments.files.selection(&plain(arguments.restore.standby_cache));
    let (isolate, clock) = (arguments.isolate, arguments.restore.clock);
    Some(OfInit { store: arguments.store, keys: arguments.keys, files, isolate, clock })
}

/// What an init without options would do here.
pub(super) fn of_environment() -> Option<OfInit> {
    of_init(b"run\0true\0")
}

pub fn main(arguments: Arguments) -> u8 {
    let command: Result<Vec<_>, _> = arguments.command.into_iter().map(|text| CString::new(text.into_vec())).collect();
    let Ok(command) = command else {
        super::say("the command contains a NUL byte, which a program's arguments cannot contain");
        return exit::USAGE;
    };
    if let Err(error) = arguments.store.check() {
        super::say(&error.to_string());
        return exit::USAGE;
    }
    let files = arguments.files.selection(&plain(arguments.restore.standby_cache.clone()));
    if let Err(error) = files.named.check(MAX_FILE_OPTIONS) {
        super::say(&error.to_string());
        return exit::USAGE;
    }
    let Arguments { triggers, hooks, restore, .. } = arguments;
    // Relative paths are made absolute now: init changes its working directory later.
    let mut store = arguments.store;
    store.s3_ca_file = store.s3_ca_file.map(plain);
    init::run(Config {
        command,
        store,
        keys: arguments.keys.map(plain),
        runtime_dir: arguments.folder.runtime_dir.map(plain),
        isolate: arguments.isolate,
        first_pid: arguments.first_pid,
        rewrites: arguments.rewrite,
        to_group: arguments.to_group,
        kill_timeout: arguments.kill_timeout,
        remap_exit: arguments.remap_exit,
        parent_death_signal: arguments.parent_death_signal,
        checkpointed_status: arguments.checkpointed_status,
        checkpoint_timeout: arguments.checkpoint_timeout,
        restore_timeout: arguments.restore_timeout,
        files,
        ephemeral_store: arguments.ephemeral_store,
        memory: arguments.memory_limit,
        instance: restore.instance.unwrap_or_else(host_name),
        checkpoint_signal: Some(triggers.checkpoint_signal.0).filter(|signal| *signal != 0),
        on_term: triggers.on_term,
        term_grace: triggers.term_grace,
        every: triggers.every,
        hooks: Hooks {
            before_checkpoint: hooks.before_checkpoint,
            after_checkpoint: hooks.after_checkpoint,
            on_restore: hooks.on_restore,
            on_app_ready: hooks.on_app_ready,
            timeout: hooks.hook_timeout,
            may_fail: hooks.hook_may_fail,
        },
        restore: if restore.no_restore { Choice::Never } else { restore.restore },
        restore_failure: restore.restore_failure,
        volume_changed: restore.volume_changed,
        clock: restore.clock,
        standby: Standby {
            always: restore.standby,
            poll_ms: millis(restore.standby_poll),
            cache: plain(restore.standby_cache),
            cache_bytes: restore.standby_cache_size,
        },
        exclusive: restore.exclusive,
        trace: arguments.trace.map(plain),
    })
}

/// A path as the kernel shows it: absolute, without `.` and without double or trailing slashes.
pub(super) fn plain(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_init_does_is_known_from_its_command_line() {
        let line =
            b"/opt/freeze/freeze\0run\0--files-limit\x001k\0--exclude\0*.tmp\0--clock\0host\0--store\0file:/s\0app\0--files\0open\0";
        let OfInit { store, files, isolate, clock, .. } = of_init(line).unwrap();
        assert_eq!((store.url.as_str(), files.scope, files.limit), ("file:/s", Scope::Changed, 1024));
        assert_eq!((isolate, clock), (Isolate::Never, Policy::Host));
        assert_eq!(of_environment().unwrap().clock, Policy::Auto);
        assert_eq!(files.named.exclude, ["*.tmp", "/tmp/freeze-cache"].map(|pattern| pattern.parse().unwrap()));
        assert!(of_init(b"sleep\x0060\0").is_none() && of_init(b"freeze\0run\0--no-such-option\0app\0").is_none());
    }

    #[test]
    fn paths_are_made_plain() {
        let here = std::env::current_dir().unwrap();
        for (given, plain_path) in
            [("/data/", "/data".into()), ("/a//b/./c", "/a/b/c".into()), ("data", here.join("data"))]
        {
            assert_eq!(plain(given.into()), plain_path);
        }
    }
}
