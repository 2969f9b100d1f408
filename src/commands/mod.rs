//! The command line: one verb, one file. Must do nothing itself but read it and hand over.

mod cancel;
mod checkpoint;
mod copy;
mod doctor;
mod extract;
mod inspect;
mod install;
mod list;
mod migrate;
mod progress;
mod prune;
mod rekey;
mod run;
mod status;
mod text;
mod verify;
mod wait;
mod worker;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    control::{client::ClientError, protocol::Event},
    exit,
    image::{ImageError, KeyFiles, Vault},
    store::{self, Location},
    sys::process,
    upkeep::UpkeepError,
};

/// Checkpoints a container's service without privileges and restores it in another container.
#[derive(Debug, Parser)]
#[command(name = "freeze", version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Be the container's init: restore the newest checkpoint, or start COMMAND where there is none
    #[command(after_help = exit::help("run"))]
    Run(Box<run::Arguments>),
    /// Checkpoint the running service into the store
    #[command(after_help = exit::help("checkpoint"))]
    Checkpoint(checkpoint::Arguments),
    /// Give up the checkpoint that is under way, or take back a handover that nobody has taken
    #[command(after_help = exit::help("cancel"))]
    Cancel(cancel::Arguments),
    /// Say what init is doing, and how the last checkpoint and restore went
    #[command(after_help = exit::help("status"))]
    Status(status::Arguments),
    /// Wait until init has come so far
    #[command(after_help = exit::help("wait"))]
    Wait(wait::Arguments),
    /// Move a running service into another container, from anywhere
    #[command(after_help = exit::help("migrate"))]
    Migrate(Box<migrate::Arguments>),
    /// List the checkpoints in a store
    List(list::Arguments),
    /// Change the passphrase or key of an encrypted store
    Rekey(rekey::Arguments),
    /// Show what is in a checkpoint: processes, memory, open files, sizes
    Inspect(inspect::Arguments),
    /// Read a store and say everything that is wrong with it
    Verify(verify::Arguments),
    /// Remove checkpoints that no longer need to be kept, and what only they need
    Prune(prune::Arguments),
    /// Write a checkpoint as plain files, which crit and a stock criu read
    Extract(extract::Arguments),
    /// Copy checkpoints into another store
    Copy(copy::Arguments),
    /// Copy freeze and its criu into a folder, such as a volume for an application's container
    Install(install::Arguments),
    /// Find out what works in this container, prove it, and say what to add for more
    #[command(after_help = exit::help("doctor"))]
    Doctor(doctor::Arguments),
    /// Be a process of the doctor's proof
    #[command(hide = true)]
    DoctorSubject(doctor::Subject),
    /// Do one checkpoint or restore for init
    #[command(hide = true)]
    Worker,
}

/// Where a client finds init.
#[derive(Debug, Args)]
struct Folder {
    /// Folder of init's control socket [default: the first of /run/freeze, /dev/shm/freeze, /tmp/freeze with one]
    #[arg(long, env = "FREEZE_RUNTIME_DIR", value_name = "FOLDER")]
    runtime_dir: Option<PathBuf>,
}

/// A store that is looked after from anywhere.
#[derive(Debug, Args)]
struct StoreArguments {
    #[command(flatten)]
    location: Location,
    #[command(flatten)]
    keys: KeyFiles,
}

impl StoreArguments {
    /// None where nothing was ever written to the store.
    fn open(&self) -> Result<Option<Vault>, ImageError> {
        Vault::open(store::open(&self.location)?, &self.keys)
    }

    /// One that holds something.
    fn open_full(&self) -> Result<Vault, UpkeepError> {
        self.open()?.ok_or_else(|| UpkeepError::Empty { url: self.location.url.clone() })
    }
}

/// Runs the command that the command line asks for, and gives its exit status.
pub fn main() -> ExitCode {
    // A manifest that sets a variable to nothing means that it is not set.
    process::forget_empty_variables("FREEZE_");
    ExitCode::from(match Cli::parse().verb {
        Verb::Run(arguments) => run::main(*arguments),
        Verb::Checkpoint(arguments) => checkpoint::main(&arguments),
        Verb::Cancel(arguments) => cancel::main(&arguments),
        Verb::Status(arguments) => status::main(&arguments),
        Verb::Wait(arguments) => wait::main(&arguments),
        Verb::Migrate(arguments) => migrate::main(*arguments),
        Verb::List(arguments) => list::main(&arguments),
        Verb::Rekey(arguments) => rekey::main(arguments),
        Verb::Inspect(arguments) => inspect::main(&arguments),
        Verb::Verify(arguments) => verify::main(&arguments),
        Verb::Prune(arguments) => prune::main(&arguments),
        Verb::Extract(arguments) => extract::main(&arguments),
        Verb::Copy(arguments) => copy::main(&arguments),
        Verb::Install(arguments) => install::main(&arguments),
        Verb::Doctor(arguments) => doctor::main(&arguments),
        Verb::DoctorSubject(arguments) => doctor::subject(&arguments),
        Verb::Worker => worker::main(),
    })
}

/// Prints what a command that looks after a store found, and gives its exit status.
fn finish(result: Result<String, UpkeepError>) -> u8 {
    match result {
        Ok(found) => text::print(&found),
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
    }
}

/// The exit status for a request that got no answer.
fn status_of(error: &ClientError) -> u8 {
    if matches!(error, ClientError::NoInit(_)) { exit::NO_INIT } else { exit::FAILED }
}

/// Says why init did not do what it was asked for, and gives the exit status for that.
fn refused(answer: &Event) -> u8 {
    match answer {
        Event::Failed { message, .. } => say(message),
        _ => say("init gave another answer than was asked for"),
    }
    exit::FAILED
}

/// An event as init sent it.
fn json(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

/// Tells the user something on standard error, which may be closed.
fn say(message: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("freeze: {message}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_option_is_documented_under_its_command() {
        let page = include_str!("../../docs/options.md");
        let sections: Vec<&str> = page.split("\n## ").collect();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let heading = format!("freeze {} ", command.get_name());
            let section =
                sections.iter().find(|section| section.lines().next().is_some_and(|line| line.contains(&heading)));
            let section = section.unwrap_or_else(|| panic!("no section for freeze {}", command.get_name()));
            for option in command.get_arguments() {
                let Some(long) = option.get_long() else { continue };
                let shared =
                    ["s3-endpoint", "s3-path-style", "s3-ca-file", "passphrase-file", "key-file"].contains(&long);
                let place = if shared { page } else { section };
                assert!(place.contains(&format!("`--{long}")), "{heading} --{long}");
                if let Some(variable) = option.get_env().and_then(|name| name.to_str()) {
                    assert!(page.contains(&format!("`{variable}`")), "{variable}");
                }
            }
        }
    }
}
