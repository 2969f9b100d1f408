//! A proxy that stands in front of an S3 server and makes the faults that a test asks for. Passes on all headers, as they
//! are signed.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::http::Message;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status and code, and does not reach the server.
    Status(u16, &'static str),
    /// The connection is reset, and the request does not reach the server.
    ResetBefore,
    /// The server does as asked, and the connection is reset in the place of its reply.
    ReplyLost,
    /// The server does as asked, and then a failure is reported.
    ReplyReplaced(u16, &'static str),
    /// The reply's body comes in pieces of that many bytes, 10 ms apart.
    Slow(usize),
    /// Nothing comes after that many bytes of the reply's body, for as long as the proxy lives.
    Stall(usize),
    /// The connection ends after that many bytes of the reply's body.
    Cut(usize),
    /// Nothing is answered at all, for as long as the proxy lives.
    Silence,
    /// A condition that does not hold is said to hold, as by a server that does not know such conditions.
    ConditionIgnored,
    /// From this request on the proxy is away.
    GoesAway,
    /// It waits until it is [let go](Proxy::let_go), and is then done as if nothing had been.
    Held,
}

/// A fault for the next `times` requests of `method` whose path contains `path`.
#[derive(Debug, Clone)]
struct Rule {
    method: &'static str,
    path: String,
    fault: Fault,
    times: usize,
}

/// A running proxy; what it holds back goes on, and it takes no more, when it is dropped.
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    listeners: Mutex<Vec<TcpListener>>,
}

struct Shared {
    server: String,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<String>>,
    over: Mutex<Over>,
    changed: Condvar,
    away: AtomicBool,
}

/// What is waited for.
#[derive(Default)]
struct Over {
    held: bool,
    all: bool,
}

impl Proxy {
    /// In front of the server at `http://HOST:PORT`.
    pub fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            server: server.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned(),
            rules: Mutex::default(),
            seen: Mutex::default(),
            over: Mutex::default(),
            changed: Condvar::new(),
            away: AtomicBool::new(false),
        });
        let proxy = Self { url, shared, listeners: Mutex::default() };
        proxy.listen_too(listener);
        proxy
    }

    /// Takes requests here too.
    pub fn listen_too(&self, listener: TcpListener) {
        self.listeners.lock().unwrap().push(listener.try_clone().unwrap());
        let shared = self.shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.over.lock().unwrap().all {
                    break;
                }
                if let Ok(client) = client {
                    let shared = shared.clone();
                    thread::spawn(move || shared.serve(client));
                }
            }
        });
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes `fault` out of the next `times` requests of `method` (any, where empty) whose path and query contain `path`.
    pub fn fault(&self, method: &'static str, path: &str, fault: Fault, times: usize) {
        self.shared.rules.lock().unwrap().push(Rule { method, path: path.to_owned(), fault, times });
    }

    /// While it is away every connection is reset at once.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Relaxed);
    }

    /// Ends the wait of what is held, and of what will be.
    pub fn let_go(&self) {
        self.shared.over.lock().unwrap().held = true;
        self.shared.changed.notify_all();
    }

    /// Takes back all faults that are still to come.
    pub fn no_more(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// How many requests came whose method and path contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.contains(text)).count()
    }

    /// How many faults are still to come.
    pub fn left(&self) -> usize {
        self.shared.rules.lock().unwrap().iter().map(|rule| rule.times).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        *self.shared.over.lock().unwrap() = Over { held: true, all: true };
        self.shared.changed.notify_all();
        // Wakes who accepts, who then sees that it is over (shutdown(2) of a listening socket, on Linux).
        for listener in self.listeners.lock().unwrap().iter() {
            let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let _ = client.set_nodelay(true);
        let mut requests = BufReader::new(client.try_clone().unwrap());
        while let Ok(Some(request)) = Message::read(&mut requests, |_| true, false) {
            if self.away.load(Relaxed) {
                return reset(&client);
            }
            let (method, path) = request.first_words();
            self.seen.lock().unwrap().push(format!("{method} {path}"));
            let fault = self.take(method, path);
            if !matches!(self.answer(&client, request, fault), Ok(true)) {
                return reset(&client);
            }
        }
    }

    fn take(&self, method: &str, path: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let fits = |rule: &&mut Rule| {
            rule.times > 0 && (rule.method.is_empty() || rule.method == method) && path.contains(&rule.path)
        };
        let rule = rules.iter_mut().find(fits)?;
        rule.times -= 1;
        Some(rule.fault)
    }

    /// Says whether the connection can be used again.
    fn answer(&self, mut client: &TcpStream, request: Message, fault: Option<Fault>) -> io::Result<bool> {
        match fault {
            Some(Fault::Status(status, code)) => return client.write_all(&failure(status, code)).map(|()| true),
            Some(Fault::ResetBefore) => return Ok(false),
            Some(Fault::Silence) => return self.wait_for_end(),
            Some(Fault::GoesAway) => {
                self.away.store(true, Relaxed);
                return Ok(false);
            }
            Some(Fault::Held) => drop(self.changed.wait_while(self.over.lock().unwrap(), |over| !over.held)),
            _ => {}
        }
        let reply = self.forward(request)?;
        match fault {
            Some(Fault::ReplyLost) => return Ok(false),
            Some(Fault::ReplyReplaced(status, code)) => client.write_all(&failure(status, code))?,
            Some(Fault::ConditionIgnored) if reply.first_words().1 == "412" => {
                client.write_all(b"HTTP/1.1 200 OK\r\nETag: \"0\"\r\nContent-Length: 0\r\n\r\n")?;
            }
            fault => {
                client.write_all(reply.head.as_bytes())?;
                return self.send_body(client, &reply.body, fault);
            }
        }
        Ok(true)
    }

    fn send_body(&self, mut client: &TcpStream, body: &[u8], fault: Option<Fault>) -> io::Result<bool> {
        match fault {
            Some(Fault::Slow(size)) => {
                for piece in body.chunks(size) {
                    client.write_all(piece)?;
                    thread::sleep(Duration::from_millis(10));
                }
            }
            Some(Fault::Stall(at)) => {
                client.write_all(&body[..at.min(body.len())])?;
                return self.wait_for_end();
            }
            // All of it arrives before the connection ends: a shutdown, then, not a reset.
            Some(Fault::Cut(at)) => {
                client.write_all(&body[..at.min(body.len())])?;
                client.shutdown(Shutdown::Write)?;
                return self.wait_for_close(client);
            }
            _ => client.write_all(body)?,
        }
        Ok(true)
    }

    fn forward(&self, mut request: Message) -> io::Result<Message> {
        let mut server = TcpStream::connect(&self.server)?;
        let is_head = request.first_words().0 == "HEAD";
        request.without("connection");
        let end = request.head.len() - 2;
        request.head.insert_str(end, "Connection: close\r\n");
        server.write_all(request.head.as_bytes())?;
        server.write_all(&request.body)?;
        let has_body =
            |head: &str| !is_head && !["204", "304"].iter().any(|code| head.starts_with(&format!("HTTP/1.1 {code}")));
        let mut replies = BufReader::new(server);
        loop {
            let mut reply = Message::read(&mut replies, has_body, true)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if reply.first_words().1 != "100" {
                reply.without("connection");
                return Ok(reply);
            }
        }
    }

    fn wait_for_end(&self) -> io::Result<bool> {
        drop(self.changed.wait_while(self.over.lock().unwrap(), |over| !over.all));
        Ok(false)
    }

    fn wait_for_close(&self, mut client: &TcpStream) -> io::Result<bool> {
        io::copy(&mut client, &mut io::sink())?;
        Ok(false)
    }
}

fn failure(status: u16, code: &str) -> Vec<u8> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>");
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n");
    (head + &body).into_bytes()
}

/// Ends a connection so that the peer sees a reset.
fn reset(client: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt::Linger};
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(&client.as_fd(), Linger, &at_once);
}
