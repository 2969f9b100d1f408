//! What freeze says of a service's clocks, at a restore and before one. Pure.

use std::io;
use std::time::Duration;

use super::{Means, Plan, TOLERANCE};
use crate::image::Clocks;

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Note(String),
    Warning(String),
}

/// What a restore by this plan says, for a service that was away for `away_ms`. `jump` is as
/// [`jump`](super::jump) gives it. None if the clocks advance as for a process that was stopped that long.
pub fn said(plan: Plan, jump: &io::Result<i64>, away_ms: u64) -> Option<Said> {
    let ms = match jump {
        _ if matches!(plan, Plan::Hide | Plan::Keep) => return Some(Said::Note(hidden())),
        Ok(ms) => *ms,
        Err(error) => {
            return Some(Said::Warning(format!("cannot tell whether the service's clocks jumped: {error}")));
        }
    };
    let time = humantime::format_duration(Duration::from_millis(ms.unsigned_abs()));
    if ms < 0 {
        return Some(Said::Warning(format!(
            "the service has no time namespace (--isolate auto makes one if the container permits it), so its \
             CLOCK_MONOTONIC or CLOCK_BOOTTIME jumps back by {time}, which programs do not expect: a wait until a time \
             that the program has computed takes that much longer, and a time difference can be negative. See \
             docs/explanation/privileges.md"
        )));
    }
    let more = Duration::from_millis(ms.unsigned_abs()) > Duration::from_millis(away_ms).saturating_add(TOLERANCE);
    more.then(|| {
        Said::Note(format!(
            "the service's CLOCK_MONOTONIC or CLOCK_BOOTTIME jumps ahead by {time}, to this host's: a wait until a time \
             that the program has computed ends that much earlier"
        ))
    })
}

fn hidden() -> String {
    "the service's clocks continue in user space, because this host booted later; programs that the service executes see \
     this host's clocks"
        .to_owned()
}

impl Means {
    /// What a restore would do to the clocks of a service that saw `before` last. None if they would advance as for a
    /// process that was stopped, or if the restore would be refused.
    pub fn forecast(&self, before: &Clocks) -> Option<String> {
        match self.plan(before) {
            Plan::Continue => Some("the service's clocks continue, in a time namespace".to_owned()),
            Plan::Hide | Plan::Keep => Some(hidden()),
            Plan::Refuse(_) => None,
            Plan::Host => {
                let jump = super::ahead(&self.now, before);
                let (time, way) = (Duration::from_millis(jump.unsigned_abs()), if jump < 0 { "back" } else { "ahead" });
                (time > TOLERANCE)
                    .then(|| format!("the service's clocks jump {way} by {}, to this host's", rough(time)))
            }
        }
    }
}

/// In whole seconds.
pub fn rough(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;

    const HOURS: i64 = 7_200_000;

    fn text(said: Option<Said>) -> String {
        match said.unwrap() {
            Said::Note(text) => format!("note: {text}"),
            Said::Warning(text) => format!("warning: {text}"),
        }
    }

    #[test]
    fn only_what_nobody_expects_is_told_and_only_what_harms_is_a_warning() {
        let jumped = |ms| said(Plan::Host, &Ok(ms), 5000);
        insta::assert_snapshot!(text(jumped(-HOURS)), @"warning: the service has no time namespace (--isolate auto makes one if the container permits it), so its CLOCK_MONOTONIC or CLOCK_BOOTTIME jumps back by 2h, which programs do not expect: a wait until a time that the program has computed takes that much longer, and a time difference can be negative. See docs/explanation/privileges.md");
        insta::assert_snapshot!(text(jumped(HOURS)), @"note: the service's CLOCK_MONOTONIC or CLOCK_BOOTTIME jumps ahead by 2h, to this host's: a wait until a time that the program has computed ends that much earlier");
        insta::assert_snapshot!(text(said(Plan::Hide, &Ok(-HOURS), 0)), @"note: the service's clocks continue in user space, because this host booted later; programs that the service executes see this host's clocks");
        assert_eq!(said(Plan::Keep, &Ok(-HOURS), 0), said(Plan::Hide, &Ok(-HOURS), 0));
        assert_eq!([said(Plan::Continue, &Ok(0), 0), jumped(5500)], [None, None]);
        let error = io::Error::from_raw_os_error(libc::EACCES);
        insta::assert_snapshot!(text(said(Plan::Host, &Err(error), 0)), @"warning: cannot tell whether the service's clocks jumped: Permission denied (os error 13)");
    }

    #[test]
    fn a_restore_is_told_before() {
        let clocks = |seconds: u64| Clocks { monotonic_ns: seconds * 1_000_000_000, ..Clocks::default() };
        let forecast = |seconds, policy, time_namespace, user_space| {
            Means { now: clocks(9000), time_namespace, user_space, policy }.forecast(&clocks(seconds))
        };
        assert_eq!(forecast(16_200, Policy::Auto, false, false), None);
        assert_eq!(forecast(9000, Policy::Auto, false, false), None);
        let said = [
            forecast(1800, Policy::Auto, false, false),
            forecast(16_200, Policy::Host, false, true),
            forecast(16_200, Policy::Auto, false, true),
            forecast(16_200, Policy::Refuse, true, false),
        ];
        insta::assert_snapshot!(said.map(Option::unwrap).join("\n"), @"
        the service's clocks jump ahead by 2h, to this host's
        the service's clocks jump back by 2h, to this host's
        the service's clocks continue in user space, because this host booted later; programs that the service executes see this host's clocks
        the service's clocks continue, in a time namespace
        ");
    }
}
