//! Checkpoints in a bucket, with a proxy before the server that makes faults: whatever happens, checkpoints and restores end
//! right or fail cleanly, nothing that was committed is lost, and the service goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use freeze::fail_points::Point;
use freeze::store::{self, Location, Store};
use serde_json::Value;

use crate::harness::{App, Container, Setting, text};
use crate::s3_support::proxy::Fault::{
    ConditionIgnored, Cut, GoesAway, Held, ReplyLost, ReplyReplaced, ResetBefore, Slow, Status,
};
use crate::s3_support::proxy::Proxy;
use crate::s3_support::{self, endpoint};

/// Where the proxy listens in each container's network.
const PORT: u16 = 9000;
/// What a checkpoint puts, in this order: the pages, the manifest, and what makes that count.
const PUTS: [&str; 3] = ["/packs/", "/generations/", "/head"];

/// An application whose containers reach the server through a proxy, whose first requests they may be too early for.
pub struct Remote {
    pub app: App,
    proxy: Proxy,
    pub location: Location,
}

impl Remote {
    pub fn new(options: &[&str]) -> Self {
        let location = s3_support::location(&endpoint());
        let known = |name: &str| format!("{name}={}", std::env::var(name).unwrap());
        let mut env: Vec<_> = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"].map(known).into();
        env.push(format!("AWS_ENDPOINT_URL=http://127.0.0.1:{PORT}"));
        let app = App::with_options(Setting::Restricted, options, &["/services/service", "big", "24"]);
        let app = app.with_store(&location.url, env);
        Self { app, proxy: Proxy::new(&endpoint()), location }
    }

    /// One whose containers may have that number of MiB of memory.
    pub fn with_memory(mut self, limit: u64) -> Self {
        self.app.set_sandbox(&["--memory-limit", &limit.to_string()]);
        self
    }

    fn start(&self) -> Container {
        self.start_stopping_at(None, &[])
    }

    /// One whose containers stop at fail points.
    pub fn with_fail_points(self) -> Self {
        Self { app: self.app.with_fail_points(), ..self }
    }

    pub fn start_stopping_at(&self, point: Option<Point>, options: &[&str]) -> Container {
        let container = self.app.start_stopping_at(point, options);
        self.proxy.listen_too(container.listen(PORT));
        container
    }

    /// A container whose service runs.
    pub fn started(&self) -> Container {
        let container = self.start();
        container.verified();
        container
    }

    /// Ends the container by a checkpoint, which must succeed, and goes on in another.
    fn move_from(&self, container: &Container) -> Container {
        container.checkpoint(&[]);
        assert_eq!(container.wait(), 172, "{}", container.story());
        self.started()
    }

    /// The numbers of what was committed, as seen by others, to whom all must look well.
    fn generations(&self) -> Vec<u64> {
        let run = |args: &[&str]| {
            let out = self.app.freeze(args);
            assert!(out.status.success(), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
            text(&out.stdout)
        };
        run(&["verify"]);
        let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["generation"].as_u64().unwrap();
        run(&["list", "--json"]).lines().map(number).collect()
    }

    /// The store, seen past the proxy.
    fn store(&self) -> std::sync::Arc<dyn Store> {
        store::open(&self.location).unwrap()
    }
}

/// A checkpoint that fails, and how; the service goes on.
fn fails(container: &Container) -> String {
    let out = container.try_checkpoint(&[]);
    assert!(!out.status.success(), "{}{}", text(&out.stderr), container.story());
    container.verified();
    text(&out.stderr)
}

#[test]
fn a_service_moves_twice_plain_and_encrypted() {
    for options in [&[][..], &["--key-file", "/keys/key"]] {
        let remote = Remote::new(options);
        fs::write(remote.app.keys().join("key"), [7; 32]).unwrap();
        let second = remote.move_from(&remote.started());
        let third = remote.move_from(&second);
        assert!(third.warnings().is_empty(), "{}", third.story());
        let objects = remote.store().list("").unwrap();
        let count = |part: &str| objects.iter().filter(|object| object.key.contains(part)).count();
        assert_eq!((count(".manifest"), count("head"), count("format")), (2, 1, 1), "{objects:?}");
    }
}

#[test]
fn checkpoints_survive_what_passes() {
    let remote = Remote::new(&[]);
    let container = remote.started();
    let faults = [
        Status(500, "InternalError"),
        Status(503, "SlowDown"),
        ResetBefore,
        ReplyLost,
        ReplyReplaced(500, "InternalError"),
    ];
    for fault in faults {
        PUTS.iter().for_each(|key| remote.proxy.fault("PUT", key, fault, 2));
        remote.proxy.fault("GET", "/head", fault, 2);
        container.checkpoint(&["--leave-running"]);
        assert_eq!(remote.proxy.left(), 0, "{fault:?}");
        container.verified();
    }
    for fault in [Cut(10), Slow(20)] {
        remote.proxy.fault("GET", "", fault, 3);
        container.checkpoint(&["--leave-running"]);
        assert_eq!(remote.proxy.left(), 0, "{fault:?}");
    }
    remote.move_from(&container);
    assert_eq!(remote.generations(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// Of each object, the reply to the put that succeeded; the first generation makes them all.
#[test]
fn a_checkpoint_whose_replies_are_lost_is_committed_once() {
    let remote = Remote::new(&[]);
    let container = remote.started();
    PUTS.iter().chain(&["/format"]).for_each(|key| remote.proxy.fault("PUT", key, ReplyLost, 1));
    remote.move_from(&container);
    assert_eq!(remote.proxy.left(), 0);
    assert_eq!(remote.generations(), [1]);
    assert_eq!(remote.store().list("generations/").unwrap().len(), 1);
}

/// A wrong answer is found out. Where the store repeats it, nothing is committed.
#[test]
fn conditions_that_are_said_not_to_hold() {
    let remote = Remote::new(&[]);
    let container = remote.started();
    const CODE: &str = "PreconditionFailed";
    for fault in [ReplyReplaced(412, CODE), Status(412, CODE)] {
        remote.proxy.fault("PUT", "/generations/", fault, 1);
        remote.proxy.fault("PUT", "/head", fault, 1);
        container.checkpoint(&["--leave-running"]);
        assert_eq!(remote.proxy.left(), 0, "{fault:?}");
    }
    let committed = remote.generations();
    assert_eq!(committed.len(), 2, "{committed:?}");
    remote.proxy.fault("PUT", "/head", Status(412, CODE), usize::MAX);
    fails(&container);
    remote.proxy.no_more();
    assert_eq!(remote.generations(), committed);
    remote.move_from(&container);
    assert_eq!(remote.generations().len(), 3);
}

/// While pages are written, and at the very end.
#[test]
fn the_server_goes_away_in_a_checkpoint() {
    let remote = Remote::new(&[]);
    let container = remote.started();
    container.checkpoint(&["--leave-running"]);
    for (key, fault, times) in [("/packs/", GoesAway, 1), ("/head", ResetBefore, usize::MAX)] {
        remote.proxy.fault("PUT", key, fault, times);
        let error = fails(&container);
        assert!(error.contains("the server cannot be reached"), "{error}");
        assert!(
            error.contains(&format!("cannot write {}", &key[1..])) && error.contains(&remote.location.url),
            "{error}"
        );
        remote.proxy.no_more();
        remote.proxy.set_away(false);
        assert_eq!(remote.generations(), [1], "{key}");
    }
    remote.move_from(&container);
    assert_eq!(remote.generations().len(), 2);
}

#[test]
fn restores_survive_what_passes() {
    let remote = Remote::new(&[]);
    drop(remote.move_from(&remote.started()));
    let small = [Status(500, "InternalError"), ResetBefore, Cut(10)];
    let large = [Cut(100_000), Slow(20_000)];
    let faults = small.map(|fault| (fault, &["/format", "/head", "/generations/", "/packs/"][..]));
    for (fault, keys) in faults.into_iter().chain(large.map(|fault| (fault, &["/packs/"][..]))) {
        keys.iter().for_each(|key| remote.proxy.fault("GET", key, fault, 2));
        remote.started();
        assert_eq!(remote.proxy.left(), 0, "{fault:?}");
    }
    assert_eq!(remote.generations(), [1]);
}

/// Before the manifest is read, and in the midst of the pages.
#[test]
fn the_server_goes_away_in_a_restore() {
    let remote = Remote::new(&[]);
    drop(remote.move_from(&remote.started()));
    for key in ["/head", "/packs/"] {
        remote.proxy.fault("GET", key, GoesAway, 1);
        let container = remote.start();
        assert_eq!(container.wait(), 171, "{}", container.story());
        let (out, err) = container.logs();
        assert!(err.contains("the server cannot be reached") && err.contains("cannot read"), "{err}");
        assert!(out.is_empty(), "nothing was started: {out}");
        remote.proxy.set_away(false);
        remote.started();
    }
    assert_eq!(remote.generations(), [1]);
}

#[test]
fn a_server_that_ignores_conditions_is_named() {
    let remote = Remote::new(&[]);
    let container = remote.started();
    remote.proxy.fault("PUT", "", ConditionIgnored, usize::MAX);
    let out = container.try_checkpoint(&["--leave-running"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    for told in [text(&out.stderr), container.logs().1] {
        assert!(told.contains("warning: the server of s3://") && told.contains("ignores conditional writes"), "{told}");
    }
    remote.move_from(&container);
    assert_eq!(remote.generations(), [1, 2]);
}

/// The other one restores after the first has looked and before it commits, so that only the server itself can tell.
#[test]
fn another_container_takes_over_in_the_midst_of_a_checkpoint() {
    let remote = Remote::new(&[]);
    let first = remote.started();
    first.checkpoint(&["--leave-running"]);
    let head = || remote.store().get("head", 1 << 16).unwrap().0;
    let before = head();
    remote.proxy.fault("PUT", "/head", Held, 1);
    let (second, error) = std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| fails(&first));
        first.eventually("head is not put", || (remote.proxy.left() == 0).then_some(()));
        let second = remote.started();
        second.eventually("the second one claims nothing", || (head() != before).then_some(()));
        remote.proxy.let_go();
        (second, checkpoint.join().unwrap())
    });
    assert!(error.contains("another container has taken over this application at generation 1"), "{error}");
    assert_eq!(remote.generations(), [1]);
    remote.move_from(&second);
    assert_eq!(remote.generations().len(), 2);
}

/// Its credentials end so soon that each request needs new ones, and what gives them is a program: it would take the service's PIDs.
#[test]
fn no_credential_process_runs_beside_a_restore() {
    let mut remote = Remote::new(&[]);
    let keys = remote.app.keys();
    let known = |name: &str| std::env::var(name).unwrap();
    let script = format!(
        "#!/bin/sh\nat=$(($(date +%s) + 5))\nprintf '{{\"Version\":1,\"AccessKeyId\":\"%s\",\"SecretAccessKey\":\"%s\",\"Expiration\":\"%s\"}}' {} {} \
         \"$(date -u -d @$at +%Y-%m-%dT%H:%M:%SZ)\"\n",
        known("AWS_ACCESS_KEY_ID"),
        known("AWS_SECRET_ACCESS_KEY")
    );
    fs::write(keys.join("credentials"), script).unwrap();
    fs::set_permissions(keys.join("credentials"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(keys.join("config"), "[default]\ncredential_process = /keys/credentials\n").unwrap();
    let env = ["AWS_CONFIG_FILE=/keys/config".to_owned(), format!("AWS_REGION={}", known("AWS_REGION"))];
    let endpoint = format!("AWS_ENDPOINT_URL=http://127.0.0.1:{PORT}");
    remote.app = remote.app.with_store(&remote.location.url, [&env[..], &[endpoint]].concat());
    remote.move_from(&remote.started());
}
