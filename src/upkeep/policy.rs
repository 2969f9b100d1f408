//! Retention policy of `freeze prune`. Pure: knows only numbers and times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 86_400_000;

/// Retention rules. A generation is kept if any rule keeps it; the newest is always kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Keep this many of the newest generations.
    pub last: Option<u64>,
    /// Keep the last generation of each day (UTC), for this many of the newest days that have one.
    pub daily: Option<u64>,
    /// Keep generations taken at most this long before the newest.
    pub within: Option<Duration>,
}

impl Keep {
    /// Chooses among `generations`, which maps numbers to times in ms since 1970.
    pub(super) fn choose(&self, generations: &BTreeMap<u64, u64>) -> BTreeSet<u64> {
        let Some((newest, created)) = generations.last_key_value() else { return BTreeSet::new() };
        let mut kept = BTreeSet::from([*newest]);
        let last = usize::try_from(self.last.unwrap_or(0)).unwrap_or(usize::MAX);
        kept.extend(generations.keys().rev().take(last));
        let days: BTreeMap<u64, u64> =
            generations.iter().map(|(number, created)| (created / DAY_MS, *number)).collect();
        let daily = usize::try_from(self.daily.unwrap_or(0)).unwrap_or(usize::MAX);
        kept.extend(days.values().rev().take(daily));
        if let Some(within) = self.within {
            let since = created.saturating_sub(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
            kept.extend(generations.iter().filter(|(_, created)| **created >= since).map(|(number, _)| number));
        }
        kept
    }
}

/// When a generation was taken, in ms since 1970: the container's time, capped by the store's modification
/// time. Without the cap, one clock that is ahead would make all other generations too old for
/// [`Keep::within`]. The modification time alone would not do, as a copy is written later than it was taken.
pub(super) fn taken_ms(created_ms: u64, written: SystemTime) -> u64 {
    let written = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    created_ms.min(u64::try_from(written).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// Generations 1, 2, …, each taken at a day and an hour of it.
    fn taken(times: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        times.iter().enumerate().map(|(i, (day, hour))| (i as u64 + 1, day * DAY_MS + hour * HOUR_MS)).collect()
    }

    #[test]
    fn each_policy_keeps_what_it_says() {
        // Two on day 10, one on day 11, none on day 12, three on day 13.
        let times = [(10, 3), (10, 20), (11, 0), (13, 0), (13, 9), (13, 23)];
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        let keep = |last, daily, within| Keep { last, daily, within };
        let table: &[(Keep, &[u64])] = &[
            (keep(None, None, None), &[6]),
            (keep(Some(1), None, None), &[6]),
            (keep(Some(3), None, None), &[4, 5, 6]),
            (keep(Some(100), None, None), &[1, 2, 3, 4, 5, 6]),
            (keep(Some(u64::MAX), None, None), &[1, 2, 3, 4, 5, 6]),
            (keep(None, Some(1), None), &[6]),
            (keep(None, Some(2), None), &[3, 6]),
            (keep(None, Some(3), None), &[2, 3, 6]),
            (keep(None, Some(30), None), &[2, 3, 6]),
            (keep(None, None, hours(0)), &[6]),
            (keep(None, None, hours(14)), &[5, 6]),
            (keep(None, None, hours(23)), &[4, 5, 6]),
            (keep(None, None, hours(72)), &[3, 4, 5, 6]),
            (keep(None, None, Some(Duration::MAX)), &[1, 2, 3, 4, 5, 6]),
            (keep(Some(2), Some(2), hours(1)), &[3, 5, 6]),
        ];
        for (keep, expected) in table {
            let kept: Vec<u64> = keep.choose(&taken(&times)).into_iter().collect();
            assert_eq!(kept, *expected, "{keep:?}");
        }
    }

    #[test]
    fn a_clock_that_went_back_takes_nothing_from_the_newest() {
        let generations = taken(&[(10, 5), (9, 5)]);
        assert_eq!(Keep::default().choose(&generations), BTreeSet::from([2]));
        assert_eq!(Keep { daily: Some(1), ..Keep::default() }.choose(&generations), BTreeSet::from([1, 2]));
        assert!(Keep::default().choose(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn a_clock_that_is_ahead_takes_nothing_from_the_others() {
        let ms = |hours: u64| hours * HOUR_MS;
        let written = |hours: u64| UNIX_EPOCH + Duration::from_millis(ms(hours));
        // Generation 3's container clock was a year ahead; generation 1 was copied a day later.
        let taken =
            [(ms(100), 124), (ms(101), 101), (ms(9000), 102)].map(|(created, at)| taken_ms(created, written(at)));
        assert_eq!(taken, [ms(100), ms(101), ms(102)]);
        let keep = Keep { within: Some(Duration::from_secs(2 * 3600)), ..Keep::default() };
        assert_eq!(keep.choose(&(1..).zip(taken).collect()), BTreeSet::from([1, 2, 3]));
    }
}
