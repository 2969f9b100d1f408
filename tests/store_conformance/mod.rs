//! What every store must do. The tests of each call [`run`] with an empty one.

use std::thread;

use bytes::Bytes;

use freeze::store::{PutMode, Store, StoreError, Version};

const LIMIT: u64 = 1 << 30;

/// Runs the whole suite on an empty store.
pub fn run(store: &dyn Store) {
    nothing_is_there(store);
    preparing_leaves_nothing(store);
    what_is_put_can_be_read(store);
    creating_is_done_once(store);
    updating_needs_the_version(store);
    of_many_creators_one_wins(store);
    no_update_is_lost(store);
    ranges_are_exact(store);
    lists_are_sorted_and_filtered(store);
    deleting_twice_is_no_error(store);
    bad_keys_are_refused(store);
    large_objects_come_back(store);
}

fn nothing_is_there(store: &dyn Store) {
    assert_eq!(store.list("").unwrap(), []);
    assert_eq!(store.list("packs/").unwrap(), []);
    assert!(matches!(store.get("head", LIMIT), Err(StoreError::NotFound { .. })));
    assert!(matches!(store.get_range("packs/a", 0..1), Err(StoreError::NotFound { .. })));
    store.delete("head").unwrap();
}

fn preparing_leaves_nothing(store: &dyn Store) {
    store.prepare().unwrap();
    store.prepare().unwrap();
    assert_eq!(store.list("").unwrap(), []);
}

fn what_is_put_can_be_read(store: &dyn Store) {
    store.put("put/a", Bytes::from_static(b"one"), PutMode::Overwrite).unwrap();
    let (data, first) = store.get("put/a", 3).unwrap();
    assert_eq!((data, &first), (b"one".to_vec(), &store.get("put/a", 3).unwrap().1));
    store.put("put/a", Bytes::from_static(b"longer"), PutMode::Overwrite).unwrap();
    let (data, second) = store.get("put/a", LIMIT).unwrap();
    assert_eq!(data, b"longer");
    assert_ne!(first, second);
    assert!(matches!(store.get("put/a", 5), Err(StoreError::TooLarge { size: 6, limit: 5, .. })));
    store.put("put/empty", Bytes::from_static(b""), PutMode::Create).unwrap();
    assert_eq!(store.get("put/empty", 0).unwrap().0, b"");
}

fn creating_is_done_once(store: &dyn Store) {
    store.put("create/a", Bytes::from_static(b"mine"), PutMode::Create).unwrap();
    assert!(matches!(
        store.put("create/a", Bytes::from_static(b"yours"), PutMode::Create),
        Err(StoreError::Exists { .. })
    ));
    assert!(matches!(
        store.put("create/a", Bytes::from_static(b"mine"), PutMode::Create),
        Err(StoreError::Exists { .. })
    ));
    assert_eq!(store.get("create/a", LIMIT).unwrap().0, b"mine");
}

fn updating_needs_the_version(store: &dyn Store) {
    store.put("update/a", Bytes::from_static(b"1"), PutMode::Create).unwrap();
    let (_, first) = store.get("update/a", LIMIT).unwrap();
    store.put("update/a", Bytes::from_static(b"2"), PutMode::Update(first.clone())).unwrap();
    assert!(matches!(
        store.put("update/a", Bytes::from_static(b"3"), PutMode::Update(first)),
        Err(StoreError::Changed { .. })
    ));
    let (data, second) = store.get("update/a", LIMIT).unwrap();
    assert_eq!(data, b"2");
    store.delete("update/a").unwrap();
    assert!(matches!(
        store.put("update/a", Bytes::from_static(b"4"), PutMode::Update(second)),
        Err(StoreError::Changed { .. })
    ));
    let invented = PutMode::Update(Version("invented".into()));
    assert!(matches!(store.put("update/b", Bytes::from_static(b"5"), invented), Err(StoreError::Changed { .. })));
    assert_eq!(store.list("update/").unwrap(), []);
}

fn of_many_creators_one_wins(store: &dyn Store) {
    let create = |text: String| match store.put("race/create", text.clone().into(), PutMode::Create) {
        Ok(_) => Some(text),
        Err(StoreError::Exists { .. }) => None,
        Err(e) => panic!("{e}"),
    };
    let winners: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|i| scope.spawn(move || create(format!("writer {i}")))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(winners.len(), 1);
    assert_eq!(store.get("race/create", LIMIT).unwrap().0, winners[0].as_bytes());
}

fn no_update_is_lost(store: &dyn Store) {
    const EACH: u32 = 20;
    store.put("race/update", Bytes::from_static(b"0"), PutMode::Create).unwrap();
    let count_up = || {
        let mut done = 0;
        while done < EACH {
            let (data, version) = store.get("race/update", LIMIT).unwrap();
            let next: u32 = std::str::from_utf8(&data).unwrap().parse::<u32>().unwrap() + 1;
            match store.put("race/update", next.to_string().into(), PutMode::Update(version)) {
                Ok(_) => done += 1,
                Err(StoreError::Changed { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(count_up))));
    assert_eq!(store.get("race/update", LIMIT).unwrap().0, (4 * EACH).to_string().as_bytes());
}

fn ranges_are_exact(store: &dyn Store) {
    store.put("range/a", Bytes::from_static(b"0123456789"), PutMode::Create).unwrap();
    assert_eq!(store.get_range("range/a", 0..10).unwrap(), b"0123456789");
    assert_eq!(store.get_range("range/a", 3..5).unwrap(), b"34");
    assert_eq!(store.get_range("range/a", 9..10).unwrap(), b"9");
    assert_eq!(store.get_range("range/a", 10..10).unwrap(), b"");
    assert!(matches!(store.get_range("range/a", 11..11), Err(StoreError::OutOfRange { size: 10, .. })));
    assert!(matches!(store.get_range("range/a", 9..11), Err(StoreError::OutOfRange { size: 10, .. })));
    assert!(matches!(store.get_range("range/a", 20..30), Err(StoreError::OutOfRange { .. })));
}

fn lists_are_sorted_and_filtered(store: &dyn Store) {
    for key in ["list/b", "list/a/2", "list/a/10", "list/a.x", "list"] {
        // A folder cannot be a file too, so the last one may be refused; it must not hide the others.
        let _ = store.put(key, key.into(), PutMode::Create);
    }
    let keys = |prefix| store.list(prefix).unwrap().into_iter().map(|object| object.key).collect::<Vec<_>>();
    assert_eq!(keys("list/"), ["list/a.x", "list/a/10", "list/a/2", "list/b"]);
    assert_eq!(keys("list/a/"), ["list/a/10", "list/a/2"]);
    assert_eq!(keys("list/a"), ["list/a.x", "list/a/10", "list/a/2"]);
    assert_eq!(store.list("list/b").unwrap()[0].size, 6);
    assert_eq!(store.list("list/none").unwrap(), []);
}

fn deleting_twice_is_no_error(store: &dyn Store) {
    store.put("delete/a", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    store.delete("delete/a").unwrap();
    store.delete("delete/a").unwrap();
    assert!(matches!(store.get("delete/a", LIMIT), Err(StoreError::NotFound { .. })));
    store.put("delete/a", Bytes::from_static(b"y"), PutMode::Create).unwrap();
}

fn bad_keys_are_refused(store: &dyn Store) {
    for key in ["", "../a", "/a", "a//b", "a/../../b", ".lock", "a\nb"] {
        assert!(
            matches!(store.put(key, Bytes::from_static(b"x"), PutMode::Overwrite), Err(StoreError::BadKey { .. })),
            "{key:?}"
        );
        assert!(matches!(store.get(key, LIMIT), Err(StoreError::BadKey { .. })), "{key:?}");
        assert!(matches!(store.get_range(key, 0..1), Err(StoreError::BadKey { .. })), "{key:?}");
        assert!(matches!(store.delete(key), Err(StoreError::BadKey { .. })), "{key:?}");
    }
    assert!(matches!(store.list("../"), Err(StoreError::BadKey { .. })));
}

fn large_objects_come_back(store: &dyn Store) {
    let data: Vec<u8> = (0..12_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.put("large/a", data.clone().into(), PutMode::Create).unwrap();
    assert!(store.get("large/a", LIMIT).unwrap().0 == data);
    assert!(store.get_range("large/a", 11_000_000..12_000_001).unwrap() == data[11_000_000..]);
}
