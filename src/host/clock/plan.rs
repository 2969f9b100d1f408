//! Decides which clocks a restored service sees. Pure.
//!
//! A clock goes back by more than [`TOLERANCE`] only if the user has chosen that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::Clocks;

/// How far a clock may go back unnoticed. Hosts that were started together differ by less.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// What to do if the clocks would go back, and no time namespace can be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Let them continue in user space; exit with status 176 where that is impossible
    #[default]
    Auto,
    /// Restore the service with the host's clocks: programs may hang or end
    Host,
    /// Exit with status 176
    Refuse,
}

/// The clocks of a container that may restore a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    pub now: Clocks,
    /// A time namespace can be made.
    pub time_namespace: bool,
    /// Clocks can continue in user space.
    pub user_space: bool,
    pub policy: Policy,
}

/// Which clocks the service sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Plan {
    /// They continue in a time namespace.
    Continue,
    /// The host's.
    #[default]
    Host,
    /// They continue in user space.
    Hide,
    /// They continue in user space, as the service has code for that already. A process without it has the host's.
    Keep,
    /// None: there is no restore. The host's are behind by this.
    Refuse(Duration),
}

impl Means {
    /// For a service that saw the clocks `before` last.
    pub fn plan(&self, before: &Clocks) -> Plan {
        let behind = self.behind(before);
        let accepted = behind <= TOLERANCE || self.policy == Policy::Host;
        match self.policy {
            _ if self.time_namespace => Plan::Continue,
            _ if accepted && before.in_user_space && !behind.is_zero() => Plan::Keep,
            _ if accepted => Plan::Host,
            Policy::Auto if self.user_space => Plan::Hide,
            _ => Plan::Refuse(behind),
        }
    }

    /// By how much the worse clock would go back.
    fn behind(&self, before: &Clocks) -> Duration {
        let monotonic = before.monotonic_ns.saturating_sub(self.now.monotonic_ns);
        let boottime = before.boottime_ns.saturating_sub(self.now.boottime_ns);
        Duration::from_nanos(monotonic.max(boottime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn clocks(monotonic_ns: u64, boottime_ns: u64) -> Clocks {
        Clocks { monotonic_ns, boottime_ns, in_user_space: false }
    }

    /// The plans of the three policies, with and without a way to hide a jump.
    fn plans(now: Clocks, time_namespace: bool, in_user_space: bool) -> [Plan; 5] {
        let before = Clocks { in_user_space, ..clocks(5 * HOUR, 9 * HOUR) };
        let plan = |policy, user_space| Means { now, time_namespace, user_space, policy }.plan(&before);
        [
            plan(Policy::Auto, true),
            plan(Policy::Auto, false),
            plan(Policy::Host, true),
            plan(Policy::Refuse, true),
            plan(Policy::Refuse, false),
        ]
    }

    #[test]
    fn the_plan_follows_from_the_jump_the_means_and_the_policy() {
        use Plan::{Continue, Hide, Host, Refuse};
        let refuse = |ns| Refuse(Duration::from_nanos(ns));
        let back = |ns| [Hide, refuse(ns), Host, refuse(ns), refuse(ns)];
        for (now, expected) in [
            (clocks(5 * HOUR, 9 * HOUR), [Host; 5]),
            (clocks(50 * HOUR, 90 * HOUR), [Host; 5]),
            // Within the tolerance, and beyond it.
            (clocks(5 * HOUR - SECOND, 9 * HOUR - SECOND), [Host; 5]),
            (clocks(5 * HOUR - SECOND - 1, 9 * HOUR), back(SECOND + 1)),
            (clocks(3 * HOUR, 7 * HOUR), back(2 * HOUR)),
            // One of them alone, and the worse one.
            (clocks(50 * HOUR, 8 * HOUR), back(HOUR)),
            (clocks(4 * HOUR, 90 * HOUR), back(HOUR)),
            (clocks(4 * HOUR, 2 * HOUR), back(7 * HOUR)),
            (clocks(0, 0), back(9 * HOUR)),
        ] {
            assert_eq!(plans(now, false, false), expected, "{now:?}");
            assert_eq!([plans(now, true, false), plans(now, true, true)], [[Continue; 5]; 2], "{now:?}");
        }
    }

    #[test]
    fn a_clock_that_continues_in_user_space_goes_on_doing_so() {
        use Plan::{Hide, Host, Keep, Refuse};
        let plans = |behind| plans(clocks(5 * HOUR - behind, 90 * HOUR), false, true);
        let refuse = Refuse(Duration::from_nanos(HOUR));
        assert_eq!(plans(0), [Host; 5]);
        assert_eq!(plans(1), [Keep; 5]);
        assert_eq!(plans(HOUR), [Hide, refuse, Keep, refuse, refuse]);
    }
}
