//! `freeze tracer`: becomes criu, as a worker asks, in a tracer that is there or in one that it makes.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::request::ASIDE;
use super::{CHANNEL_FD, Request, program, rest};
use crate::sys::process::{self, Fork};
use crate::sys::{fd, namespace, signals};

/// criu's end of the connection. A tracer at rest has the descriptors below it.
const CONNECTION_FD: i32 = CHANNEL_FD + 1;

/// Serves one request, as the tracer whose child is `child`; 0 for tracers that are to be made. Returns only
/// on error: a tracer that is there goes back to rest.
pub(crate) fn serve(child: i32, connection: i32) -> io::Error {
    signals::unblock();
    let served = process::inherited(connection).and_then(|socket| {
        let connection = UnixStream::from(fd::not_below(socket.as_fd(), ASIDE)?);
        let (request, numbers) = Request::receive(&connection)?;
        if child == 0 {
            make(request, &numbers, &connection)
        } else {
            become_criu(request, &numbers, &connection, child)
        }
    });
    match process::inherited(CHANNEL_FD) {
        Ok(channel) if child != 0 => rest(&channel, child),
        _ => served.err().unwrap_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Makes tracers: this process, the outermost, rests above the one that becomes criu.
fn make(mut request: Request, numbers: &[i32], connection: &UnixStream) -> io::Result<()> {
    process::lead_session();
    let mut channels = std::mem::take(&mut request.channels).into_iter().peekable();
    while let Some(channel) = channels.next() {
        if channels.peek().is_none() {
            process::place(&channel, CHANNEL_FD)?;
            break;
        }
        match process::fork()? {
            Fork::Child => process::lead_session(),
            Fork::Parent(pid) => return Err(rest(&channel, pid)),
        }
    }
    let root = request.root;
    become_criu(request, numbers, connection, root)
}

/// Executes criu, which executes the tracer at rest with this child.
fn become_criu(request: Request, numbers: &[i32], connection: &UnixStream, child: i32) -> io::Result<()> {
    let Request { criu, args, keep, time, oom_score_adj, until_exec: _until_exec, .. } = request;
    let _ = fs::write("/proc/self/oom_score_adj", oom_score_adj);
    let mut told = connection;
    told.write_all(&(std::process::id() as i32).to_ne_bytes())?;
    process::close_all_on_exec(CONNECTION_FD);
    for (fd, number) in keep.iter().zip(numbers) {
        process::place(fd, *number)?;
    }
    let program = program()?;
    fd::inherit(program.as_fd())?;
    process::place(&fd::not_below(connection.as_fd(), ASIDE)?, CONNECTION_FD)?;
    let mut command = Command::new(criu);
    command.args(args).args(end_as(&program, child)).env_clear().current_dir("/");
    namespace::start_in(&mut command, time);
    Err(command.exec())
}

/// Options of criu: what it executes at its end, and where its exit status goes.
fn end_as(program: &OwnedFd, child: i32) -> [OsString; 6] {
    let file = format!("/proc/self/fd/{}", program.as_raw_fd());
    ["--exec-cmd", "--end-fd", &CONNECTION_FD.to_string(), "--", &file, &child.to_string()].map(OsString::from)
}
