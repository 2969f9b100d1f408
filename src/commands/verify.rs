//! `freeze verify`: reads a store and reports all damage. Changes nothing.

use super::text::{count, json, numbers, print, printable, size};
use super::{progress, say};
use crate::exit;
use crate::upkeep::UpkeepError;
use crate::upkeep::verify::{self, Options, Verified};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    /// Verify only this generation
    #[arg(value_name = "GENERATION", conflicts_with = "all")]
    generation: Option<u64>,
    /// Verify all generations (the default)
    #[arg(long)]
    all: bool,
    /// Read this percentage of the packs, chosen at random, instead of all
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    sample: Option<u8>,
    /// Print the result as one JSON object, and progress as JSON lines on standard error
    #[arg(long)]
    json: bool,
}

/// Exit status 1 if anything is damaged.
pub fn main(arguments: &Arguments) -> u8 {
    match verify(arguments) {
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
        Ok(found) => {
            let status = print(&if arguments.json { json(&found) } else { text(&found) });
            if found.damaged.is_empty() { status } else { exit::FAILED }
        }
    }
}

fn verify(arguments: &Arguments) -> Result<Verified, UpkeepError> {
    let options = Options { generation: arguments.generation, sample: arguments.sample };
    verify::verify(&arguments.store.open_full()?, &options, &*progress::new(arguments.json))
}

fn text(found: &Verified) -> String {
    let mut text = String::new();
    for damage in &found.damaged {
        let harm = match damage.generations.as_slice() {
            [] => "no generation needs it".to_owned(),
            [one] => format!("generation {one} cannot be restored"),
            many => format!("generations {} cannot be restored", numbers(many)),
        };
        text += &format!("{}; {harm}\n", printable(&damage.error));
    }
    text += &format!(
        "{}, {} ({} read: {}, {})\n",
        count(found.generations, "generation"),
        count(found.packs, "pack"),
        found.packs_read,
        size(found.bytes_read),
        count(found.chunks_read, "chunk")
    );
    if found.unreferenced_packs > 0 {
        let (packs, bytes) = (count(found.unreferenced_packs, "pack"), size(found.unreferenced_bytes));
        text += &format!("{packs} ({bytes}) unreferenced; `freeze prune` deletes what stays unreferenced\n");
    }
    if !found.leftovers.is_empty() {
        text += &format!("manifests without a generation: {}\n", numbers(&found.leftovers));
    }
    for key in &found.strangers {
        text += &format!("{key} is not an object of freeze\n");
    }
    text + &match found.damaged.len() as u64 {
        0 => "all is well\n".to_owned(),
        1 => "1 object is damaged\n".to_owned(),
        more => format!("{more} objects are damaged\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::verify::Damage;

    #[test]
    fn the_text_says_what_is_damaged_and_what_that_means() {
        let damage = |object: &str, generations: &[u64]| Damage {
            object: object.into(),
            generations: generations.into(),
            error: format!("{object} in file:/s is damaged"),
        };
        let found = Verified {
            damaged: vec![damage("generations/9.manifest", &[]), damage("packs/a", &[1]), damage("packs/b", &[1, 2])],
            generations: 2,
            packs: 3,
            packs_read: 1,
            chunks_read: 80,
            bytes_read: 8 << 20,
            unreferenced_packs: 1,
            unreferenced_bytes: 1024,
            leftovers: vec![9],
            strangers: vec!["notes.txt".into()],
        };
        insta::assert_snapshot!(text(&found), @r"
        generations/9.manifest in file:/s is damaged; no generation needs it
        packs/a in file:/s is damaged; generation 1 cannot be restored
        packs/b in file:/s is damaged; generations 1 and 2 cannot be restored
        2 generations, 3 packs (1 read: 8.0 MiB, 80 chunks)
        1 pack (1.0 KiB) unreferenced; `freeze prune` deletes what stays unreferenced
        manifests without a generation: 9
        notes.txt is not an object of freeze
        3 objects are damaged
        ");
        assert!(text(&Verified::default()).ends_with("all is well\n"));
    }
}
