//! The rule of PID order stands twice: freeze refuses before a dump what criu could not restore. Both are held against one corpus of
//! trees, and against each other on random ones.

mod corpus;
mod criu;
mod history;
mod subject;

use corpus::{Node, Verdict};
use criu::{Criu, Restored};
use freeze::checkpoint::pid_order;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRng, TestRunner};

fn freeze_says(tree: &[Node]) -> Verdict {
    let processes: Vec<_> = tree.iter().map(|node| node.process.clone()).collect();
    pid_order::check(&processes).into()
}

/// What criu does where the verdict is another than it should be.
fn contradiction(criu: &Criu, tree: &[Node], verdict: Verdict) -> Option<String> {
    let wanted = criu::as_text(tree.iter().map(|node| &node.process));
    match (criu.restore(tree), verdict) {
        (Restored::Tree(found), Verdict::Ok) if found == wanted => None,
        // A subreaper gets all orphans or none, which criu does not see.
        (Restored::Tree(found), Verdict::Passed) if found != wanted => None,
        (Restored::Refused(_), verdict) if !matches!(verdict, Verdict::Ok | Verdict::Passed) => None,
        (Restored::Tree(found), _) => Some(format!("freeze says {verdict:?}, criu restored\n{found}for\n{wanted}")),
        (Restored::Hung, _) => Some(format!("freeze says {verdict:?}, criu hung with\n{wanted}")),
        (Restored::Refused(error), _) => Some(format!("freeze says {verdict:?}, criu refused: {error}\n{wanted}")),
    }
}

#[test]
fn freeze_says_what_the_corpus_says() {
    let wrong = corpus::cases().into_iter().filter_map(|case| {
        let said = freeze_says(&case.tree);
        (said != case.verdict).then(|| format!("{}: {said:?}, not {:?}", case.name, case.verdict))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn criu_does_what_the_corpus_says() {
    let criu = Criu::new();
    let wrong = corpus::cases().into_iter().filter_map(|case| {
        let contradiction = contradiction(&criu, &case.tree, case.verdict)?;
        Some(format!("{}: {contradiction}", case.name))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn freeze_and_criu_agree_on_random_trees() {
    let criu = Criu::new();
    let config = Config { cases: 100, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let tried = TestRunner::new_with_rng(config, rng).run(&history::steps(), |steps| {
        let tree = history::tree(&steps);
        match contradiction(&criu, &tree, freeze_says(&tree)) {
            None => Ok(()),
            Some(contradiction) => Err(TestCaseError::fail(contradiction)),
        }
    });
    match tried {
        Ok(()) => {}
        // Without the steps: the tree says it all.
        Err(TestError::Fail(contradiction, _)) => panic!("{contradiction}"),
        Err(other) => panic!("{other}"),
    }
}
