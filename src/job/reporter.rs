//! A worker's end of its socket to init.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::control::lines::{Got, Lines};
use crate::control::protocol::{Event, MAX_MESSAGE, Phase};
use crate::control::trace::{Trace, TraceFile, unwritten};
use crate::job::{Job, Order, SOCKET_FD};
use crate::sys::{fd, process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Sends events to init, and receives its orders.
#[derive(Debug)]
pub struct Reporter {
    socket: UnixStream,
    lines: RefCell<Lines>,
    withdraw: Cell<bool>,
    trace: Option<(PathBuf, RefCell<Trace>)>,
}

impl Reporter {
    /// Takes the inherited socket and reads the job from it. Fails if this process was not started by init.
    pub fn receive_job() -> io::Result<(Self, Job)> {
        let socket = UnixStream::from(process::inherited(SOCKET_FD)?);
        fd::keep_from_exec(socket.as_fd())?;
        Self::over(socket)
    }

    fn over(mut socket: UnixStream) -> io::Result<(Self, Job)> {
        let mut lines = Lines::default();
        let job: Job = loop {
            if let Some(job) = lines.next_line() {
                break job?;
            }
            if lines.read(&mut socket)? == Got::End {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let trace = job.common().trace.clone().map(|path| (path, RefCell::default()));
        Ok((Self { socket, lines: RefCell::new(lines), withdraw: Cell::new(false), trace }, job))
    }

    /// A reporter for a test, and init's end of its socket.
    #[cfg(test)]
    pub fn pair() -> (Self, UnixStream) {
        let (init, socket) = UnixStream::pair().expect("a test may have sockets");
        (Self { socket, lines: RefCell::default(), withdraw: Cell::new(false), trace: None }, init)
    }

    /// Sends one event. Shortens a text that may exceed a line. Ignores errors: without init the container is
    /// ending.
    pub fn send(&self, event: &Event) {
        if let Some((_, trace)) = &self.trace {
            trace.borrow_mut().note(event);
        }
        send(&self.socket, event);
    }

    /// Sends the last event. Before that, adds the trace to its file, as the container may end after it.
    pub fn finish(self, event: &Event) {
        if let Some((path, trace)) = &self.trace {
            trace.borrow_mut().note(event);
            if let Err(error) = TraceFile::open(path).and_then(|mut file| file.add(&trace.borrow())) {
                self.warn(unwritten(path, &error));
            }
        }
        send(&self.socket, event);
    }

    /// For a thread that may have to end this worker.
    pub fn last_word(&self) -> LastWord {
        LastWord(self.socket.try_clone().ok())
    }

    pub fn warn(&self, message: String) {
        self.send(&Event::Warning { message });
    }

    /// Reports that a step begins.
    pub fn progress(&self, phase: Phase) {
        self.send(&Event::Progress { phase, bytes: 0, total: 0 });
    }

    /// Waits at most `time` for [`Order::Withdraw`]. Returns whether it has arrived, now or earlier.
    pub fn is_withdrawn_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.withdraw.get() {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, left) {
                Ok(0) => break,
                Ok(_) if self.hear().is_err() => {
                    // Init is gone, so this container is about to end. Sleep, as the caller would spin.
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                    break;
                }
                _ => {}
            }
        }
        self.withdraw.get()
    }

    fn hear(&self) -> io::Result<()> {
        let mut lines = self.lines.borrow_mut();
        if lines.read(&mut &self.socket)? == Got::End {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some(order) = lines.next_line() {
            match order? {
                Order::Withdraw => self.withdraw.set(true),
            }
        }
        Ok(())
    }
}

/// Another end of the socket. None if there is no descriptor to be had: init then tells how the worker ended.
#[derive(Debug)]
pub struct LastWord(Option<UnixStream>);

impl LastWord {
    pub fn say(self, event: &Event) {
        self.0.iter().for_each(|socket| send(socket, event));
    }
}

fn send(mut socket: &UnixStream, event: &Event) {
    let mut event = event.clone();
    if let Some(text) = event.text_mut().filter(|text| text.len() > MAX_MESSAGE) {
        *text = shortened(text);
    }
    if let Ok(mut line) = serde_json::to_vec(&event) {
        line.push(b'\n');
        let _ = socket.write_all(&line);
    }
}

fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE / 4).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use std::mem;

    use serde::Serialize;

    use super::*;
    use crate::control::protocol::{ClockReport, RestoreReport};
    use crate::image::{KeyFiles, Lease};
    use crate::job::Common;
    use crate::store::Location;

    fn job() -> Job {
        let common = Common {
            store: Location::at("file:/store"),
            keys: KeyFiles::default(),
            runtime_dir: "/run/freeze".into(),
            memory: 1,
            instance: "one".to_owned(),
            exclusive_ms: None,
            trace: None,
        };
        Job::Heartbeat { common, lease: Lease::fresh() }
    }

    fn line(message: &impl Serialize) -> Vec<u8> {
        [&serde_json::to_vec(message).unwrap()[..], b"\n"].concat()
    }

    #[test]
    fn an_order_is_heard_also_right_behind_the_job_and_in_pieces() {
        assert_eq!(line(&Order::Withdraw), b"{\"order\":\"withdraw\"}\n");
        let (mut init, socket) = UnixStream::pair().unwrap();
        let job = job();
        let (first, rest) = (line(&job), line(&Order::Withdraw));
        let (early, late) = rest.split_at(7);
        init.write_all(&[&first[..], early].concat()).unwrap();
        let (reporter, received) = Reporter::over(socket).unwrap();
        assert_eq!(received, job);
        assert!(!reporter.is_withdrawn_within(Duration::ZERO));
        init.write_all(late).unwrap();
        assert!(reporter.is_withdrawn_within(Duration::from_secs(600)));
        assert!(reporter.is_withdrawn_within(Duration::ZERO), "an order stands");
    }

    #[test]
    fn every_event_fits_a_line() {
        let text = || "\0".repeat(8 * MAX_MESSAGE);
        let restore = RestoreReport {
            generation: 1,
            at_ms: 0,
            total_ms: 0,
            bytes: 0,
            ahead: 0,
            from: text(),
            clocks: ClockReport::default(),
        };
        for event in [
            Event::Warning { message: text() },
            Event::Failed { message: text(), log: None, phase: None },
            Event::Chosen { message: text() },
            Event::Lost { message: text() },
            Event::PidsExhausted { message: text() },
            Event::VolumeChanged { message: text() },
            Event::ClockBack { message: text() },
            Event::Settled { taken_by: Some(text()) },
            Event::HandingOver { to: text(), timeout_ms: 1 },
            Event::Restored { root: 1, service: 2, tracers: [0; 2], lease: Lease::fresh(), restore },
        ] {
            let (reporter, mut init) = Reporter::pair();
            reporter.send(&event);
            drop(reporter);
            let mut lines = Lines::default();
            while lines.read(&mut init).expect("the line is not too long") != Got::End {}
            let received: Event = lines.next_line().expect("a whole line").unwrap();
            assert_eq!(mem::discriminant(&received), mem::discriminant(&event));
        }
    }

    #[test]
    fn without_init_there_is_no_order() {
        let (mut init, socket) = UnixStream::pair().unwrap();
        init.write_all(&line(&job())).unwrap();
        let (reporter, _) = Reporter::over(socket).unwrap();
        drop(init);
        assert!(!reporter.is_withdrawn_within(Duration::from_millis(1)));
    }
}
