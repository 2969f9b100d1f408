//! `freeze tracer`: becomes criu where only an ancestor of the service may attach to it. A tracer and a restore
//! worker alone start it.

use crate::criu::tracer;
use crate::exit;
use crate::sys::stderr::{say, say_panics};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The tracer's child; 0 for tracers that are to be made
    child: i32,
    /// The descriptor of the worker's connection
    connection: i32,
}

pub fn main(arguments: &Arguments) -> u8 {
    say_panics();
    let error = tracer::serve(arguments.child, arguments.connection);
    say(&format!("cannot start CRIU above the service: {error}"));
    exit::FATAL
}
