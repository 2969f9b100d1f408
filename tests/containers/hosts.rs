//! Hosts that have been up for longer than this machine, played by time namespaces around the sandbox. What looks at a container
//! must be on its host: what it executes there is.

use std::path::Path;
use std::process::{Command, Output};

/// How long the host of each next container of an application has been up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// It is one host.
    One,
    /// It has booted earlier than the last one: clocks that count from there jump ahead.
    Earlier,
    /// It has booted later: these clocks jump back.
    Later,
}

impl Hosts {
    /// Those that all applications have by `make test-clocks`.
    pub fn given() -> Self {
        match std::env::var("FREEZE_TEST_HOSTS").as_deref() {
            Err(_) => Self::One,
            Ok("earlier") => Self::Earlier,
            Ok("later") => Self::Later,
            Ok(other) => panic!("FREEZE_TEST_HOSTS is earlier, later, or not set, but not {other}"),
        }
    }

    /// How many hours longer than this machine the host of container `nth` has been up.
    pub fn hours(self, nth: i64) -> i64 {
        const APART: i64 = 10;
        const FIRST: i64 = 10_000;
        match self {
            Self::One => 0,
            Self::Earlier => nth * APART,
            Self::Later => FIRST - nth * APART,
        }
    }
}

/// The command of integration/sandbox, on this machine itself.
pub fn sandbox(args: &[&str]) -> Output {
    sandbox_on(0, args)
}

/// The same on a host whose clocks are `hours` ahead of this one's.
pub fn sandbox_on(hours: i64, args: &[&str]) -> Output {
    run(&host(hours), args)
}

/// The command below which others are on such a host.
pub fn host(hours: i64) -> Vec<String> {
    let seconds = (hours * 3600).to_string();
    let command = ["unshare", "--time", "--monotonic", &seconds, "--boottime", &seconds];
    if hours == 0 { vec![] } else { command.map(str::to_owned).to_vec() }
}

/// The same below the command `outer`.
pub fn run(outer: &[String], args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/sandbox/sandbox");
    let mut command = Command::new("timeout");
    command.arg(super::PATIENCE.as_secs().to_string()).args(outer);
    command.arg(script).args(args).output().unwrap()
}
