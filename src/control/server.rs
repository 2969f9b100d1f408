//! Init's side of the control socket.
//!
//! A client can neither block init nor make it grow. Clients are bounded by [`MAX_CLIENTS`], each request by
//! [`MAX_LINE`](super::protocol::MAX_LINE), and a client that does not read is dropped once its socket buffer
//! is full.

use std::os::{
    fd::{AsFd, BorrowedFd},
    unix::net::{UnixListener, UnixStream},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{
    lines::{self, Got, Lines},
    protocol::{Event, Op, Request, VERSION},
};

/// Maximum number of concurrent clients.
pub const MAX_CLIENTS: usize = 16;

/// Connection ID. IDs are never reused, so a late answer cannot reach another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(u64);

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// The request is incomplete.
    Asking,
    /// The client waits for its answer.
    Waiting,
    /// The client got its last line and has not closed yet.
    Answered,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    lines: Lines,
    stage: Stage,
}

/// The listening socket and its connections.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: [Option<Client>; MAX_CLIENTS],
    next_id: u64,
}

/// Something a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It sent a request.
    Asked(ClientId, Op),
    /// It closed before it had its answer.
    Left(ClientId),
}

impl Server {
    /// Serves a non-blocking listening socket.
    pub fn new(listener: UnixListener) -> Server {
        Server { listener, clients: Default::default(), next_id: 0 }
    }

    /// The listening socket. Poll it for input, then call [`accept`](Self::accept).
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The socket in each slot. Poll it for input if the flag is set, else only for hang-up; then call
    /// [`serve`](Self::serve).
    pub fn slots(&self) -> [Option<(BorrowedFd<'_>, bool)>; MAX_CLIENTS] {
        self.clients
            .each_ref()
            .map(|slot| slot.as_ref().map(|client| (client.stream.as_fd(), client.stage == Stage::Asking)))
    }

    /// Accepts one client, if its user is allowed. If all slots are taken, the oldest client that does not
    /// wait for an answer is evicted; if all clients wait, the new one gets a failure.
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
                &failed(format!("{MAX_CLIENTS} clients are already waiting: try again later")),
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

    /// Reads from the client in a slot that polled ready.
    pub fn serve(&mut self, slot: usize) -> Option<Said> {
        let entry = self.clients.get_mut(slot)?;
        let client = entry.as_mut()?;
        // After its request a client is polled only for hang-up; further input stays unread.
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
                let message =
                    format!("the client speaks protocol version {}, and this init version {VERSION}", request.version);
                self.finish_slot(slot, &failed(message));
            }
            (Some(Err(error)), _) => self.finish_slot(slot, &failed(format!("cannot parse the request: {error}"))),
            (None, Ok(Got::Bytes | Got::Nothing)) => {}
            (None, Ok(Got::End) | Err(_)) => *entry = None,
        }
        None
    }

    /// Sends a line that is not the last. Returns whether the client is still connected.
    pub fn send(&mut self, id: ClientId, event: &Event) -> bool {
        let Some(entry) = self.entry(id) else { return false };
        let sent = entry.as_mut().is_some_and(|client| lines::write(&mut client.stream, event).is_ok());
        if !sent {
            *entry = None;
        }
        sent
    }

    /// Sends the last line and shuts down the writing side.
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

    /// Fails all clients that wait, and drops those whose request is incomplete.
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

    pub fn is_idle(&self) -> bool {
        self.clients.iter().all(Option::is_none)
    }
}

pub fn failed(message: String) -> Event {
    Event::Failed { message, log: None, phase: None }
}

/// Whether the peer may send requests: only root and init's user may. A peer whose user is not mapped into
/// init's user namespace appears under the overflow UID. It is accepted, as the modes of folder and socket
/// let no other user connect.
fn is_allowed(stream: &UnixStream) -> bool {
    let allowed = |uid| [0, nix::unistd::geteuid().as_raw()].contains(&uid) || uid == nobody() && !is_mapped(uid);
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| allowed(peer.uid()))
}

/// The overflow UID, under which unmapped users appear (user_namespaces(7), "Unmapped user and group IDs").
fn nobody() -> u32 {
    let set = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    set.and_then(|text| text.trim().parse().ok()).unwrap_or(65534)
}

/// Whether a UID is mapped in this process's user namespace.
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
