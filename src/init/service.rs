//! Starts the service: below a subreaper of its own, as a session leader, with the signals, descriptors and
//! working directory that init got.
//!
//! The subreaper (src/sys/subreaper) is the root of the dumped tree. It adopts the service's daemons, so that
//! they stay in that tree. It runs from memory with no descriptor open, so that a checkpoint depends on no
//! file of freeze.
//!
//! Where Yama asks for it, two tracers stand above the subreaper (docs/explanation/tracer.md). They get lower PIDs than
//! the tree.

use std::{
    ffi::{CStr, CString},
    fmt,
    io::{self, PipeWriter, Read, Write},
    os::fd::OwnedFd,
};

use super::{config::Config, isolate, say, tree::Tree};
use crate::{
    criu::tracer,
    exit,
    sys::{
        pids,
        process::{self, Fork},
        signals, tty,
    },
};

const SUBREAPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/subreaper"));
const SUBREAPER_NAME: &CStr = c"freeze-subreaper";

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot create an executable memfd for the service's subreaper (is the sysctl vm.memfd_noexec 2 here?): {0}"
    )]
    Subreaper(io::Error),
    #[error("cannot create a process for the service (is the container's PIDs limit reached?): {0}")]
    Fork(io::Error),
    #[error("the service's process ended before it executed the command")]
    Silent,
}

/// Starts the command. If it cannot be executed, the service's process prints the error and exits with 126 or
/// 127.
///
/// # Errors
/// On any error no process of the service runs.
pub fn start(config: &Config, channels: Option<[OwnedFd; tracer::COUNT]>) -> Result<Tree, StartError> {
    let subreaper = process::program_in_memory(SUBREAPER_NAME, SUBREAPER).map_err(StartError::Subreaper)?;
    if channels.is_none() {
        reserve_pids(config.first_pid);
    }
    tty::give_up();
    let (mut reader, mut writer) = io::pipe().map_err(StartError::Fork)?;
    if let Fork::Child = process::fork().map_err(StartError::Fork)? {
        let mut above = channels.iter().flatten().peekable();
        while let Some(channel) = above.next() {
            // The tree is restored below tracers of another container, so theirs are no PIDs of the tree.
            let next = if above.peek().is_none() { Some(config.first_pid) } else { None };
            be_tracer_above(channel, next, &mut writer);
        }
        be_root(&subreaper, writer, &config.command)
    }
    drop(writer);
    let mut pid = || {
        let mut pid = [0; 4];
        reader.read_exact(&mut pid).map_err(|_| StartError::Silent)?;
        Ok(i32::from_ne_bytes(pid))
    };
    let mut tree = Tree::default();
    if channels.is_some() {
        for tracer in &mut tree.tracers {
            *tracer = pid()?;
        }
    }
    (tree.root, tree.service) = (pid()?, pid()?);
    Ok(tree)
}

/// Sends init this process's PID.
fn tell_pid(writer: &mut PipeWriter) {
    if writer.write_all(&(std::process::id() as i32).to_ne_bytes()).is_err() {
        process::exit_now(exit::FATAL);
    }
}

/// The process becomes a tracer, and goes on as its child, with this PID or the next one above.
fn be_tracer_above(channel: &OwnedFd, pid: Option<i32>, writer: &mut PipeWriter) {
    process::lead_session();
    tell_pid(writer);
    pid.into_iter().for_each(reserve_pids);
    match process::fork() {
        Ok(Fork::Child) => {}
        Ok(Fork::Parent(child)) => {
            let error = tracer::rest(channel, child);
            process::kill(child, libc::SIGKILL);
            give_up(format_args!("cannot become a tracer: {error}"), exit::FATAL)
        }
        Err(error) => give_up(StartError::Fork(error), exit::FATAL),
    }
}

/// Keeps the PIDs below `first` for init, its workers, and execs from outside.
fn reserve_pids(first: i32) {
    if let Err(error) = pids::advance_to(first) {
        say(&format!(
            "warning: cannot reserve the PIDs below {first}, so a restore may find the service's PIDs taken: {error}"
        ));
    }
}

/// The child: makes the service's process, then becomes the subreaper. If either fails, exits with init's own
/// status.
fn be_root(subreaper: &OwnedFd, mut writer: PipeWriter, command: &[CString]) -> ! {
    process::lead_session();
    tell_pid(&mut writer);
    process::adopt_orphans();
    isolate::keep_no_capabilities();
    let service = match process::fork() {
        Ok(Fork::Child) => be_service(writer, command),
        Ok(Fork::Parent(pid)) => pid,
        Err(error) => give_up(StartError::Fork(error), exit::FATAL),
    };
    drop(writer);
    let _ = std::env::set_current_dir("/");
    process::close_all_on_exec(0);
    let arguments = [SUBREAPER_NAME.to_owned(), CString::new(service.to_string()).unwrap_or_default()];
    let error = process::exec_file(subreaper, &arguments);
    process::kill(service, libc::SIGKILL);
    give_up(StartError::Subreaper(error), exit::FATAL)
}

/// The grandchild: sends init its PID once signals can reach its group, then executes the command.
fn be_service(mut writer: PipeWriter, command: &[CString]) -> ! {
    process::lead_session();
    tty::take();
    tell_pid(&mut writer);
    drop(writer);
    signals::release();
    let error = process::exec(command);
    let code = if error.kind() == io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
    let program = command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    give_up(format_args!("cannot execute {program}: {error}"), code)
}

fn give_up(error: impl fmt::Display, code: u8) -> ! {
    say(&error.to_string());
    process::exit_now(code)
}
