//! Init: PID 1 of the container. Supervises the service; workers checkpoint and restore it.
//!
//! One thread that sleeps in poll(2). It never touches the network or the store, never waits for a client or
//! a worker, never allocates in proportion to outside input, and never panics: when it ends, the container
//! ends.

mod config;
mod forward;
mod hook;
pub(crate) mod isolate;
mod machine;
mod service;
mod supervisor;
mod tracers;
mod tree;
mod worker;

pub(crate) use config::{Config, Hook, Hooks, OnTerm, Pair, ParseError, SignalArg, parse_choice, parse_size};
pub(crate) use isolate::Isolate;

use crate::{
    control::{folder, protocol::Isolation, server::Server},
    exit,
    sys::{
        process, signals,
        stderr::{say, say_panics},
    },
};

/// A fatal error of init, before it starts the service.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    #[error("cannot receive signals: {0}")]
    Signals(std::io::Error),
}

/// Is init until the service has ended. Returns the exit status.
pub(crate) fn run(config: Config) -> u8 {
    say_panics();
    signals::hold();
    signals::default_sigchld();
    process::close_from(3);
    if let Some(signal) = config.parent_death_signal {
        process::on_parent_death(signal.0);
    }
    let isolation = (config.isolate == Isolate::Auto).then(isolate::enter);
    if std::process::id() != 1 {
        process::adopt_orphans();
        say(
            "warning: freeze is not PID 1 here: it reaps only orphans of its own service, and a restore fails if the service's PIDs are taken",
        );
    }
    match prepare(config, isolation) {
        Ok(mut supervisor) => supervisor.run(),
        Err(error) => {
            say(&error.to_string());
            exit::FATAL
        }
    }
}

fn prepare(config: Config, isolation: Option<Isolation>) -> Result<supervisor::Supervisor, InitError> {
    let signals = signals::SignalFd::new().map_err(InitError::Signals)?;
    let (runtime_dir, listener) = folder::listen(config.runtime_dir.as_deref())?;
    Ok(supervisor::Supervisor::new(config, isolation, runtime_dir, signals, Server::new(listener)))
}
