//! `freeze doctor`: what works in this container. Must change nothing.

mod service;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: super::Folder,
    /// List everything of the running service that a checkpoint cannot carry, or changes
    #[arg(long, required = true)]
    service: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Returns the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    service::main(&arguments.folder, arguments.json)
}
