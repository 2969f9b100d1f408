//! The command line, one file a verb. A verb reads its arguments, calls a lower layer and prints; it never
//! does the work itself. Its `main` returns the exit status.

mod cancel;
mod checkpoint;
mod copy;
mod count_pids;
mod doctor;
mod extract;
mod generate;
mod inspect;
mod install;
mod list;
mod migrate;
mod progress;
mod prune;
mod recorder;
mod rekey;
mod run;
mod shared;
mod status;
mod text;
mod tracer;
mod verify;
mod wait;
mod worker;

use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser, Subcommand};

use crate::exit;
use crate::image::layout;
use crate::sys::{process, signals};
use shared::{Folder, StoreArguments, finish, json, refused, status_of};
use text::say;

/// What `--version` prints: also the CRIU that freeze is made for, and the format of the stores that it writes.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let (freeze, criu) = (env!("CARGO_PKG_VERSION"), env!("FREEZE_CRIU_VERSION"));
    format!("{freeze}\ncriu {criu}, patched\nstore format {}", layout::VERSION)
});

/// Checkpoints a container's service without privileges and restores it in another container.
#[derive(Debug, Parser)]
#[command(name = "freeze", version, long_version = LONG_VERSION.as_str(), about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run as the container's init: restore the newest checkpoint, or start COMMAND if there is none
    #[command(after_help = exit::help("run"))]
    Run(Box<run::Arguments>),
    /// Checkpoint the running service into the store
    #[command(after_help = exit::help("checkpoint"))]
    Checkpoint(checkpoint::Arguments),
    /// Cancel the checkpoint in progress, or withdraw a handover that no container has taken
    #[command(after_help = exit::help("cancel"))]
    Cancel(cancel::Arguments),
    /// Print what init is doing, and how the last checkpoint and restore went
    #[command(after_help = exit::help("status"))]
    Status(status::Arguments),
    /// Wait until init reaches a state
    #[command(after_help = exit::help("wait"))]
    Wait(wait::Arguments),
    /// Move a running service into another container, from anywhere
    #[command(after_help = exit::help("migrate"))]
    Migrate(Box<migrate::Arguments>),
    /// List the checkpoints in a store
    List(list::Arguments),
    /// Change the passphrase or key of an encrypted store
    Rekey(rekey::Arguments),
    /// Show the content of a checkpoint: processes, memory, open files, sizes
    Inspect(inspect::Arguments),
    /// Read a store and report everything that is damaged
    Verify(verify::Arguments),
    /// Remove old checkpoints, and the packs that only they need
    Prune(prune::Arguments),
    /// Write a checkpoint as plain files, which crit and stock criu can read
    Extract(extract::Arguments),
    /// Copy checkpoints into another store
    Copy(copy::Arguments),
    /// Copy freeze and its criu into a folder, such as a volume for an application's container
    Install(install::Arguments),
    /// Write man pages and shell completions into a folder
    Generate(generate::Arguments),
    /// Probe what works in this container, prove it, and say what to add for more
    #[command(after_help = exit::help("doctor"))]
    Doctor(doctor::Arguments),
    /// Be a process of the doctor's proof
    #[command(hide = true)]
    DoctorSubject(doctor::Subject),
    /// Become criu in a process above the service
    #[command(hide = true)]
    Tracer(tracer::Arguments),
    /// Do one checkpoint or restore for init
    #[command(hide = true)]
    Worker,
    /// Use up all PIDs for a restore
    #[command(hide = true)]
    CountPids,
}

impl Verb {
    /// Of a store or of its content, and executes nothing of a user's.
    fn writes_files(&self) -> bool {
        matches!(self, Self::Worker | Self::Copy(_) | Self::Extract(_) | Self::Prune(_) | Self::Rekey(_))
    }
}

/// Runs the verb that the command line names.
pub fn main() -> ExitCode {
    // An empty variable in a pod manifest means "not set"; clap would take it as a value.
    process::forget_empty_variables("FREEZE_");
    let verb = Cli::parse().verb;
    if verb.writes_files() {
        signals::ignore_sigxfsz();
    }
    ExitCode::from(match verb {
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
        Verb::Generate(arguments) => generate::main(&arguments, Cli::command()),
        Verb::Doctor(arguments) => doctor::main(&arguments),
        Verb::DoctorSubject(arguments) => doctor::subject(&arguments),
        Verb::Tracer(arguments) => tracer::main(&arguments),
        Verb::Worker => worker::main(),
        Verb::CountPids => count_pids::main(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_documented_under_its_command() {
        let page = include_str!("../../docs/reference/options.md");
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
