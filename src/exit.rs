//! Every exit status of `freeze`, in one table. `freeze run` also passes on the service's own status.

use std::fmt;

use textwrap::WordSplitter;

/// Success. For `freeze checkpoint`, the generation is committed.
pub const OK: u8 = 0;
/// Failure. For `freeze checkpoint`, outside the phases that have their own status.
pub const FAILED: u8 = 1;
/// The command line is invalid (clap's own status).
pub const USAGE: u8 = 2;
/// There is no init to talk to.
pub const NO_INIT: u8 = 3;
/// `freeze checkpoint`: it failed before the service was frozen.
pub const PREFLIGHT: u8 = 4;
/// `freeze checkpoint`: the processes could not be dumped.
pub const DUMP: u8 = 5;
/// `freeze checkpoint`: the files could not be captured.
pub const FILES: u8 = 6;
/// `freeze checkpoint`: the generation could not be committed.
pub const COMMIT: u8 = 7;
/// `freeze checkpoint --handover`: no container took the service.
pub const HANDOVER: u8 = 8;
/// `freeze migrate`: the service runs in the target, and the source could not be stopped.
pub const UNFINISHED: u8 = 9;
/// `freeze migrate`: neither side reports that it runs the service.
pub const UNKNOWN: u8 = 10;
/// `freeze run`: the service's executable cannot be executed (the shell's convention).
pub const NOT_EXECUTABLE: u8 = 126;
/// `freeze run`: the service's executable was not found (the shell's convention).
pub const NOT_FOUND: u8 = 127;
/// `freeze run`: signal N killed the service; the status is 128 + N.
pub const SIGNAL_BASE: u8 = 128;
/// `freeze run`: a fatal error of freeze itself.
pub const FATAL: u8 = 170;
/// `freeze run`: the restore failed. A fresh start would lose the service's state.
pub const RESTORE_FAILED: u8 = 171;
/// `freeze run`: the service was checkpointed and has ended. `--checkpointed-status` sets another status.
pub const CHECKPOINTED: u8 = 172;
/// `freeze run`: another container is the lease owner, so the service was ended or not started here.
pub const REPLACED: u8 = 173;
/// `freeze run --standby`: the container's PIDs are nearly used up, so only a new container can restore the
/// service.
pub const PIDS_EXHAUSTED: u8 = 174;
/// `freeze run`: files on a volume have changed since the checkpoint, and `--volume-changed` is `refuse`.
pub const VOLUME_CHANGED: u8 = 175;
/// `freeze run`: the service's clocks would go back, and `--clock` does not permit that.
pub const CLOCK_BACK: u8 = 176;

/// The status in a row of the [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Is(u8),
    /// The service's own status.
    Service,
    /// [`SIGNAL_BASE`] plus the signal's number.
    Signal,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Is(status) => write!(f, "{status}"),
            Status::Service => f.write_str("the service's"),
            Status::Signal => write!(f, "{SIGNAL_BASE} + N"),
        }
    }
}

/// What a status means for some commands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub status: Status,
    /// The commands that exit with it; empty for all commands.
    pub of: &'static [&'static str],
    pub means: &'static str,
}

const fn row(status: u8, of: &'static [&'static str], means: &'static str) -> Row {
    Row { status: Status::Is(status), of, means }
}

const RUN: &[&str] = &["run"];
const CHECKPOINT: &[&str] = &["checkpoint"];
const DOCTOR: &[&str] = &["doctor"];
const MIGRATE: &[&str] = &["migrate"];
const OTHERS: &[&str] = &["list", "rekey", "inspect", "verify", "prune", "extract", "copy", "install"];

/// All statuses, as `--help` and docs/reference/exit-statuses.md show them.
pub(crate) const TABLE: &[Row] = &[
    Row { status: Status::Service, of: RUN, means: "The service ended by itself; `--remap-exit` applies" },
    Row {
        status: Status::Signal,
        of: RUN,
        means: "Signal N killed the service; or SIGTERM, SIGINT or SIGQUIT came before the service ran",
    },
    row(OK, CHECKPOINT, "The generation is committed; with `--handover`, another container has taken the service"),
    row(OK, &["status"], "Init answered; with `--ready`, the service runs"),
    row(OK, &["wait"], "Init has reached the state"),
    row(OK, &["cancel"], "The checkpoint is cancelled, or the handover withdrawn"),
    row(
        OK,
        DOCTOR,
        "The proof succeeded; with `--for`, the generation can be restored; with `--service`, the service can be checkpointed",
    ),
    row(OK, MIGRATE, "The service runs in the target; with `--dry-run`, it can be moved"),
    row(OK, OTHERS, "Done; for `verify`, no damage found"),
    row(
        FAILED,
        CHECKPOINT,
        "Refused, cancelled, or its worker ended; the service keeps running. If init ended meanwhile, `freeze list` shows whether the generation was committed",
    ),
    row(FAILED, &["status"], "Failed; with `--ready`, the service does not run"),
    row(FAILED, &["wait"], "Init can no longer reach the state, or the wait timed out"),
    row(FAILED, &["cancel"], "There is nothing to cancel"),
    row(
        FAILED,
        DOCTOR,
        "The proof failed; with `--for`, something is missing, or the store cannot be read; with `--service`, the service cannot be checkpointed",
    ),
    row(FAILED, MIGRATE, "Not moved: the service keeps running in the source"),
    row(FAILED, OTHERS, "Failed; for `verify`, also if something is damaged"),
    row(USAGE, &[], "The command line is invalid"),
    row(NO_INIT, &["checkpoint", "status", "wait", "cancel", "doctor"], "No init answers"),
    row(
        PREFLIGHT,
        CHECKPOINT,
        "The preflight found something that cannot be checkpointed, no standby could restore the service, the store cannot be used, or the `--before-checkpoint` hook failed; nothing was frozen",
    ),
    row(DUMP, CHECKPOINT, "The dump of the processes failed; the service keeps running"),
    row(FILES, CHECKPOINT, "The capture of the files failed; the service keeps running"),
    row(COMMIT, CHECKPOINT, "The commit of the generation failed; the service keeps running"),
    row(
        HANDOVER,
        CHECKPOINT,
        "No container took the service, or the handover was withdrawn; the service keeps running",
    ),
    row(
        UNFINISHED,
        MIGRATE,
        "The service runs in the target, but the source could not be stopped; run the command again",
    ),
    row(
        UNKNOWN,
        MIGRATE,
        "Neither side reports that it runs the service: they cannot be reached, or both wait; run the command again when both can be reached",
    ),
    row(NOT_EXECUTABLE, RUN, "COMMAND exists but cannot be executed"),
    row(NOT_FOUND, RUN, "COMMAND was not found"),
    row(FATAL, RUN, "A fatal error of freeze, such as no folder for the control socket, or no process for the service"),
    row(RESTORE_FAILED, RUN, "The restore failed, or the store could not be read; nothing of the service runs"),
    row(
        CHECKPOINTED,
        RUN,
        "The service was checkpointed and ended, or handed over (`--checkpointed-status` changes this status)",
    ),
    row(
        REPLACED,
        RUN,
        "Another container took the generation or holds the lease: freeze ended the service, or did not start it",
    ),
    row(PIDS_EXHAUSTED, RUN, "A standby has used up nearly all its PIDs: only a new container can restore the service"),
    row(
        VOLUME_CHANGED,
        RUN,
        "Files on a volume have changed since the checkpoint; nothing was changed or run (`--volume-changed`)",
    ),
    row(
        CLOCK_BACK,
        RUN,
        "The service's clocks would go back, because this host booted later; nothing of the service was run (`--clock`)",
    ),
];

/// The exit statuses in `freeze COMMAND --help`, 80 columns wide.
pub(crate) fn help(command: &str) -> String {
    let mut text = "Exit status:".to_owned();
    for row in TABLE.iter().filter(|row| row.of.is_empty() || row.of.contains(&command)) {
        let columns = textwrap::Options::new(80)
            .initial_indent("  ")
            .subsequent_indent("                ")
            .word_splitter(WordSplitter::NoHyphenation);
        let line = format!("{:<13} {}", row.status.to_string(), row.means.replace('`', ""));
        text += "\n";
        text += &textwrap::fill(&line, columns);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of a Markdown table.
    fn line(row: &Row) -> String {
        let of: Vec<String> = row.of.iter().map(|command| format!("`{command}`")).collect();
        let of = if of.is_empty() { "all".to_owned() } else { of.join(", ") };
        format!("| {} | {of} | {} |", row.status, row.means)
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let page = include_str!("../docs/reference/exit-statuses.md");
        let section = page.split("\n## ").find(|section| section.starts_with("Statuses")).unwrap();
        let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        let expected: Vec<String> = TABLE.iter().map(line).collect();
        assert_eq!(documented, expected, "\n{}", expected.join("\n"));
    }

    #[test]
    fn no_command_has_two_meanings_for_one_status() {
        for command in ["run", "checkpoint", "status", "wait", "cancel", "doctor", "list", "verify", "migrate"] {
            let text = help(command);
            let mut statuses: Vec<&str> = text.lines().skip(1).map(|line| line[..15].trim()).collect();
            statuses.retain(|status| !status.is_empty());
            let count = statuses.len();
            statuses.sort_unstable();
            statuses.dedup();
            assert_eq!(statuses.len(), count, "{command}");
        }
    }

    #[test]
    fn help_is_a_column_of_words_beside_the_numbers() {
        let text = help("run");
        assert!(text.contains("\n  128 + N       Signal N killed the service; or SIGTERM, SIGINT or SIGQUIT came\n                before the service ran\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
