//! `freeze run`: be init.

use std::{
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt,
    path::{Component, PathBuf},
    time::Duration,
};

use clap::builder::FalseyValueParser;

use crate::{
    control::protocol::MAX_LINE,
    exit,
    image::KeyFiles,
    init::{self, Config, Pair, SignalArg, parse_size},
    store::{self, Location},
};

/// Most bytes of paths to include: they have to fit into one line to a worker.
const MAX_INCLUDE: usize = MAX_LINE / 2;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: Location,
    #[command(flatten)]
    keys: KeyFiles,
    #[command(flatten)]
    folder: super::Folder,
    /// First PID of the service: those below are left to init and to what is executed from outside
    #[arg(long, env = "FREEZE_FIRST_PID", value_name = "PID", default_value_t = 1000,
          value_parser = clap::value_parser!(i32).range(2..4_194_000))]
    first_pid: i32,
    /// Send the service signal TO where FROM comes, or none where TO is 0
    #[arg(long, env = "FREEZE_REWRITE", value_name = "FROM:TO", value_delimiter = ',')]
    rewrite: Vec<Pair<SignalArg>>,
    /// Send signals to the service's process group instead of its first process
    #[arg(long, env = "FREEZE_TO_GROUP", value_parser = FalseyValueParser::new())]
    to_group: bool,
    /// Kill the service where it has not ended this long after SIGTERM
    #[arg(long, env = "FREEZE_KILL_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    kill_timeout: Option<Duration>,
    /// Exit with status TO where the service exits with FROM
    #[arg(long, env = "FREEZE_REMAP_EXIT", value_name = "FROM:TO", value_delimiter = ',')]
    remap_exit: Vec<Pair<u8>>,
    /// Get this signal when the process that started freeze dies
    #[arg(long, env = "FREEZE_PARENT_DEATH_SIGNAL", value_name = "SIGNAL")]
    parent_death_signal: Option<SignalArg>,
    /// Exit status after a checkpoint that ended the service
    #[arg(long, env = "FREEZE_CHECKPOINTED_STATUS", value_name = "STATUS", default_value_t = exit::CHECKPOINTED)]
    checkpointed_status: u8,
    /// Give up a checkpoint after this time; the service runs on
    #[arg(long, env = "FREEZE_CHECKPOINT_TIMEOUT", value_name = "DURATION", default_value = "10min", value_parser = humantime::parse_duration)]
    checkpoint_timeout: Duration,
    /// Give up a restore after this time
    #[arg(long, env = "FREEZE_RESTORE_TIMEOUT", value_name = "DURATION", default_value = "10min", value_parser = humantime::parse_duration)]
    restore_timeout: Duration,
    /// Checkpoint this file or folder too, beside those that the service has open
    #[arg(long, alias = "preserve-path", env = "FREEZE_INCLUDE", value_name = "PATH", value_delimiter = ',')]
    include: Vec<PathBuf>,
    /// The most memory that page data may take during a checkpoint or restore
    #[arg(long, env = "FREEZE_MEMORY_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    memory_limit: u64,
    /// The service's program and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Returns the exit status of init.
pub fn main(arguments: Arguments) -> u8 {
    let command: Result<Vec<_>, _> = arguments.command.into_iter().map(|text| CString::new(text.into_vec())).collect();
    let Ok(command) = command else {
        super::say("the command holds a NUL byte, which no program can be given");
        return exit::USAGE;
    };
    if let Err(error) = store::open(&arguments.store) {
        super::say(&error.to_string());
        return exit::USAGE;
    }
    let include: Vec<PathBuf> = arguments.include.into_iter().map(plain).collect();
    if let Some(path) = include.iter().find(|path| path.components().any(|part| part == Component::ParentDir)) {
        super::say(&format!("--include {}: give the path without \"..\"", path.display()));
        return exit::USAGE;
    }
    if include.iter().map(|path| path.as_os_str().len() + 4).sum::<usize>() > MAX_INCLUDE {
        super::say(&format!("--include names more than {MAX_INCLUDE} bytes of paths: name the folders above them"));
        return exit::USAGE;
    }
    // Init leaves the folder that it was started in.
    let mut store = arguments.store;
    store.s3_ca_file = store.s3_ca_file.map(plain);
    init::run(Config {
        command,
        store,
        keys: arguments.keys.map(plain),
        runtime_dir: arguments.folder.runtime_dir.map(plain),
        first_pid: arguments.first_pid,
        rewrites: arguments.rewrite,
        to_group: arguments.to_group,
        kill_timeout: arguments.kill_timeout,
        remap_exit: arguments.remap_exit,
        parent_death_signal: arguments.parent_death_signal,
        checkpointed_status: arguments.checkpointed_status,
        checkpoint_timeout: arguments.checkpoint_timeout,
        restore_timeout: arguments.restore_timeout,
        include,
        memory: arguments.memory_limit,
    })
}

/// A path as the kernel shows it: absolute, without a slash at its end.
fn plain(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
