//! `freeze doctor --service`: lists what makes a checkpoint of the running service fail, and what a
//! checkpoint would change. Reads /proc itself: init only answers a status request. Changes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::outlook::{self, Outlook};
use crate::checkpoint::preflight::{self, Finding, Findings, Place, Severity};
use crate::commands::run::OfInit;
use crate::commands::{Folder, run, say, status_of, text};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Event, Op, State, Status};
use crate::exit;
use crate::files::groups::Group;
use crate::image::Demands;
use crate::job::Common;
use crate::privileges::Abilities;
use crate::proc;
use crate::proc::tree::{self, Process};

#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the service cannot be inspected now ({0}): try again when `freeze status` says running")]
    NotRunning(&'static str),
    #[error("the processes of the container cannot be listed ({0}); freeze needs /proc mounted")]
    NoProc(#[from] io::Error),
    /// The PID namespace is shared, or this command runs as another user.
    #[error(
        "cannot see process {0} of the service from here; run this command in the service's container, as the service's user"
    )]
    NotSeen(i32),
}

pub fn main(folder: &Folder, json: bool) -> u8 {
    match look(folder) {
        Ok((findings, demands, files)) => {
            let answer = Answer { demands: demands.to_word(), files, ..Answer::new(findings) };
            let printed = text::print(&if json { text::json(&answer) } else { answer.sentences() });
            if answer.can_be_checkpointed { printed } else { exit::FAILED }
        }
        Err(error) => {
            say(&error.to_string());
            if let ServiceError::Client(error) = &error { status_of(error) } else { exit::FAILED }
        }
    }
}

fn look(folder: &Folder) -> Result<(Findings, Demands, Option<Outlook>), ServiceError> {
    let mut client = Client::ask(folder.runtime_dir.as_deref(), Op::Status)?;
    let init = client.peer();
    let status = match client.next_event()? {
        Event::Status(status) => status,
        _ => return Err(ServiceError::NotRunning("init sent an unexpected answer")),
    };
    running(&status)?;
    let init = init.ok_or(ServiceError::NotSeen(status.service))?;
    let all = tree::all()?;
    let service = tree::number_here(&all, init, status.service).ok_or(ServiceError::NotSeen(status.service))?;
    let root = tree::root(&all, init, service).ok_or(ServiceError::NotSeen(status.service))?;
    let top = tree::top(&all, init, root).ok_or(ServiceError::NotSeen(status.service))?;
    let us = std::process::id() as i32;
    let read = || {
        let mut processes = tree::below(&tree::all()?, root);
        // The service itself may have started this command.
        processes.retain(|process| process.pid != us);
        Ok::<_, ServiceError>(processes)
    };
    let (mut findings, mut demands) = preflight::look(&read, init, &Abilities::probe())?;
    for stray in tree::strays(&all, init, &[top]) {
        findings.add(Finding::refused(
            Some(stray),
            "is a child of init and outside the service's tree, so it would be lost",
            "if an exec left it behind, end it; if it belongs to the service, restart the container",
        ));
    }
    let processes = read()?;
    let files = client.folder().and_then(|folder| look_at_files(&folder, init, &processes));
    let included: Vec<&PathBuf> = files.iter().flat_map(|files| &files.included).collect();
    demands.files.retain(|file| !included.iter().any(|path| file.path().starts_with(path)));
    if let Some(reason) = files.as_ref().and_then(|files| files.refused.as_ref()) {
        let what = format!("cannot be saved with its changed files: {reason}");
        findings.add(Finding::refused(None, &what, "do what the message says"));
    }
    for database in files.iter().flat_map(|files| &files.databases) {
        let process = processes.iter().find(|process| process.pid == database.pid);
        let what = format!(
            "has the SQLite database {} open, which gets another inode: SQLite then refuses to write",
            database.path.display()
        );
        let advice = "keep it on a volume, use its journal mode WAL, or open it again after a restore (--on-restore)";
        findings.add(Finding::changed(process, &what, advice).at(Place::Descriptor(database.fd)));
    }
    Ok((findings, demands, files))
}

/// None if the options of this init are not known.
fn look_at_files(runtime_dir: &Path, init: i32, processes: &[Process]) -> Option<Outlook> {
    let OfInit { store, keys, files, .. } = run::of_init(&fs::read(proc::path(init, "cmdline")).ok()?)?;
    let (runtime_dir, instance) = (runtime_dir.to_owned(), String::new());
    let common = Common { store, keys, runtime_dir, memory: 0, instance, exclusive_ms: None, trace: None };
    outlook::look(&common, files, init, processes).ok()
}

fn running(status: &Status) -> Result<(), ServiceError> {
    Err(ServiceError::NotRunning(match status.state {
        State::Running if status.service > 0 => return Ok(()),
        State::Running | State::Starting => "starting",
        State::Standby => "standby",
        State::Checkpointing => "a checkpoint is in progress",
        State::HandingOver => "handing over",
        State::Ending => "ending",
    }))
}

#[derive(Serialize)]
struct Answer {
    can_be_checkpointed: bool,
    findings: Vec<Finding>,
    /// Number of findings beyond the limit of the list.
    left_out: usize,
    /// What of the container's files travels.
    files: Option<Outlook>,
    /// What a restore will ask, for `--for`.
    demands: Option<String>,
}

impl Answer {
    fn new(findings: Findings) -> Self {
        let (findings, left_out) = findings.sorted();
        let can_be_checkpointed = findings.iter().all(|finding| finding.severity != Severity::Refused);
        Self { can_be_checkpointed, findings, left_out, files: None, demands: None }
    }

    fn sentences(&self) -> String {
        if self.findings.is_empty() {
            return self.files() + "this service can be checkpointed\n";
        }
        let titles = ["SEVERITY", "PROCESS", "WHERE", "WHAT", "WHAT TO DO"].map(String::from);
        let rows: Vec<_> = std::iter::once(titles).chain(self.findings.iter().map(cells)).collect();
        let widths: [usize; 4] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
        let line = |row: &[String; 5]| {
            let columns = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
            columns.chain([row[4].clone(), "\n".into()]).collect::<String>()
        };
        rows.iter().map(line).collect::<String>() + &self.more() + &self.files() + &self.verdict()
    }

    fn more(&self) -> String {
        match self.left_out {
            0 => String::new(),
            left_out => format!("… and {left_out} more\n"),
        }
    }

    fn files(&self) -> String {
        let Some(files) = &self.files else { return String::new() };
        let travels = |group: &Group| {
            let (folder, bytes) = (text::printable(&group.folder.to_string_lossy()), text::size(group.bytes));
            format!("travels: {} below {folder}, {bytes}\n", text::count(group.files, "changed file"))
        };
        let mut lines: String = files.travel.iter().map(travels).collect();
        if files.deleted > 0 {
            lines += &format!("travels: {}\n", text::count(files.deleted as u64, "deletion"));
        }
        if files.may_miss_deletions {
            lines += "may be missed: more deletions, as not all names were listed when the container started\n";
        }
        let stays = |path: &PathBuf| format!("stays: the volume {}\n", text::printable(&path.to_string_lossy()));
        lines + &files.stay.iter().map(stays).collect::<String>()
    }

    fn verdict(&self) -> String {
        let count = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let things = |number| text::count(number as u64, "thing");
        match (count(Severity::Refused), count(Severity::Changed)) {
            (0, changed) => format!("this service can be checkpointed; {} will change\n", things(changed)),
            (refused, _) => format!("this service cannot be checkpointed because of {}\n", things(refused)),
        }
    }
}

fn cells(finding: &Finding) -> [String; 5] {
    let severity = match finding.severity {
        Severity::Refused => "refused",
        Severity::Changed => "changed",
    };
    let process = finding.process.as_ref().map_or_else(|| "the container".to_owned(), ToString::to_string);
    [severity.to_owned(), process, finding.places(), finding.what.clone(), finding.advice.to_string()]
        .map(|cell| text::printable(&cell))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, ppid: i32, comm: &str) -> Process {
        Process { pid, ppid, comm: comm.into(), ..Process::default() }
    }

    fn answer(findings: impl IntoIterator<Item = Finding>) -> Answer {
        let mut found = Findings::default();
        findings.into_iter().for_each(|finding| found.add(finding));
        Answer::new(found)
    }

    fn connection(fd: i32) -> Finding {
        let app = process(1001, 1000, "app");
        let what = "has TCP connections, which a restore closes";
        Finding::changed(Some(&app), what, "connect again").at(Place::Descriptor(fd))
    }

    fn queue() -> Finding {
        Finding::refused(None, "has a System V message queue, which would be lost", "use sockets")
    }

    #[test]
    fn what_is_refused_comes_first_and_decides() {
        insta::assert_snapshot!(answer([connection(7), connection(9), queue()]).sentences(), @"
        SEVERITY  PROCESS        WHERE                    WHAT                                               WHAT TO DO
        refused   the container                           has a System V message queue, which would be lost  use sockets
        changed   1001 (app)     descriptor 7 and 1 more  has TCP connections, which a restore closes        connect again
        this service cannot be checkpointed because of 1 thing
        ");
        insta::assert_snapshot!(answer([connection(7)]).verdict(), @"this service can be checkpointed; 1 thing will change");
        insta::assert_snapshot!(answer([]).sentences(), @"this service can be checkpointed");
    }

    #[test]
    fn what_travels_and_what_stays_is_said() {
        let group = |folder: &str, files, bytes| Group { folder: folder.into(), files, bytes };
        let travel = vec![group("/data/pg", 412, 23 << 20), group("/tmp", 1, 5)];
        let files = Some(Outlook {
            travel,
            deleted: 2,
            may_miss_deletions: true,
            stay: vec!["/volume".into()],
            ..Outlook::default()
        });
        insta::assert_snapshot!(Answer { files, ..answer([]) }.sentences(), @"
        travels: 412 changed files below /data/pg, 23.0 MiB
        travels: 1 changed file below /tmp, 5 B
        travels: 2 deletions
        may be missed: more deletions, as not all names were listed when the container started
        stays: the volume /volume
        this service can be checkpointed
        ");
    }

    #[test]
    fn the_same_in_json() {
        insta::assert_snapshot!(text::json(&answer([connection(7), queue()])), @r#"{"can_be_checkpointed":false,"findings":[{"severity":"refused","process":null,"place":null,"others":0,"what":"has a System V message queue, which would be lost","advice":"use sockets"},{"severity":"changed","process":{"pid":1001,"name":"app"},"place":{"descriptor":7},"others":0,"what":"has TCP connections, which a restore closes","advice":"connect again"}],"left_out":0,"files":null,"demands":null}"#);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let many = (0..1000).map(|pid| Finding::refused(Some(&process(pid, 1, "app")), "is ill", "cure it"));
        let answer = answer(many);
        assert_eq!(answer.findings.len() + answer.left_out, 1000);
        assert!(answer.sentences().contains(&format!("… and {} more\n", answer.left_out)));
    }
}
