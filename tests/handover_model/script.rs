//! A store that answers by a script. Real code runs up to the first call that the script has no answer for: that is what the code does
//! next. Run again with one more answer, it gets to the call after that.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use freeze::image::{KeyFiles, Vault};
use freeze::store::{Doing, Fencing, ObjectMeta, PutMode, Store, StoreError, Version};

const URL: &str = "sim:/";
const FORMAT: &str = "format";

/// A call to the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Get(String),
    List(String),
    Put(String, Bytes, PutMode),
}

/// What the store says to a call.
#[derive(Clone, Debug)]
pub enum Reply {
    Done,
    Object(Bytes, Version),
    Keys(Vec<String>),
    NotFound,
    Exists,
    Changed,
    /// It has no room, and has done nothing.
    Full,
    /// No reply: the request may have been carried out or not.
    Nothing,
}

#[derive(Default)]
struct Played {
    replies: VecDeque<Reply>,
    next: Option<Call>,
    said: Option<u64>,
}

/// The store's side of one run.
pub struct Script {
    format: Mutex<Bytes>,
    played: Mutex<Played>,
}

impl Script {
    /// The `format` object of a new store.
    pub fn new_format() -> Bytes {
        let empty = Self::new(Bytes::new(), [Reply::NotFound, Reply::Keys(Vec::new())]);
        Vault::create(empty.clone(), &KeyFiles::default()).expect("it is an empty store");
        empty.format.lock().unwrap().clone()
    }

    pub fn new(format: Bytes, replies: impl IntoIterator<Item = Reply>) -> Arc<Self> {
        let played = Played { replies: replies.into_iter().collect(), ..Played::default() };
        Arc::new(Self { format: Mutex::new(format), played: Mutex::new(played) })
    }

    pub fn vault(self: &Arc<Self>) -> Vault {
        Vault::open(self.clone(), &KeyFiles::default()).expect("it is a format").expect("there is one")
    }

    /// Notes an event for init.
    pub fn say(&self, generation: u64) {
        let mut played = self.played.lock().unwrap();
        if played.next.is_none() {
            played.said = Some(generation);
        }
    }

    /// The first call without an answer, and the event before it.
    pub fn end(&self) -> (Option<Call>, Option<u64>) {
        let mut played = self.played.lock().unwrap();
        (played.next.take(), played.said)
    }

    /// Once the script is over every call fails, and the result of the run is dropped.
    fn answer(&self, key: &str, doing: Doing, call: Call) -> Result<Reply, StoreError> {
        let (url, key) = (URL.to_owned(), key.to_owned());
        let mut played = self.played.lock().unwrap();
        let reply = match played.replies.pop_front() {
            Some(reply) => reply,
            None => {
                played.next.get_or_insert(call);
                Reply::Nothing
            }
        };
        match reply {
            Reply::NotFound => Err(StoreError::NotFound { url, key }),
            Reply::Exists => Err(StoreError::Exists { url, key }),
            Reply::Changed => Err(StoreError::Changed { url, key }),
            Reply::Full => Err(StoreError::NoSpace { url, key, doing }),
            Reply::Nothing => Err(StoreError::Io { url, key, doing, source: io::ErrorKind::TimedOut.into() }),
            reply => Ok(reply),
        }
    }
}

impl Store for Script {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        Ok(Fencing::Enforced)
    }

    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        if key == FORMAT {
            *self.format.lock().unwrap() = data;
            return Ok(());
        }
        self.answer(key, Doing::Write, Call::Put(key.to_owned(), data, mode)).map(drop)
    }

    fn get(&self, key: &str, _limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        let format = self.format.lock().unwrap();
        if key == FORMAT && !format.is_empty() {
            return Ok((format.to_vec(), Version(String::new())));
        }
        // No container is exclusive here.
        if matches!(key, FORMAT | "holder") {
            return Err(StoreError::NotFound { url: URL.to_owned(), key: key.to_owned() });
        }
        match self.answer(key, Doing::Read, Call::Get(key.to_owned()))? {
            Reply::Object(data, version) => Ok((data.to_vec(), version)),
            reply => unreachable!("{reply:?} is no reply to a get of {key}"),
        }
    }

    fn get_range(&self, key: &str, _range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        unreachable!("no part of {key} is read")
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        // Generations are empty here.
        if prefix == "packs/" {
            return Ok(Vec::new());
        }
        match self.answer(prefix, Doing::List, Call::List(prefix.to_owned()))? {
            Reply::Keys(keys) => {
                let meta = |key| ObjectMeta { key, size: 1, modified: SystemTime::UNIX_EPOCH };
                Ok(keys.into_iter().map(meta).collect())
            }
            reply => unreachable!("{reply:?} is no reply to a list of {prefix}"),
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        unreachable!("{key} is never removed")
    }

    fn clean(&self, _older_than: Duration) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn url(&self) -> &str {
        URL
    }
}
