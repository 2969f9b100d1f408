//! `freeze status`: asks init what it is doing.

use std::io::Write;

use super::say;
use crate::{
    control::{
        client::Client,
        protocol::{Event, Op, State},
    },
    exit,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: super::Folder,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
}

/// Returns the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    let answer =
        Client::ask(arguments.folder.runtime_dir.as_deref(), Op::Status).and_then(|mut client| client.next_event());
    let line = match &answer {
        Ok(event) if arguments.json => super::json(event),
        Ok(Event::Status(status)) => sentence(status.state, status.service),
        Ok(_) => {
            say("init gave another answer than was asked for");
            return exit::FAILED;
        }
        Err(error) => {
            say(&error.to_string());
            return super::status_of(error);
        }
    };
    let written = std::io::stdout().write_all((line + "\n").as_bytes());
    if written.is_ok() { exit::OK } else { exit::FAILED }
}

fn sentence(state: State, service: i32) -> String {
    match state {
        State::Starting => "starting: looking for a checkpoint, or restoring it".to_owned(),
        State::Running => format!("running: the service is process {service}"),
        State::Checkpointing => format!("checkpointing: the service is process {service}"),
        State::Standby => "standby: waiting for a generation to be handed over".to_owned(),
        State::HandingOver => {
            format!("handing over: the service, process {service}, is held until another container has it")
        }
        State::Ending => "ending".to_owned(),
    }
}
