//! A worker's side of its socket to init.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::{Job, SOCKET_FD};
use crate::control::protocol::{Event, MAX_LINE, Phase};
use crate::sys::{fd, process};

/// Longest message, in bytes, that fits into a line whatever it is made of.
const MAX_MESSAGE: usize = MAX_LINE / 8;

/// Sends events to init.
#[derive(Debug)]
pub struct Reporter(UnixStream);

impl Reporter {
    /// Takes the inherited socket and reads the job from it.
    ///
    /// # Errors
    /// Where this process was not started by init.
    pub fn receive_job() -> io::Result<(Self, Job)> {
        let stream = UnixStream::from(process::inherited(SOCKET_FD)?);
        fd::keep_from_exec(stream.as_fd())?;
        let mut line = Vec::new();
        BufReader::new((&stream).take(MAX_LINE as u64)).read_until(b'\n', &mut line)?;
        Ok((Self(stream), serde_json::from_slice(&line)?))
    }

    /// Sends one event, of a line at most. Where init is gone there is nobody to tell, and the container is ending.
    pub fn send(&self, event: &Event) {
        let event = match event {
            Event::Failed { message, log, phase } if message.len() > MAX_MESSAGE => {
                &Event::Failed { message: shortened(message), log: log.clone(), phase: *phase }
            }
            Event::Warning { message } if message.len() > MAX_MESSAGE => {
                &Event::Warning { message: shortened(message) }
            }
            event => event,
        };
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = (&self.0).write_all(&line);
        }
    }

    /// Tells the user what does not stop the work.
    pub fn warn(&self, message: String) {
        self.send(&Event::Warning { message });
    }

    /// Says that a step begins.
    pub fn progress(&self, phase: Phase) {
        self.send(&Event::Progress { phase, bytes: 0, total: 0 });
    }
}

fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE / 4).chain("…".chars()).collect()
}
