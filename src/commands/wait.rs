//! `freeze wait`: sleeps until init reaches a state. Polls only for an init that is not there yet; after
//! that, init sends the answer.

use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::say;
use crate::{
    control::{
        client::{Client, ClientError},
        protocol::{Awaited, Event, Op},
    },
    exit,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: super::Folder,
    /// What to wait for
    #[arg(value_name = "STATE")]
    until: Awaited,
    /// Give up after this time, even if no init has answered yet [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub fn main(arguments: &Arguments) -> u8 {
    // A deadline beyond the clock's range is no limit.
    let deadline = arguments.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let op = Op::Wait { until: arguments.until };
    let answer = Client::ask_until(arguments.folder.runtime_dir.as_deref(), op, deadline)
        .and_then(|mut client| client.next_event());
    match answer {
        Ok(Event::Reached) => exit::OK,
        Ok(answer) => super::refused(&answer),
        Err(ClientError::TimedOut) => {
            let limit = humantime::format_duration(arguments.timeout.unwrap_or_default());
            let state = arguments.until.to_possible_value();
            let state = state.as_ref().map_or("there", |value| value.get_name());
            say(&format!("not {state} within {limit}: `freeze status` says what init is doing"));
            exit::FAILED
        }
        Err(error) => {
            say(&error.to_string());
            super::status_of(&error)
        }
    }
}
