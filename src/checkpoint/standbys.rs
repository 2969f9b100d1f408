//! Asks the standbys, before the service stands still, whether one of them could restore it.
//!
//! A standby that is ready gets the service, so that a restore that fails ends nothing. If all that answer lack
//! something, the service is not frozen. One that does not answer in time changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::announce::{self, Announced};
use super::{CheckpointError, Seen, Target, describe};
use crate::control::protocol::{Event, millis};
use crate::files::identity::Identities;
use crate::files::survey::Survey;
use crate::files::used::{self, LookupError, Rules, Used};
use crate::image::{self, Body, Demands, File, Hex, Kind, Manifest, Standby, Vault, standby};
use crate::job::reporter::Reporter;
use crate::job::{AfterCommit, Common};
use crate::store::Fencing;

/// How long an answer may take. A standby looks once a second by default, and then compares.
const PATIENCE: Duration = Duration::from_secs(2);
/// Interval of looks for answers.
const LOOK: Duration = Duration::from_millis(50);
/// How long a handover lets the service run on if no standby is known, so that one of an older freeze notices it.
const NOTICE: Duration = Duration::from_millis(1100);

/// The standbys that were asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standbys {
    question: Hex<8>,
    keys: Vec<String>,
}

/// What the standbys answer.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    /// This one could restore the service.
    Ready(Standby),
    /// All that answer lack something.
    Unfit(Vec<Standby>),
}

/// Announces that the service is about to be offered, unless it runs on, and asks the standbys. Returns the target with
/// what follows the commit.
pub fn announce(
    vault: &Vault,
    target: &Target,
    common: &Common,
    fencing: Fencing,
    reporter: &Reporter,
    service: impl FnOnce() -> Result<Manifest, LookupError>,
) -> Result<(Option<Announced>, Target), CheckpointError> {
    let mut target = target.clone();
    let asks = match target.after_commit {
        AfterCommit::Resume => return Ok((None, target)),
        AfterCommit::Stop => target.hold.is_some() && fencing == Fencing::Enforced,
        AfterCommit::HandOver { .. } => true,
    };
    let standbys = if asks { Standbys::ask(vault, &common.instance, service)? } else { Standbys::default() };
    let is_known = !standbys.keys.is_empty();
    target.asked = is_known.then_some(standbys.question);
    if is_known {
        // Before the first commit there may be none to announce in.
        image::ensure(vault)?;
    }
    let announced = announce::announce(vault, target.lease);
    match (standbys.hear(vault, PATIENCE), target.after_commit, target.hold) {
        (Answer::Unfit(standbys), ..) => return Err(CheckpointError::Unfit(standbys)),
        (Answer::Ready(standby), AfterCommit::Stop, Some(hold)) => {
            let timeout_ms = millis(hold);
            reporter.send(&Event::HandingOver { to: standby.instance, timeout_ms });
            target.after_commit = AfterCommit::HandOver { timeout_ms };
            target.standbys = standbys;
        }
        (Answer::Nothing, AfterCommit::HandOver { .. }, _) if !is_known => thread::sleep(NOTICE),
        _ => {}
    }
    Ok((Some(announced), target))
}

/// Waits, while the service runs, until a standby has decoded the memory of this generation. If the standbys were `asked`,
/// only one that has answered counts: others may be dead. Returns whether nothing is left to wait for: one has it, or none
/// says what it has.
pub fn follow(vault: &Vault, us: &str, asked: Option<Hex<8>>, generation: u64, until: Instant) -> bool {
    let ours = standby::key(vault, us);
    let may_take_it = |standby: &Standby| standby.lacks.is_none() && (asked.is_none() || standby.answers == asked);
    let follows = |key: &String| Standby::read(vault, key).ok().flatten().filter(may_take_it)?.decoded;
    loop {
        // A store that does not answer is no reason to wait.
        let keys = standby::listed(&**vault.store()).unwrap_or_default();
        let decoded: Vec<u64> = keys.iter().filter(|key| **key != ours).filter_map(follows).collect();
        if decoded.is_empty() || decoded.iter().any(|decoded| *decoded >= generation) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(LOOK);
    }
}

impl Standbys {
    /// Asks all that the store knows, but not this container.
    fn ask(
        vault: &Vault,
        us: &str,
        service: impl FnOnce() -> Result<Manifest, LookupError>,
    ) -> Result<Self, CheckpointError> {
        let mut keys = standby::listed(&**vault.store())?;
        let ours = standby::key(vault, us);
        keys.retain(|key| *key != ours);
        if keys.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { question: standby::ask(vault, &service()?)?, keys })
    }

    /// Waits until one is ready, or all have answered. A standby without an answer in `time` is taken for dead. If
    /// it is alive, it writes its object again later.
    fn hear(&self, vault: &Vault, time: Duration) -> Answer {
        let until = Instant::now() + time;
        let (mut silent, mut unfit) = (self.keys.clone(), Vec::new());
        while !silent.is_empty() {
            let mut ready = None;
            silent.retain(|key| match Standby::read(vault, key) {
                Ok(Some(standby)) if standby.answers == Some(self.question) => {
                    if standby.lacks.is_some() {
                        unfit.push(standby)
                    } else {
                        ready = Some(standby)
                    }
                    false
                }
                // It has ended.
                Ok(found) => found.is_some_and(|standby| standby.failed == 0),
                Err(_) => true,
            });
            if let Some(standby) = ready {
                return Answer::Ready(standby);
            }
            if Instant::now() >= until {
                silent.drain(..).for_each(|key| drop(standby::silence(&**vault.store(), &key)));
            } else if !silent.is_empty() {
                thread::sleep(LOOK);
            }
        }
        if unfit.is_empty() { Answer::Nothing } else { Answer::Unfit(unfit) }
    }

    /// A standby that could not restore the generation, if no other one is left that was ready.
    pub fn who_failed(&self, vault: &Vault, generation: u64) -> Option<String> {
        let all: Vec<Standby> = self.keys.iter().filter_map(|key| Standby::read(vault, key).ok()?).collect();
        let is_ready = |standby: &Standby| standby.answers == Some(self.question) && standby.lacks.is_none();
        let failed = all.iter().find(|standby| standby.failed == generation)?;
        (!all.iter().any(is_ready)).then(|| failed.instance.clone())
    }
}

/// What a standby compares with its own means. Some files may come and go meanwhile, so those are left out that cannot be
/// looked up.
pub fn describe(
    host: &Manifest,
    seen: &Seen,
    target: &Target,
    rules: &Rules,
    identities: &Identities,
    survey: Option<&Survey>,
) -> Result<Manifest, LookupError> {
    let executables = describe::executables(&seen.tree, rules, identities);
    let service = describe::service(host.clone(), &seen.tree, target.root, target.service, executables);
    let used = Used::by(seen.tree.processes(), &seen.watched).unwrap_or_default();
    let changed = survey.iter().flat_map(|survey| survey.changed.keys());
    let files: Vec<(File, u64)> =
        used::paths(&used, changed, rules).unwrap_or_default().into_iter().filter_map(file).collect();
    let largest = files.iter().map(|(_, size)| *size).max().unwrap_or(0);
    let demands = Demands { file: largest, ..seen.demands.clone() }.with_clocks_ahead(target.clock_ahead_s);
    Ok(Manifest {
        clocks: demands.clocks,
        demands: Some(demands),
        files: files.into_iter().map(|(file, _)| file).collect(),
        folder_links: used.folder_links(rules),
        deleted: if survey.is_some() { rules.deleted().iter().map(|path| bytes(path)).collect() } else { Vec::new() },
        ..service.map_err(LookupError::Proc)?
    })
}

/// A file that will be put back, without its content, and its size.
fn file(path: PathBuf) -> Option<(File, u64)> {
    let meta = fs::symlink_metadata(&path).ok()?;
    let mut file = File { path: bytes(&path), ..File::default() };
    let kind = match meta.file_type() {
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => {
            file.target = bytes(&fs::read_link(&path).ok()?);
            Kind::Symlink
        }
        kind if kind.is_file() => {
            file.body = Some(Body::default());
            Kind::Regular
        }
        _ => return None,
    };
    file.kind = kind.into();
    Some((file, meta.len()))
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// Why no standby gets the service, and what to do.
pub fn unfit(standbys: &[Standby]) -> String {
    let lack = |standby: &Standby| {
        let lacks = standby.lacks.as_deref().unwrap_or_default();
        format!("the standby {} could not restore this service: {lacks}", standby.instance)
    };
    let all: BTreeSet<String> = standbys.iter().map(lack).collect();
    let all: Vec<String> = all.into_iter().collect();
    format!(
        "{}. Nothing was frozen. Give the standby what it lacks; or end it, and the checkpoint is for the next container \
         that starts",
        all.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Pace;
    use crate::files::selection::Selection;
    use crate::image::{KeyFiles, Lease, glance, test_vault};
    use crate::store::Location;

    struct Fixture {
        folder: tempfile::TempDir,
        vault: Vault,
        standbys: Standbys,
    }

    /// A source that has asked these standbys.
    fn asked(names: &[&str]) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let fixture = Fixture { folder, vault, standbys: Standbys::default() };
        names.iter().for_each(|name| fixture.says(&Standby { instance: (*name).into(), ..Standby::default() }));
        let standbys = Standbys::ask(&fixture.vault, "us", || Ok(Manifest::default())).unwrap();
        Fixture { standbys, ..fixture }
    }

    impl Fixture {
        fn says(&self, standby: &Standby) {
            standby.tell(&self.vault).unwrap();
        }

        fn answer(&self, name: &str, lacks: Option<&str>) -> Standby {
            let (answers, lacks) = (Some(self.standbys.question), lacks.map(Into::into));
            let standby = Standby { instance: name.into(), answers, lacks, ..Standby::default() };
            self.says(&standby);
            standby
        }

        fn hears(&self) -> Answer {
            self.standbys.hear(&self.vault, Duration::ZERO)
        }

        fn known(&self) -> usize {
            standby::listed(&**self.vault.store()).unwrap().len()
        }

        fn announce(&self, after_commit: AfterCommit, hold: Option<Duration>) -> Result<Target, CheckpointError> {
            let common = Common {
                store: Location::at("file:/nowhere"),
                keys: KeyFiles::default(),
                runtime_dir: self.folder.path().into(),
                memory: 0,
                instance: "us".to_owned(),
                exclusive_ms: None,
                trace: None,
            };
            let (lease, files) = (Lease::fresh(), Selection::default());
            let target = Target {
                root: 0,
                service: 0,
                tracer: None,
                lease,
                after_commit,
                hold,
                until: None,
                standbys: Standbys::default(),
                asked: None,
                pace: Pace::DEFAULT,
                files,
                ephemeral_store: false,
                clock_ahead_s: None,
            };
            let (reporter, _init) = Reporter::pair();
            let service = || Ok(Manifest::default());
            announce(&self.vault, &target, &common, Fencing::Enforced, &reporter, service).map(|(announced, target)| {
                announced.into_iter().for_each(Announced::disarm);
                target
            })
        }

        /// A standby that answers as soon as it is asked.
        fn alive(&self, lacks: Option<&str>) {
            while !glance(&self.vault).unwrap().is_some_and(|(_, moving)| moving) {
                thread::sleep(Duration::from_millis(1));
            }
            let (question, _) = standby::question(&self.vault).unwrap().unwrap();
            let (answers, lacks) = (Some(question), lacks.map(Into::into));
            self.says(&Standby { instance: "b".into(), answers, lacks, ..Standby::default() });
        }
    }

    #[test]
    fn the_first_that_is_ready_is_enough() {
        let fixture = asked(&["a", "b", "dead"]);
        fixture.answer("a", Some("it lacks a port"));
        let ready = fixture.answer("b", None);
        assert_eq!(fixture.hears(), Answer::Ready(ready));
        assert_eq!(fixture.known(), 3, "nobody had to be waited for");
    }

    #[test]
    fn of_those_that_answer_all_lack_something() {
        let fixture = asked(&["a", "dead"]);
        let lacks = fixture.answer("a", Some("it lacks a port; open it"));
        assert_eq!(fixture.hears(), Answer::Unfit(vec![lacks.clone()]));
        assert_eq!(
            unfit(&[lacks]),
            "the standby a could not restore this service: it lacks a port; open it. Nothing was frozen. Give the standby what it lacks; or end it, and the checkpoint is for the next container that starts"
        );
    }

    #[test]
    fn whoever_is_dead_is_waited_for_once_and_this_container_never() {
        let fixture = asked(&["us", "dead"]);
        assert_eq!((fixture.hears(), fixture.known()), (Answer::Nothing, 1));
        let again = Standbys::ask(&fixture.vault, "us", || panic!("nobody is asked")).unwrap();
        assert!(again.keys.is_empty());
        // An answer to an earlier question is none.
        let fixture = asked(&["dead"]);
        fixture.answer("dead", None);
        let again = Standbys::ask(&fixture.vault, "us", || Ok(Manifest::default())).unwrap();
        assert_eq!(again.hear(&fixture.vault, Duration::ZERO), Answer::Nothing);
        // One that has failed is not waited for.
        let fixture = asked(&["failed"]);
        fixture.says(&Standby { instance: "failed".into(), failed: 3, ..Standby::default() });
        assert_eq!(fixture.standbys.hear(&fixture.vault, Duration::from_secs(3600)), Answer::Nothing);
    }

    #[test]
    fn it_has_failed_if_no_other_one_is_left() {
        let fixture = asked(&["a", "b"]);
        let (a, b) = (fixture.answer("a", None), fixture.answer("b", None));
        let failed = |standby: &Standby| {
            fixture.says(&Standby { answers: None, failed: 7, ..standby.clone() });
            fixture.standbys.who_failed(&fixture.vault, 7)
        };
        assert_eq!(failed(&a), None);
        assert!(failed(&b).is_some());
        assert_eq!(fixture.standbys.who_failed(&fixture.vault, 8), None);
    }

    #[test]
    fn a_service_that_would_end_goes_to_a_standby_that_is_ready() {
        let hold = Some(Duration::from_secs(7));
        let fixture = asked(&["b"]);
        let target = thread::scope(|scope| {
            scope.spawn(|| fixture.alive(None));
            fixture.announce(AfterCommit::Stop, hold)
        });
        let target = target.unwrap();
        assert_eq!(target.after_commit, AfterCommit::HandOver { timeout_ms: 7000 });
        fixture.says(&Standby { instance: "b".into(), failed: 3, ..Standby::default() });
        assert_eq!(target.standbys.who_failed(&fixture.vault, 3).as_deref(), Some("b"));
        // Without one, and where the container ends in any case.
        assert_eq!(asked(&[]).announce(AfterCommit::Stop, hold).unwrap().after_commit, AfterCommit::Stop);
        let unasked = asked(&["b"]);
        assert_eq!(unasked.announce(AfterCommit::Stop, None).unwrap().after_commit, AfterCommit::Stop);
        assert_eq!(unasked.known(), 1, "it was not waited for");
    }

    /// `--handover` names a time, in which the standby may be started again.
    #[test]
    fn one_that_fails_ends_no_handover_that_was_asked_for() {
        let (fixture, after_commit) = (asked(&["b"]), AfterCommit::HandOver { timeout_ms: 1 });
        let target = thread::scope(|scope| {
            scope.spawn(|| fixture.alive(None));
            fixture.announce(after_commit, Some(PATIENCE)).unwrap()
        });
        fixture.says(&Standby { instance: "b".into(), failed: 3, ..Standby::default() });
        assert_eq!((target.after_commit, target.standbys.who_failed(&fixture.vault, 3)), (after_commit, None));
    }

    #[test]
    fn a_round_is_followed_by_those_that_say_so() {
        let fixture = asked(&["us", "older"]);
        let follows = |time| follow(&fixture.vault, "us", None, 5, Instant::now() + time);
        let says = |instance: &str, decoded, lacks| {
            fixture.says(&Standby { instance: instance.into(), decoded: Some(decoded), lacks, ..Standby::default() })
        };
        assert!(follows(LOOK * 1000), "none says so");
        says("us", 0, None);
        says("unfit", 0, Some("it lacks a port".into()));
        assert!(follows(LOOK * 1000), "neither may take it");
        says("slow", 4, None);
        assert!(!follows(Duration::ZERO));
        let asked = Some(fixture.standbys.question);
        assert!(follow(&fixture.vault, "us", asked, 5, Instant::now() + LOOK * 1000), "it has not answered");
        let followed = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(LOOK);
                says("fast", 5, None);
            });
            follows(LOOK * 1000)
        });
        assert!(followed);
    }

    #[test]
    fn what_no_standby_could_restore_is_not_frozen() {
        for after_commit in [AfterCommit::Stop, AfterCommit::HandOver { timeout_ms: 1 }] {
            let fixture = asked(&["b"]);
            let refused = thread::scope(|scope| {
                scope.spawn(|| fixture.alive(Some("it lacks a port")));
                fixture.announce(after_commit, Some(PATIENCE))
            });
            assert!(matches!(refused, Err(CheckpointError::Unfit(_))));
            // It is called off, and head has no owner: after a crash the next start may write it.
            assert_eq!(glance(&fixture.vault).unwrap(), Some((Lease::default(), false)));
        }
    }
}
