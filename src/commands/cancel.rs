//! `freeze cancel`: asks init to give up the checkpoint that is under way, or to withdraw a handover.

use super::say;
use crate::{
    control::{
        client::Client,
        protocol::{Event, Op},
    },
    exit,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: super::Folder,
}

pub fn main(arguments: &Arguments) -> u8 {
    let answer =
        Client::ask(arguments.folder.runtime_dir.as_deref(), Op::Cancel).and_then(|mut client| client.next_event());
    match answer {
        Ok(Event::Done) => exit::OK,
        Ok(answer) => super::refused(&answer),
        Err(error) => {
            say(&error.to_string());
            super::status_of(&error)
        }
    }
}
