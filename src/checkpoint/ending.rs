//! The end of a checkpoint whose service stops or is handed over.

use std::time::{Duration, Instant};

use super::dump::{Dump, Verdict};
use super::handover::{self, Offer};
use super::{CheckpointError, Target};
use crate::checkpoint::fence::{Stopped, StoppedByUser};
use crate::control::protocol::{Event, Phase};
use crate::fail_points::{Point, reach};
use crate::image::{self, Manifest, NotCommitted, Vault};
use crate::job::reporter::Reporter;
use crate::job::{AfterCommit, Common};

/// A service that CRIU holds.
pub struct DumpGate<'a> {
    pub dump: &'a mut Dump,
    /// Keeps the service stopped if CRIU dies.
    pub stopped: Stopped,
    pub by_user: &'a StoppedByUser,
}

impl DumpGate<'_> {
    /// Lets the service run on, also if CRIU has died: then nothing holds it and no stop is pending. A
    /// failure of CRIU is only a warning, since the caller reports the first error.
    fn run_on(self, reporter: &Reporter) {
        self.stopped.go_on();
        if let Err(error) = self.dump.release(Verdict::Run) {
            self.by_user.stop_again();
            reporter.warn(error.to_string());
        }
    }

    /// Ends the service. If CRIU has died, init ends it.
    fn end(self, reporter: &Reporter) {
        if let Err(error) = self.dump.release(Verdict::Kill) {
            reporter.warn(error.to_string());
        }
    }
}

/// Commits a generation whose service does not run on. Ends the service once that is safe: at once, or when
/// another container has taken it. Returns the generation's number. After an error the service runs on here,
/// and nowhere else.
pub fn give_away(
    common: &Common,
    target: &Target,
    reporter: &Reporter,
    vault: &Vault,
    manifest: &mut Manifest,
    started: Instant,
    gate: DumpGate,
) -> Result<u64, CheckpointError> {
    let proposal = match image::propose(vault, manifest, target.lease, started) {
        Ok(proposal) => proposal,
        Err(error) => {
            gate.run_on(reporter);
            return Err(error.into());
        }
    };
    let generation = proposal.number;
    reporter.send(&Event::Committing { generation });
    let (time, failure) = match (proposal.commit(), target.after_commit) {
        (Ok(lease), AfterCommit::HandOver { timeout_ms }) => {
            reporter.send(&Event::Committed { lease });
            reach(Point::HandoverOffered);
            let time = Duration::from_millis(timeout_ms);
            (time, CheckpointError::NotTaken { generation, time })
        }
        (Ok(lease), _) => {
            reporter.send(&Event::Committed { lease });
            reach(Point::CheckpointCommitted);
            gate.end(reporter);
            reach(Point::CheckpointEnded);
            image::mark_committed(vault, generation);
            return Ok(generation);
        }
        (Err(NotCommitted { error, may_count: false }), _) => {
            gate.run_on(reporter);
            return Err(error.into());
        }
        // Others may see the commit or not. The outcome decides, so withdraw the generation first.
        (Err(NotCommitted { error, .. }), _) => {
            reporter.progress(Phase::Handover);
            (Duration::ZERO, CheckpointError::Withdrawn { generation, error })
        }
    };
    let withdrawal = handover::withdrawal(common, &target.lease);
    let taken_by = Offer { vault, generation, withdrawal, standbys: &target.standbys }.settle(time, reporter);
    reach(Point::HandoverDecided);
    let taken = taken_by.is_some();
    reporter.send(&Event::Settled { taken_by });
    reach(Point::HandoverSettled);
    if taken {
        gate.end(reporter);
    } else {
        gate.run_on(reporter);
    }
    reach(Point::HandoverReleased);
    let committed = matches!(failure, CheckpointError::NotTaken { .. });
    if taken || committed {
        image::mark_committed(vault, generation);
    }
    if taken {
        return Ok(generation);
    }
    match target.standbys.who_failed(vault, generation) {
        Some(standby) if committed => Err(CheckpointError::NotRestored { generation, standby }),
        _ => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Command;

    use super::super::{Standbys, tree_of_service::Tree};
    use super::*;
    use crate::control::protocol::Pace;
    use crate::files::selection::Selection;
    use crate::image::{KeyFiles, Lease, test_vault};
    use crate::proc::tree;
    use crate::store::Location;
    use crate::sys::process;

    #[test]
    fn the_first_error_is_told_also_where_criu_has_died() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        // Another container has committed meanwhile.
        image::commit(&vault, &mut Manifest::default(), Lease::fresh(), Instant::now()).unwrap();
        let common = Common {
            store: Location::at("file:/nowhere"),
            keys: KeyFiles::default(),
            runtime_dir: folder.path().into(),
            memory: 0,
            instance: "this".to_owned(),
            exclusive_ms: None,
            trace: None,
        };
        let target = Target {
            root: 0,
            service: 0,
            tracer: None,
            lease: Lease::fresh(),
            after_commit: AfterCommit::Stop,
            hold: None,
            until: None,
            standbys: Standbys::default(),
            asked: None,
            pace: Pace::DEFAULT,
            files: Selection::default(),
            ephemeral_store: false,
            clock_ahead_s: None,
        };
        let (reporter, init) = Reporter::pair();
        let tree = Tree::of_processes(Vec::new());
        let (mut dump, stopped) = (Dump::that_died(folder.path()), Stopped::stop(&tree).unwrap());
        let gate = DumpGate { dump: &mut dump, stopped, by_user: &StoppedByUser::of(&tree) };
        let manifest = &mut Manifest::default();
        let error = give_away(&common, &target, &reporter, &vault, manifest, Instant::now(), gate).unwrap_err();
        assert!(matches!(error, CheckpointError::Image(_)), "{error}");
        let mut warning = String::new();
        BufReader::new(init).read_line(&mut warning).unwrap();
        assert!(warning.contains("could not be dumped"), "{warning}");
    }

    #[test]
    fn what_the_user_had_stopped_stays_stopped_where_criu_has_died() {
        let folder = tempfile::tempdir().unwrap();
        let mut children = [(); 2].map(|()| Command::new("sleep").arg("600").spawn().unwrap());
        let [stopped, running] = children.each_ref().map(|child| child.id() as i32);
        let comes_to = |pid, state| {
            (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                tree::read(pid).unwrap().state == state
            })
        };
        process::kill(stopped, libc::SIGSTOP);
        assert!(comes_to(stopped, 'T') && comes_to(running, 'S'));
        let tree = Tree::of_processes([stopped, running].map(|pid| tree::read(pid).unwrap()).into());
        let mut dump = Dump::that_died(folder.path());
        let gate =
            DumpGate { dump: &mut dump, stopped: Stopped::stop(&tree).unwrap(), by_user: &StoppedByUser::of(&tree) };
        gate.run_on(&Reporter::pair().0);
        let as_before = comes_to(running, 'S') && comes_to(stopped, 'T');
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(as_before);
    }
}
