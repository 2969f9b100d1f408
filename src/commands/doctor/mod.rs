//! `freeze doctor`: reports what works in this container, proves it by a round trip of a small process tree,
//! and says what to add for more.

mod candidate;
mod service;
mod table;

use std::path::PathBuf;

use super::text::{json, print};
use super::{Folder, StoreArguments, say};
use crate::doctor::subject::{self, Role};
use crate::doctor::{self, remedies, seccomp};
use crate::exit;
use crate::privileges::Facts;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Check instead whether this container could restore GENERATION (a number or `newest`), and how long it would take; or a service by the word `demands` of its `--service --json`
    #[arg(long = "for", value_name = "GENERATION", value_parser = candidate::generation, conflicts_with = "print_seccomp_profile")]
    generation: Option<candidate::Which>,
    #[command(flatten)]
    store: StoreArguments,
    /// Print instead a seccomp profile with which freeze can choose PIDs: Docker's default, plus clone3
    #[arg(long, conflicts_with = "json")]
    print_seccomp_profile: bool,
    /// List instead everything in the running service that a checkpoint cannot save, or would change
    #[arg(long, conflicts_with_all = ["generation", "print_seccomp_profile"])]
    service: bool,
    /// Folder for the proof's files; with --service and --for, init's runtime folder [default: the first that can be used]
    #[arg(long, env = "FREEZE_RUNTIME_DIR", value_name = "FOLDER")]
    runtime_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of the hidden verb `doctor-subject`.
#[derive(Debug, clap::Args)]
pub struct Subject {
    role: Role,
    folder: PathBuf,
}

/// Exit status 0 if the proof succeeds, the generation fits, or the service can be checkpointed.
pub fn main(arguments: &Arguments) -> u8 {
    if arguments.print_seccomp_profile {
        return print_seccomp_profile();
    }
    if arguments.service {
        return service::main(&Folder { runtime_dir: arguments.runtime_dir.clone() }, arguments.json);
    }
    match &arguments.generation {
        Some(which) => candidate::main(which, &arguments.store, arguments.runtime_dir.as_deref(), arguments.json),
        None => diagnose(arguments),
    }
}

/// Derives the profile from Docker's default, which lies beside freeze.
fn print_seccomp_profile() -> u8 {
    let freeze = match std::env::current_exe() {
        Ok(freeze) => freeze,
        Err(error) => return fail(&format!("cannot find freeze's own folder ({error}). Mount /proc")),
    };
    let mut capabilities = Facts::read().bounding;
    capabilities.extend(remedies::CAPABILITIES.map(str::to_owned));
    match seccomp::profile(&freeze.with_file_name(seccomp::DOCKER), &capabilities) {
        Ok(profile) => print(&profile),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> u8 {
    say(message);
    exit::FAILED
}

fn diagnose(arguments: &Arguments) -> u8 {
    let diagnosis = doctor::diagnose(arguments.runtime_dir.as_deref());
    let status = print(&if arguments.json { json(&diagnosis) } else { table::text(&diagnosis) });
    if diagnosis.proof.has_succeeded() { status } else { exit::FAILED }
}

/// Runs one process of the proof's tree.
pub fn subject(arguments: &Subject) -> u8 {
    match subject::main(arguments.role, &arguments.folder) {
        Ok(()) => exit::OK,
        Err(error) => fail(&error.to_string()),
    }
}
