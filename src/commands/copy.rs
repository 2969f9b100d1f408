//! `freeze copy`: copies generations into another store, such as from a bucket into a folder.

use std::path::PathBuf;

use super::progress;
use super::text::{count, json, numbers, size};
use crate::image::{KeyFiles, Vault};
use crate::store::{self, Location};
use crate::upkeep::UpkeepError;
use crate::upkeep::copy::{self, Copied};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    #[command(flatten)]
    to: Destination,
    /// The generations to copy [default: all]
    #[arg(value_name = "GENERATION")]
    generations: Vec<u64>,
    /// Print the result as one JSON object, and progress as JSON lines on standard error
    #[arg(long)]
    json: bool,
}

/// The source's options with the prefix `--to`. They read no environment variables: those describe the
/// source.
#[derive(Debug, clap::Args)]
struct Destination {
    /// The destination: file:/FOLDER or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    to: String,
    /// Encrypt the destination with the passphrase in this file [default: not encrypted]
    #[arg(long, value_name = "FILE", conflicts_with = "to_key_file")]
    to_passphrase_file: Option<PathBuf>,
    /// Encrypt the destination with the key in this file [default: not encrypted]
    #[arg(long, value_name = "FILE")]
    to_key_file: Option<PathBuf>,
    /// URL of the destination's S3 server [default: AWS]
    #[arg(long, value_name = "URL")]
    to_s3_endpoint: Option<String>,
    /// Put the destination's bucket name into the path, not into the host name
    #[arg(long)]
    to_s3_path_style: bool,
    /// Certificates to trust for https to the destination, in PEM, besides the system's
    #[arg(long, value_name = "FILE")]
    to_s3_ca_file: Option<PathBuf>,
}

pub fn main(arguments: &Arguments) -> u8 {
    super::finish(copy(arguments))
}

fn copy(arguments: &Arguments) -> Result<String, UpkeepError> {
    let source = arguments.store.open_full()?;
    let destination = arguments.to.create()?;
    // Both stores are open, and an encrypted store opens only with a key: no key given means not encrypted.
    if arguments.store.keys.are_given() && !arguments.to.keys().are_given() {
        super::say(&format!(
            "warning: the destination {} is not encrypted, but the source is: to encrypt it, give --to-passphrase-file or --to-key-file and an empty destination",
            destination.url()
        ));
    }
    let copied = copy::copy(&source, &destination, &arguments.generations, &*progress::new(arguments.json))?;
    Ok(if arguments.json { json(&copied) } else { text(&copied, destination.url()) })
}

impl Destination {
    fn create(&self) -> Result<Vault, UpkeepError> {
        let location = Location {
            s3_endpoint: self.to_s3_endpoint.clone(),
            s3_path_style: self.to_s3_path_style,
            s3_ca_file: self.to_s3_ca_file.clone(),
            ..Location::at(&self.to)
        };
        Ok(Vault::create(store::open(&location)?, &self.keys())?)
    }

    fn keys(&self) -> KeyFiles {
        KeyFiles { passphrase_file: self.to_passphrase_file.clone(), key_file: self.to_key_file.clone() }
    }
}

fn text(copied: &Copied, destination: &str) -> String {
    let line = |what: &str, list: &[u64]| match list {
        [] => String::new(),
        list => format!("{} {what}: {}\n", count(list.len() as u64, "generation"), numbers(list)),
    };
    let mut text = line(&format!("copied to {destination}"), &copied.copied);
    text += &line("already there", &copied.there);
    text += &line("left out, because the destination has newer ones", &copied.older);
    text += &format!("{} copied, {} of packs written\n", size(copied.bytes), size(copied.stored));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_became_of_each() {
        let copied = Copied { copied: vec![5, 6], there: vec![4], older: vec![1, 2], bytes: 1 << 30, stored: 1 << 20 };
        insta::assert_snapshot!(text(&copied, "file:/copy"), @r"
        2 generations copied to file:/copy: 5 and 6
        1 generation already there: 4
        2 generations left out, because the destination has newer ones: 1 and 2
        1.0 GiB copied, 1.0 MiB of packs written
        ");
    }
}
