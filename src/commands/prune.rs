//! `freeze prune`: removes the generations that no rule keeps, and the packs that only they need.

use std::time::Duration;

use super::progress;
use super::text::{count, json, numbers, size};
use crate::fail_points;
use crate::image::COMMIT_WITHIN;
use crate::upkeep::prune::{self, Options, Pruned};
use crate::upkeep::{Keep, UpkeepError};

/// Shortest safe `--grace`: writers give up after half of it.
const SAFE_GRACE: Duration = COMMIT_WITHIN.saturating_mul(2);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    #[command(flatten)]
    keep: KeepArguments,
    /// Keep each pack for this long after it was written and after it became unreferenced; longer than a checkpoint takes
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Report what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as one JSON object, and progress as JSON lines on standard error
    #[arg(long)]
    json: bool,
}

/// A generation stays if any of these rules keeps it. The newest always stays.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct KeepArguments {
    /// Keep the newest N generations
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep_last: Option<u64>,
    /// Keep the last generation of each day (UTC), for the newest N days that have one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep_daily: Option<u64>,
    /// Keep the generations taken at most this long before the newest
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    keep_within: Option<Duration>,
}

pub fn main(arguments: &Arguments) -> u8 {
    fail_points::arm();
    super::finish(prune(arguments))
}

fn prune(arguments: &Arguments) -> Result<String, UpkeepError> {
    let KeepArguments { keep_last: last, keep_daily: daily, keep_within: within } = arguments.keep;
    let (grace, dry_run) = (arguments.grace, arguments.dry_run);
    let options = Options { keep: Keep { last, daily, within }, grace, dry_run };
    if grace < SAFE_GRACE && !dry_run {
        super::say(&format!(
            "warning: --grace {} is less than the safe minimum of {}: this prune may break a checkpoint or copy that is in progress now",
            humantime::format_duration(grace),
            humantime::format_duration(SAFE_GRACE)
        ));
    }
    let pruned = prune::prune(&arguments.store.open_full()?, &options, &*progress::new(arguments.json))?;
    if let Some(error) = &pruned.not_cleaned {
        super::say(&format!(
            "warning: incomplete uploads of interrupted writers could not be removed from the store: {error}"
        ));
    }
    Ok(if arguments.json { json(&pruned) } else { text(&pruned, dry_run) })
}

fn text(pruned: &Pruned, dry_run: bool) -> String {
    let listed = |what: &str, done: &str, list: &[u64]| match list {
        [] => String::new(),
        list => format!("{} {done}: {}\n", count(list.len() as u64, what), numbers(list)),
    };
    let mut text = if dry_run { "Nothing was removed. A real run would report:\n".to_owned() } else { String::new() };
    text += &listed("generation", "removed", &pruned.removed);
    text += &listed("manifest", "without a generation removed", &pruned.leftovers);
    text += &listed("generation", "kept", &pruned.kept);
    text += &format!("{} deleted; {} freed in all\n", count(pruned.packs, "pack"), size(pruned.bytes));
    if pruned.waiting_packs > 0 {
        let (packs, bytes) = (count(pruned.waiting_packs, "pack"), size(pruned.waiting_bytes));
        text += &format!(
            "{packs} ({bytes}) unreferenced: the first prune after the grace time deletes what is still unreferenced\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn the_text_says_what_went_and_what_waits() {
        let pruned = Pruned {
            kept: vec![4, 5],
            removed: vec![1, 2, 3],
            leftovers: vec![6],
            packs: 1,
            bytes: 9 << 20,
            waiting_packs: 2,
            waiting_bytes: 3 << 20,
            not_cleaned: None,
        };
        insta::assert_snapshot!(format!("{}\n{}", text(&pruned, false), text(&Pruned::default(), true)), @r"
        3 generations removed: 1, 2 and 3
        1 manifest without a generation removed: 6
        2 generations kept: 4 and 5
        1 pack deleted; 9.0 MiB freed in all
        2 packs (3.0 MiB) unreferenced: the first prune after the grace time deletes what is still unreferenced

        Nothing was removed. A real run would report:
        0 packs deleted; 0 B freed in all
        ");
    }

    #[test]
    fn something_must_be_kept_on_purpose() {
        #[derive(Debug, Parser)]
        struct Cli {
            #[command(flatten)]
            arguments: Arguments,
        }
        let parse = |words: &[&str]| Cli::try_parse_from([&["prune"], words].concat());
        assert!(parse(&[]).is_err() && parse(&["--grace", "0s"]).is_err() && parse(&["--keep-last", "0"]).is_err());
        let arguments = parse(&["--keep-last", "3", "--keep-within", "7d"]).unwrap().arguments;
        assert_eq!((arguments.grace, SAFE_GRACE), (Duration::from_secs(3600), Duration::from_secs(3600)));
        assert_eq!(arguments.keep.keep_within, Some(Duration::from_secs(7 * 86_400)));
    }
}
