//! Each demand by itself: with too little its sentence, with just enough nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::compare::ALL;
use super::*;
use crate::host::clock::{self, Policy};
use crate::host::cpu::RegisterArea;
use crate::image::{Bound, Clocks, Demands, Manifest, Opened, SavedRegisters, SystemV};

const AREA: &[(u32, u32)] = &[(0, 576), (1, 576), (2, 832), (5, 840), (6, 1408), (7, 2432), (9, 2440)];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn bound(ip: &str, port: u16, datagrams: bool) -> Bound {
    Bound::new(ip.parse().unwrap(), port, datagrams)
}

fn demands() -> Demands {
    Demands {
        arch: "x86_64".into(),
        cpu_features: words(&["avx2", "bmi2"]),
        saved_registers: Some(SavedRegisters { components: 0x2e7, bytes: 2440 }),
        uid: 1000,
        capabilities: 1 << 5 | 1 << 10 | 1 << 40,
        lowest_pid: 1000,
        highest_id: 40_000,
        tasks: 2,
        memory: 300 << 20,
        descriptors: 5001,
        queue: 65_536,
        locked: 4 << 20,
        address_space: 900 << 20,
        data: 500 << 20,
        mappings: 70_000,
        committed: 800 << 20,
        file: 1 << 30,
        bound: vec![bound("0.0.0.0", 80, false), bound("::", 53, true), bound("10.0.0.2", 8080, false)],
        inotify_instances: 20,
        inotify_watches: 9000,
        epoll_watches: 10_000,
        signals: 40,
        processes: 1,
        files: vec![Opened { path: b"/data/log".into(), write: true, ..Opened::default() }],
        objects: vec![SystemV { kind: 1, id: 7, key: 5 }],
        clocks: Some(seconds(7201)),
        page_size: 16_384,
    }
}

fn seconds(seconds: u64) -> Clocks {
    Clocks { monotonic_ns: seconds * 1_000_000_000, boottime_ns: seconds * 1_000_000_000, ..Clocks::default() }
}

/// Just enough of everything.
fn means() -> Means {
    Means {
        arch: "x86_64".into(),
        features: words(&["avx2", "bmi2", "avx512f"]),
        registers: Some(RegisterArea::of(AREA)),
        clock: Some(clock::Means {
            now: seconds(7200),
            time_namespace: false,
            user_space: false,
            policy: Policy::Auto,
        }),
        page_size: Some(16_384),
        uid: 1000,
        bounding: words(&["KILL", "NET_BIND_SERVICE", "CHECKPOINT_RESTORE"]).into_iter().collect(),
        lacks: vec![],
        pid_max: Some(40_001),
        used: Some(999),
        memory: Some((300 << 20) + (300 << 12) + (4 << 20) + (224 << 10) + (128 << 10)),
        host_memory: None,
        processes: Some(6),
        user_processes: Some(6),
        descriptors: Some(5120),
        locked: Some(4 << 20),
        address_space: Some((900 << 20) + (8 << 20) + (128 << 10)),
        data: Some((500 << 20) + (4 << 20) + (128 << 10)),
        file_size: Some(1 << 30),
        signals: Some(40),
        limits: Default::default(),
        mappings: Some(70_000),
        commit: Some(800 << 20),
        inotify_instances: Some(20),
        inotify_watches: Some(9000),
        epoll_watches: Some(10_000),
        queue: Some(65_536),
        first_port: Some(53),
        addresses: Some(BTreeSet::from([[10, 0, 0, 2].into(), Ipv4Addr::LOCALHOST.into()])),
        taken: BTreeSet::from([("0.0.0.0".parse().unwrap(), 53), ("::".parse().unwrap(), 7000)]),
        objects: vec![],
        refusal: Some(|_| None),
    }
}

/// A little less than enough.
fn less(limit: &mut Option<u64>) {
    *limit = limit.map(|limit| limit - 1);
}

type Row = (&'static str, fn(&mut Means));

/// One row for each demand.
const ROWS: &[Row] = &[
    ("kernel", |it| it.lacks = vec![("ptrace", "EPERM".into()), ("/proc", "it is not mounted".into())]),
    ("machine", |it| it.features = words(&["avx2"])),
    ("registers", |it| it.registers = Some(RegisterArea::of(&AREA[..3]))),
    ("clocks", |it| it.clock.iter_mut().for_each(|clock| clock.now = seconds(1))),
    ("page size", |it| it.page_size = Some(4096)),
    ("highest PID", |it| it.pid_max = Some(40_000)),
    ("lowest PID", |it| it.used = Some(1000)),
    ("user", |it| it.uid = 1001),
    ("capabilities", |it| it.bounding = ["KILL".to_owned()].into()),
    ("memory", |it| less(&mut it.memory)),
    ("tasks", |it| less(&mut it.processes)),
    ("tasks of the user", |it| less(&mut it.user_processes)),
    ("descriptors", |it| less(&mut it.descriptors)),
    ("locked memory", |it| less(&mut it.locked)),
    ("address space", |it| less(&mut it.address_space)),
    ("data", |it| less(&mut it.data)),
    ("file size", |it| less(&mut it.file_size)),
    ("mappings", |it| less(&mut it.mappings)),
    ("committed memory", |it| less(&mut it.commit)),
    ("inotify instances", |it| less(&mut it.inotify_instances)),
    ("inotify watches", |it| less(&mut it.inotify_watches)),
    ("epoll watches", |it| less(&mut it.epoll_watches)),
    ("signals", |it| less(&mut it.signals)),
    ("message queue", |it| less(&mut it.queue)),
    ("ports", |it| it.first_port = Some(54)),
    ("addresses", |it| it.addresses = Some(BTreeSet::new())),
    ("free ports", |it| it.taken = [("0.0.0.0".parse().unwrap(), 80)].into()),
    ("open files", |it| it.refusal = Some(|file| file.write.then(|| "may not be written here".into()))),
    ("System V objects", |it| it.objects = vec![SystemV { kind: 1, id: 7, key: 6 }]),
];

#[test]
fn the_page_has_each_demand_in_its_order() {
    let page = include_str!("../../docs/reference/demands.md");
    let table = page.split("| demand |").nth(1).unwrap().split("\n\n").next().unwrap();
    let named = table.lines().skip(2).map(|row| row.split('`').nth(1).unwrap());
    assert!(named.eq(ROWS.iter().map(|(name, _)| *name)));
}

#[test]
fn each_demand_has_its_sentence() {
    assert_eq!(ROWS.len(), ALL.len(), "a demand has no row");
    let sentences: Vec<String> = ROWS
        .iter()
        .map(|(name, take)| {
            let mut means = means();
            take(&mut means);
            let missing = demands().missing(&means);
            assert_eq!(missing.len(), 1, "{name}: {missing:?}");
            assert_ne!(missing[0].fact_and_advice().1, "", "{name}: it lacks what to do");
            format!("{name}: {}", missing[0])
        })
        .collect();
    insta::assert_snapshot!(sentences.join("\n"));
}

#[test]
fn just_enough_is_enough() {
    assert_eq!(demands().missing(&means()), []);
}

#[test]
fn what_is_not_told_is_not_missing() {
    let unknown = Means { arch: "x86_64".into(), uid: 1000, features: means().features, ..Means::default() };
    let capabilities = 0;
    assert_eq!(Demands { capabilities, ..demands() }.missing(&unknown), []);
    let nothing = Demands { arch: "x86_64".into(), uid: 1000, ..Demands::default() };
    assert_eq!(nothing.missing(&means()), []);
}

#[test]
fn another_architecture_is_not_asked_for_features() {
    let means = Means { arch: "aarch64".into(), features: vec![], page_size: Some(65_536), ..means() };
    assert_eq!(demands().missing(&means), [Unfit::Architecture { theirs: "x86_64".into(), ours: "aarch64".into() }]);
}

#[test]
fn what_an_older_freeze_recorded_in_vain_is_not_missing() {
    let recorded = Demands { cpu_features: words(&["avx2", "vmx"]), saved_registers: None, ..demands() };
    let means = Means { registers: Some(RegisterArea::of(&AREA[..1])), ..means() };
    assert_eq!(recorded.missing(&means), []);
}

/// As a damaged or hostile store may say.
#[test]
fn numbers_beyond_all_limits_are_missing() {
    let most = Demands { memory: u64::MAX, tasks: u64::MAX, descriptors: u64::MAX, ..demands() };
    let nofile = Means { descriptors: Some(1 << 20), processes: Some(1 << 20), ..means() };
    assert_eq!(most.missing(&nofile).len(), 6);
}

/// The manifest of an older freeze has the clocks, and its demands do not.
#[test]
fn the_clocks_are_those_of_the_manifest() {
    let (clocks, older) = (Some(seconds(9)), Demands { clocks: None, ..demands() });
    let manifest = Manifest { clocks, demands: Some(older), ..Manifest::default() };
    assert_eq!(*of(&manifest), Demands { clocks, ..demands() });
}

#[test]
fn clocks_that_may_go_back_are_not_missing() {
    let later = |policy| means().clock.map(|clock| clock::Means { now: seconds(1), policy, ..clock });
    let missing = |policy| demands().missing(&Means { clock: later(policy), ..means() }).len();
    assert_eq!([Policy::Auto, Policy::Refuse, Policy::Host].map(missing), [1, 1, 0]);
}

#[test]
fn root_can_be_anybody() {
    assert_eq!(demands().missing(&Means { uid: 0, ..means() }), []);
}

#[test]
fn listeners_at_other_addresses_share_a_port() {
    let misses = |own: &str, other: &str| {
        let demands = Demands { bound: vec![bound(own, 9000, false)], ..demands() };
        let means = Means { taken: [(other.parse().unwrap(), 9000)].into(), addresses: None, ..means() };
        !demands.missing(&means).is_empty()
    };
    for (own, other, expected) in [
        ("10.0.0.2", "10.0.0.2", true),
        ("10.0.0.2", "0.0.0.0", true),
        ("0.0.0.0", "127.0.0.1", true),
        ("::", "::1", true),
        ("10.0.0.2", "127.0.0.1", false),
        ("127.0.0.1", "::", false),
    ] {
        assert_eq!(misses(own, other), expected, "{own} {other}");
    }
}

#[test]
fn a_loopback_address_needs_one_of_its_family() {
    let misses = |own: &str| {
        let demands = Demands { bound: vec![bound(own, 9000, true)], ..demands() };
        demands.missing(&means())
    };
    assert_eq!(misses("127.0.0.53"), []);
    assert_eq!(misses("::1"), [Unfit::Loopback { address: "::1".parse().unwrap() }]);
}

/// An address of no container, and datagrams beside a listener.
#[test]
fn only_an_address_of_its_own_and_a_port_of_tcp_can_be_taken() {
    let bound = vec![bound("0.0.0.0", 9000, false), bound("239.1.2.3", 9001, true), bound("::", 7000, true)];
    let means = Means { addresses: Some(BTreeSet::new()), ..means() };
    assert_eq!(Demands { bound, ..demands() }.missing(&means), []);
}

/// Of a queue with the ID 7 and the key 5.
#[test]
fn what_has_either_name_is_in_the_way_and_what_has_both_or_none_is_not() {
    let is_in_the_way = |own: i32, kind, id, key| {
        let demands = Demands { objects: vec![SystemV { kind: 1, id: 7, key: own }], ..demands() };
        !demands.missing(&Means { objects: vec![SystemV { kind, id, key }], ..means() }).is_empty()
    };
    assert!(is_in_the_way(5, 1, 7, 6) && is_in_the_way(5, 1, 8, 5) && is_in_the_way(0, 1, 7, 5));
    assert!(!is_in_the_way(5, 1, 7, 5) && !is_in_the_way(5, 1, 8, 6) && !is_in_the_way(5, 2, 7, 6));
    assert!(!is_in_the_way(0, 1, 8, 0), "IPC_PRIVATE is the key of many");
}

#[test]
fn pages_on_their_way_take_what_the_service_leaves_but_never_less_than_the_least() {
    let enough = means().memory.unwrap();
    let of = |limit| for_pages(64 << 20, &demands(), limit);
    assert_eq!(of(None), 64 << 20);
    assert_eq!(of(Some(enough + (100 << 20))), 64 << 20);
    assert_eq!(of(Some(enough + (10 << 20))), 10 << 20);
    assert_eq!(of(Some(enough)), 4 << 20);
}
