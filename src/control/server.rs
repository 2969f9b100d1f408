//! Init's side of the control socket. No client can make it wait, grow, or wake up by itself: a bounded number of clients, a
//! bounded line from each, and whoever does not read is dropped.

use std::os::{
    fd::{AsFd, BorrowedFd},
    unix::net::{UnixListener, UnixStream},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{
    lines::{self, Got, Lines},
    protocol::{Event, Op, Request, VERSION},
};

/// Clients at once.
pub const MAX_CLIENTS: usize = 16;

/// Names one connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(u64);

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Has not finished its request.
    Asking,
    /// Waits for its answer.
    Waiting,
    /// Has its last line, and has not closed yet.
    Answered,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    lines: Lines,
    stage: Stage,
}

/// The listening socket and its clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: [Option<Client>; MAX_CLIENTS],
    next_id: u64,
}

/// What a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It asked for something.
    Asked(ClientId, Op),
    /// It went away before it had its answer.
    Left(ClientId),
}

impl Server {
    /// Serves a listening socket that does not block.
    pub fn new(listener: UnixListener) -> Server {
        Server { listener, clients: Default::default(), next_id: 0 }
    }

    /// The listening socket, to be polled for input, upon which [`accept`](Self::accept) is due.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The socket in each slot, and whether to poll it for input or only for its end; then [`serve`](Self::serve) is due.
    pub fn slots(&self) -> [Option<(BorrowedFd<'_>, bool)>; MAX_CLIENTS] {
        self.clients
            .each_ref()
            .map(|slot| slot.as_ref().map(|client| (client.stream.as_fd(), client.stage == Stage::Asking)))
    }

    /// Takes one new client, if it may talk to us. Where all slots are taken the oldest client that is not waiting for an
    /// answer makes room; where all wait, the new one is told so.
    pub fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if stream.set_nonblocking(true).is_err() || !is_allowed(&stream) {
            return;
        }
        let id = ClientId(self.next_id);
        self.next_id += 1;
        let mut client = Client { id, stream, lines: Lines::default(), stage: Stage::Asking };
        match self.free_slot() {
            Some(slot) => *slot = Some(client),
            None => drop(lines::write(
                &mut client.stream,
                &failed(format!("{MAX_CLIENTS} clients are waiting already: try later")),
            )),
        }
    }

    fn free_slot(&mut self) -> Option<&mut Option<Client>> {
        let age = |slot: &Option<Client>| match slot {
            None => Some(0),
            Some(client) if client.stage == Stage::Waiting => None,
            Some(client) => Some(client.id.0 + 1),
        };
        self.clients.iter_mut().filter(|slot| age(slot).is_some()).min_by_key(|slot| age(slot))
    }

    /// Reads from the client in a slot that has something to say or has gone.
    pub fn serve(&mut self, slot: usize) -> Option<Said> {
        let entry = self.clients.get_mut(slot)?;
        let client = entry.as_mut()?;
        // A client that has asked is polled only for its end; whatever else it wrote is not read.
        if client.stage != Stage::Asking {
            let left = (client.stage == Stage::Waiting).then_some(Said::Left(client.id));
            *entry = None;
            return left;
        }
        let read = client.lines.read(&mut client.stream);
        match (client.lines.next_line::<Request>(), read) {
            (Some(Ok(request)), _) if request.version == VERSION => {
                client.stage = Stage::Waiting;
                return Some(Said::Asked(client.id, request.op));
            }
            (Some(Ok(request)), _) => {
                let message = format!("the client speaks version {} and this init version {VERSION}", request.version);
                self.finish_slot(slot, &failed(message));
            }
            (Some(Err(error)), _) => self.finish_slot(slot, &failed(format!("the request is not understood: {error}"))),
            (None, Ok(Got::Bytes | Got::Nothing)) => {}
            (None, Ok(Got::End) | Err(_)) => *entry = None,
        }
        None
    }

    /// Sends a line that is not the last. Returns whether the client is still there.
    pub fn send(&mut self, id: ClientId, event: &Event) -> bool {
        let Some(entry) = self.entry(id) else { return false };
        let sent = entry.as_mut().is_some_and(|client| lines::write(&mut client.stream, event).is_ok());
        if !sent {
            *entry = None;
        }
        sent
    }

    /// Sends the last line.
    pub fn finish(&mut self, id: ClientId, event: &Event) {
        if let Some(slot) = self.clients.iter().position(|slot| slot.as_ref().is_some_and(|client| client.id == id)) {
            self.finish_slot(slot, event);
        }
    }

    fn finish_slot(&mut self, slot: usize, event: &Event) {
        let Some(entry) = self.clients.get_mut(slot) else { return };
        let Some(client) = entry else { return };
        client.stage = Stage::Answered;
        let sent =
            lines::write(&mut client.stream, event).and_then(|()| client.stream.shutdown(std::net::Shutdown::Write));
        if sent.is_err() {
            *entry = None;
        }
    }

    fn entry(&mut self, id: ClientId) -> Option<&mut Option<Client>> {
        self.clients.iter_mut().find(|slot| slot.as_ref().is_some_and(|client| client.id == id))
    }

    /// Sends everyone away who has no answer yet.
    pub fn close(&mut self, reason: &str) {
        for slot in 0..MAX_CLIENTS {
            match self.clients.get_mut(slot) {
                Some(Some(client)) if client.stage == Stage::Waiting => {
                    self.finish_slot(slot, &failed(reason.to_owned()))
                }
                Some(entry) if entry.as_ref().is_some_and(|client| client.stage == Stage::Asking) => *entry = None,
                _ => {}
            }
        }
    }

    /// Whether no client is left.
    pub fn is_idle(&self) -> bool {
        self.clients.iter().all(Option::is_none)
    }
}

/// An answer that says why not.
pub fn failed(message: String) -> Event {
    Event::Failed { message, log: None, phase: None }
}

/// Only root and the user that init runs as may give orders. Of who is outside of init's user namespace the kernel tells no more than
/// that; such a one has got past the modes of socket and folder, which let through nobody else either.
fn is_allowed(stream: &UnixStream) -> bool {
    let allowed = |uid| [0, nix::unistd::geteuid().as_raw()].contains(&uid) || uid == nobody() && !is_mapped(uid);
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| allowed(peer.uid()))
}

/// The user that one outside of this user namespace seems to be (user_namespaces(7), "Unmapped user and group IDs").
fn nobody() -> u32 {
    let set = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    set.and_then(|text| text.trim().parse().ok()).unwrap_or(65534)
}

/// Whether a user ID means somebody in this process's user namespace.
fn is_mapped(uid: u32) -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.is_empty() || maps(&map, uid)
}

fn maps(map: &str, uid: u32) -> bool {
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    map.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let (first, count) = (number(words.next()), number(words.nth(1)));
        (first..first + count).contains(&u64::from(uid))
    })
}

#[cfg(test)]
impl ClientId {
    /// Any client.
    pub fn of(number: u64) -> ClientId {
        ClientId(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_user_like_others_where_all_are_mapped() {
        assert!(maps("         0          0 4294967295\n", 65534));
        assert!(!maps("      1000       1000          1\n", 65534) && maps("1000 1000 1\n", 1000));
        assert!(maps("0 100000 65534\n65534 0 1\n", 65534) && !maps("0 100000 65534\n", 65534) && !maps("x", 0));
    }
}
