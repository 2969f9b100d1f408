//! `freeze extract`: writes a generation as plain files, for crit and a stock criu.

use std::path::PathBuf;

use super::progress;
use super::text::{count, json, printable, size};
use crate::upkeep::UpkeepError;
use crate::upkeep::extract;

#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    /// The generation to extract [default: the newest]
    #[arg(value_name = "GENERATION")]
    generation: Option<u64>,
    /// Where to: a folder that does not exist or is empty. The files hold the service's memory, secrets included
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Print the result as one JSON object, and progress as JSON lines on standard error
    #[arg(long)]
    json: bool,
}

pub fn main(arguments: &Arguments) -> u8 {
    super::finish(extract(arguments))
}

fn extract(arguments: &Arguments) -> Result<String, UpkeepError> {
    let (vault, folder) = (arguments.store.open_full()?, &arguments.folder);
    let extracted = extract::extract(&vault, arguments.generation, folder, &*progress::new(arguments.json))?;
    if arguments.json {
        return Ok(json(&extracted));
    }
    let (images, files) = (count(extracted.images, "image"), count(extracted.files, "captured file"));
    let (generation, bytes) = (extracted.generation, size(extracted.bytes));
    let folder = printable(&folder.to_string_lossy());
    Ok(format!("generation {generation}: {images} in {folder}/images, {files} in {folder}/files, {bytes}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn the_generation_may_be_left_out() {
        #[derive(Debug, Parser)]
        struct Cli {
            #[command(flatten)]
            arguments: Arguments,
        }
        let parse = |words: &[&str]| {
            let arguments = Cli::try_parse_from([&["extract"], words].concat()).ok()?.arguments;
            Some((arguments.generation, arguments.folder.to_str()?.to_owned()))
        };
        assert_eq!(parse(&["out"]), Some((None, "out".into())));
        assert_eq!(parse(&["7", "out"]), Some((Some(7), "out".into())));
        assert_eq!((parse(&[]), parse(&["x", "out"])), (None, None));
    }
}
