//! A restore that is interrupted: nothing of the service has run, and the container's next start restores it.

use freeze::exit::RESTORE_FAILED;
use freeze::fail_points::Point::{self, *};

use super::application::Application;
use super::table::End::{self, Absent, Earlier, NextStart, RunsOn};
use super::table::Table;
use super::table::Victim::{self, Container, Criu, Worker};
use super::{Share, below_tracers, each, has_tracers, on_both_stores, ticks};

pub static TABLE: Table = Table {
    name: "A restore",
    victims: &[Worker, Criu, Container],
    steps: &[
        (RestoreBegun, &[NextStart, Absent, NextStart]),
        (RestoreFound, &[NextStart, Absent, NextStart]),
        (RestoreRemembered, &[NextStart, Absent, NextStart]),
        (RestoreChecked, &[NextStart, Absent, NextStart]),
        (RestoreFiles, &[NextStart, Absent, NextStart]),
        (RestoreCriu, &[NextStart, NextStart, NextStart]),
        (RestoreHeld, &[NextStart, NextStart, NextStart]),
        (RestoreTaken, &[NextStart, NextStart, NextStart]),
        (RestoreLetGo, &[NextStart, Absent, NextStart]),
        (RestoreRunning, &[NextStart, Absent, NextStart]),
        (RestoreReported, &[RunsOn, Absent, Earlier]),
        (RestoreClaimed, &[RunsOn, Absent, Earlier]),
    ],
};

/// The container that restores, also when it is started again.
const IT: [&str; 2] = ["--instance", "it"];

fn play(share: Share) {
    let cases: Vec<_> = TABLE.cases().into_iter().filter(|case| (share.plays)(case.0)).collect();
    each(&cases, |(point, victim, end)| play_one(share, *point, *victim, *end));
}

on_both_stores!(play);
below_tracers!(play);

fn play_one(share: Share, point: Point, victim: Victim, end: End) {
    let app = Application::new(share, &[]);
    let counted = offered(&app);
    let committed = app.generations();
    let mut container = app.start_stopping_at(Some(point), &IT);
    victim.die(&container);
    if end != RunsOn {
        let status = container.wait();
        assert!(victim == Container || status == i32::from(RESTORE_FAILED), "{status}\n{}", container.story());
        container = app.start(&IT);
    }
    assert!(ticks(&container.verified()) >= counted, "{}", container.story());
    assert_eq!(app.generations(), committed);
    if share.below_tracers {
        has_tracers(&container, 2);
    }
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
}

/// Ends the service with a generation that nobody has taken, and returns how far it had counted.
fn offered(app: &Application) -> u64 {
    let container = app.start(&["--instance", "former"]);
    let counted = ticks(&container.verified());
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    counted
}
