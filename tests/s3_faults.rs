//! Through a proxy that makes faults: every operation ends right or with a clean error, in a bounded time, and nothing
//! that was acknowledged is lost.

mod s3_support;

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use freeze::store::{Fencing, PutMode, S3Error, Store, StoreError};
use s3_support::proxy::Fault::{
    ConditionIgnored, Cut, ReplyLost, ReplyReplaced, ResetBefore, Silence, Slow, Stall, Status,
};
use s3_support::proxy::{Fault, Proxy};
use s3_support::{data, endpoint, store_at};

const LIMIT: u64 = 1 << 30;

fn behind_a_proxy() -> (Proxy, Arc<dyn Store>) {
    let proxy = Proxy::new(&endpoint());
    let store = store_at(proxy.url());
    (proxy, store)
}

fn source(error: StoreError) -> S3Error {
    match error {
        StoreError::S3 { source, .. } => source,
        other => panic!("{other}"),
    }
}

/// What a request survives, when it happens twice.
const PASSING: [Fault; 8] = [
    Status(500, "InternalError"),
    Status(503, "SlowDown"),
    Status(429, "TooManyRequests"),
    Status(409, "ConditionalRequestConflict"),
    Status(502, ""),
    ResetBefore,
    ReplyLost,
    ReplyReplaced(500, "InternalError"),
];

#[test]
fn every_operation_survives_what_passes() {
    for fault in PASSING {
        let (proxy, store) = behind_a_proxy();
        proxy.fault("", "", fault, 2);
        store.put("head", Bytes::from_static(b"one"), PutMode::Create).unwrap();
        let (found, version) = store.get("head", LIMIT).unwrap();
        assert_eq!(found, b"one", "{fault:?}");
        proxy.fault("PUT", "", fault, 2);
        store.put("head", Bytes::from_static(b"two"), PutMode::Update(version)).unwrap();
        proxy.fault("GET", "head", fault, 2);
        assert_eq!(store.get("head", LIMIT).unwrap().0, b"two", "{fault:?}");
        proxy.fault("GET", "head", fault, 2);
        assert_eq!(store.get_range("head", 1..3).unwrap(), b"wo", "{fault:?}");
        proxy.fault("GET", "list-type", fault, 2);
        assert_eq!(store.list("").unwrap().len(), 1, "{fault:?}");
        proxy.fault("DELETE", "", fault, 2);
        store.delete("head").unwrap();
        proxy.fault("PUT", "probe", fault, 2);
        assert_eq!(store.prepare().unwrap(), Fencing::Enforced, "{fault:?}");
        assert_eq!(proxy.left(), 0, "{fault:?}");
    }
}

#[test]
fn of_a_lost_reply_only_the_writer_itself_profits() {
    let (proxy, store) = behind_a_proxy();
    store.put("outcomes/1", Bytes::from_static(b"same"), PutMode::Create).unwrap();
    let (_, version) = store.get("outcomes/1", LIMIT).unwrap();
    store.put("outcomes/1", Bytes::from_static(b"same"), PutMode::Create).unwrap_err();
    assert_eq!(proxy.count("HEAD"), 0, "nothing was lost, so there is nothing to find out");
    for fault in [ResetBefore, ReplyLost, Status(500, "InternalError")] {
        proxy.fault("PUT", "outcomes", fault, 1);
        let second = store.put("outcomes/1", Bytes::from_static(b"same"), PutMode::Create);
        assert!(matches!(second, Err(StoreError::Exists { .. })), "{fault:?}: {second:?}");
    }
    store.put("outcomes/1", Bytes::from_static(b"theirs"), PutMode::Update(version.clone())).unwrap();
    proxy.fault("PUT", "outcomes", ReplyLost, 1);
    let late = store.put("outcomes/1", Bytes::from_static(b"ours"), PutMode::Update(version));
    assert!(matches!(late, Err(StoreError::Changed { .. })), "{late:?}");
    assert_eq!(store.get("outcomes/1", LIMIT).unwrap().0, b"theirs");
}

#[test]
fn uploads_in_parts_survive_what_passes() {
    let whole = data(20_000_000);
    for fault in PASSING {
        let (proxy, store) = behind_a_proxy();
        for step in ["uploads", "partNumber=1&", "partNumber=2&"] {
            proxy.fault("", step, fault, 1);
        }
        store.put("packs/a", whole.clone().into(), PutMode::Create).unwrap();
        proxy.fault("POST", "uploadId", fault, 1);
        store.put("packs/b", whole.clone().into(), PutMode::Create).unwrap();
        assert_eq!(proxy.left(), 0, "{fault:?}");
        for key in ["packs/a", "packs/b"] {
            assert!(store.get(key, LIMIT).unwrap().0 == whole, "{fault:?}");
            let again = store.put(key, whole.clone().into(), PutMode::Create);
            assert!(matches!(again, Err(StoreError::Exists { .. })), "{fault:?}: {again:?}");
        }
    }
}

#[test]
fn an_upload_that_the_server_forgot_is_begun_anew() {
    let (proxy, store) = behind_a_proxy();
    proxy.fault("POST", "uploadId", Status(404, "NoSuchUpload"), 1);
    store.put("packs/a", data(20_000_000).into(), PutMode::Create).unwrap();
    assert_eq!(proxy.count("?uploads"), 2);
    proxy.fault("POST", "uploadId", Status(404, "NoSuchUpload"), 3);
    let error = source(store.put("packs/b", data(20_000_000).into(), PutMode::Create).unwrap_err());
    assert!(matches!(error, S3Error::Refused { status: 404, .. }), "{error}");
    assert_eq!(store.list("").unwrap().len(), 1);
}

#[test]
fn an_upload_that_fails_leaves_nothing() {
    let (proxy, store) = behind_a_proxy();
    proxy.fault("PUT", "partNumber=2&", Status(400, "EntityTooSmall"), 1);
    let error = source(store.put("packs/a", data(20_000_000).into(), PutMode::Create).unwrap_err());
    assert!(matches!(error, S3Error::Refused { status: 400, .. }), "{error}");
    assert_eq!(proxy.count("DELETE"), 1);
    assert_eq!(store.clean(std::time::Duration::ZERO).unwrap(), 0);
    assert_eq!(store.list("").unwrap(), []);
}

#[test]
fn uploads_that_were_left_are_cleaned() {
    let (proxy, store) = behind_a_proxy();
    proxy.fault("PUT", "partNumber=2&", Status(400, "EntityTooSmall"), 1);
    // The abort too is refused.
    proxy.fault("DELETE", "", Status(403, "AccessDenied"), 1);
    store.put("packs/a", data(20_000_000).into(), PutMode::Create).unwrap_err();
    store.put("packs/b", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    // A probe that may not be deleted.
    proxy.fault("DELETE", "probe", Status(403, "AccessDenied"), 1);
    store.prepare().unwrap();
    assert_eq!(store.clean(std::time::Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(store.clean(std::time::Duration::ZERO).unwrap(), 2);
    assert_eq!(store.clean(std::time::Duration::ZERO).unwrap(), 0);
    assert_eq!(store.list("").unwrap().len(), 1);
}

#[test]
fn bodies_that_break_off_are_asked_for_again() {
    let (proxy, store) = behind_a_proxy();
    let whole = data(1_000_000);
    store.put("packs/a", whole.clone().into(), PutMode::Create).unwrap();
    for fault in [Cut(0), Cut(999_999), Slow(20_000), Stall(0), Stall(500_000)] {
        proxy.fault("GET", "packs", fault, 1);
        assert!(store.get("packs/a", LIMIT).unwrap().0 == whole, "{fault:?}");
        proxy.fault("GET", "packs", fault, 1);
        assert!(store.get_range("packs/a", 0..1_000_000).unwrap() == whole, "{fault:?}");
    }
    proxy.fault("GET", "packs", Cut(1000), usize::MAX);
    let error = source(store.get_range("packs/a", 0..2000).unwrap_err());
    assert!(matches!(&error, S3Error::Reply { what } if what.contains("broke off")), "{error}");
}

#[test]
fn a_server_that_ignores_conditions_is_found() {
    let (proxy, store) = behind_a_proxy();
    proxy.fault("PUT", "", ConditionIgnored, usize::MAX);
    assert_eq!(store.prepare().unwrap(), Fencing::Ignored);
    let (proxy, store) = behind_a_proxy();
    // After the probe is written, one of the two conditions is enough.
    proxy.fault("PUT", "", ConditionIgnored, 2);
    assert_eq!(store.prepare().unwrap(), Fencing::Ignored);
}

#[test]
fn what_stays_ends_with_a_clean_error() {
    let (proxy, store) = behind_a_proxy();
    proxy.fault("GET", "a", Status(503, "SlowDown"), usize::MAX);
    let error = source(store.get("a", LIMIT).unwrap_err());
    assert!(matches!(&error, S3Error::Failed { status: 503, code, attempts: 10 } if code == "SlowDown"), "{error}");
    proxy.set_away(true);
    let error = source(store.put("b", Bytes::from_static(b"x"), PutMode::Create).unwrap_err());
    assert!(matches!(error, S3Error::Unreachable { attempts: 10, .. }), "{error}");
    proxy.set_away(false);
    proxy.fault("PUT", "c", Status(403, "AccessDenied"), 1);
    let error = source(store.put("c", Bytes::from_static(b"x"), PutMode::Create).unwrap_err());
    assert!(matches!(error, S3Error::Denied { action: "s3:PutObject" }), "{error}");
    store.put("c", Bytes::from_static(b"x"), PutMode::Create).unwrap();
}

#[test]
fn a_server_that_never_answers_costs_a_bounded_time() {
    let (proxy, store) = behind_a_proxy();
    proxy.fault("", "", Silence, usize::MAX);
    thread::scope(|scope| {
        let put = scope.spawn(|| store.put("a", Bytes::from_static(b"x"), PutMode::Create));
        let get = scope.spawn(|| store.get("a", LIMIT));
        for error in [put.join().unwrap().unwrap_err(), get.join().unwrap().map(drop).unwrap_err()] {
            let error = source(error);
            assert!(matches!(error, S3Error::TimedOut { attempts: 2.., .. }), "{error}");
        }
    });
}

#[test]
fn what_was_acknowledged_is_there_whatever_happened() {
    let (proxy, store) = behind_a_proxy();
    let seed = blake3::hash(b"faults");
    let mut kinds = vec![0; 400];
    blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut kinds);
    let writers: Vec<Vec<(String, bool)>> = thread::scope(|scope| {
        let kinds = &kinds;
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (proxy, store) = (&proxy, &store);
                scope.spawn(move || {
                    (0..40)
                        .map(|n| {
                            let fault = match kinds[writer * 40 + n] % 8 {
                                0 => Some(ReplyLost),
                                1 => Some(ResetBefore),
                                2 => Some(ReplyReplaced(500, "InternalError")),
                                3 => Some(Status(400, "BadRequest")),
                                _ => None,
                            };
                            fault.into_iter().for_each(|fault| proxy.fault("PUT", "", fault, 1));
                            let key = format!("packs/{writer}-{n}");
                            let done = store.put(&key, key.clone().into(), PutMode::Create);
                            assert!(!matches!(done, Err(StoreError::Exists { .. })), "{key} is written once");
                            (key, done.is_ok())
                        })
                        .collect()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let mut acknowledged = 0;
    for (key, _) in writers.iter().flatten().filter(|(_, done)| *done) {
        assert_eq!(store.get(key, LIMIT).unwrap().0, key.as_bytes());
        acknowledged += 1;
    }
    assert!((200..320).contains(&acknowledged), "{acknowledged}");
}
