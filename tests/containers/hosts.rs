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

/// Hours by which the clocks of a host are ahead of this machine's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Host {
    pub monotonic: i64,
    /// More than `monotonic` on a host that was suspended.
    pub boottime: i64,
}

/// One that was never suspended.
impl From<i64> for Host {
    fn from(hours: i64) -> Self {
        Self { monotonic: hours, boottime: hours }
    }
}

impl Host {
    /// The command below which others are on this host.
    pub fn command(self) -> Vec<String> {
        let [monotonic, boottime] = [self.monotonic, self.boottime].map(|hours| (hours * 3600).to_string());
        let command = ["unshare", "--time", "--monotonic", &monotonic, "--boottime", &boottime];
        if self == Self::default() { vec![] } else { command.map(str::to_owned).to_vec() }
    }

    /// The command of integration/sandbox there.
    pub fn sandbox(self, args: &[&str]) -> Output {
        run(&self.command(), args)
    }
}

/// The command of integration/sandbox, on this machine itself.
pub fn sandbox(args: &[&str]) -> Output {
    Host::default().sandbox(args)
}

/// The same below the command `outer`.
pub fn run(outer: &[String], args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/sandbox/sandbox");
    let mut command = Command::new("timeout");
    command.arg(super::PATIENCE.as_secs().to_string()).args(outer);
    command.arg(script).args(args).output().unwrap()
}
