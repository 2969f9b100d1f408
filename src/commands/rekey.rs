//! `freeze rekey`: changes the passphrase or key of an encrypted store, from any machine. Only wraps the
//! store's key anew; rewrites no generation.

use std::path::PathBuf;

use crate::exit;
use crate::image::{self, ImageError, KeyFiles};
use crate::store;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    #[command(flatten)]
    new: NewKey,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct NewKey {
    /// File with the new passphrase, which alone opens the store from now on
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// File with the new key, which alone opens the store from now on
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
}

pub fn main(arguments: Arguments) -> u8 {
    let url = arguments.store.location.url.clone();
    match rekey(arguments) {
        Ok(true) => {
            super::say(&format!("only the new key opens {url} now; give it to every container that uses the store"));
            exit::OK
        }
        Ok(false) => {
            super::say(&format!("{url} is empty: the first checkpoint encrypts it with the key of `freeze run`"));
            exit::FAILED
        }
        Err(error) => {
            super::say(&error.to_string());
            exit::FAILED
        }
    }
}

fn rekey(Arguments { store, new }: Arguments) -> Result<bool, ImageError> {
    let new = KeyFiles { passphrase_file: new.new_passphrase_file, key_file: new.new_key_file };
    image::rekey(&*store::open(&store.location)?, &store.keys, &new)
}
