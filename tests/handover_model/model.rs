//! The protocol of handing a service over: the code of freeze, run by three containers at a store whose replies get lost and whose requests
//! arrive late, in every order of events, with the death of anything at any time.
//!
//! One container has the service at first, one is a standby, and one is started when the orchestrator likes: as a target, or
//! in the place of the others once they are dead for good. Who starts a target for the first time does so while something is
//! offered; from then on it is started again whatever happens. Each may give the service away. A worker, CRIU or container may die
//! at any step. Every request may be carried out and answered, carried out without a reply, arrive late, be refused, or never arrive: a
//! partition is that all of them get lost for a while. Containers take turns between any two calls to the store.
//!
//! - **Never two**: at most one copy's tasks are not stopped.
//! - **Never none**: no copy is ended before head names its generation; and from every state on, if nothing more fails and
//!   containers that ended are started again, a copy runs in the end.
//!
//! `run.rs` calls the code under test as the workers do, and each rule that they keep is broken there once: the search must find what that
//! leads to. Lost, late and refused requests, deaths, and turns in the middle of a step are surprises, and every history with a bounded number
//! of them is searched.

mod code;
mod events;
mod run;
mod script;
mod search;
mod steps;
mod tell;
mod world;

use search::search;
use steps::{PROTOCOL, Rules};

/// Searches it, and expects at least that many states and nothing wrong.
fn holds(rules: Rules, least: usize) {
    let found = search(rules);
    let Rules { last, late, surprises, .. } = rules;
    println!(
        "generations up to {last}, requests late at once {late}, surprises {surprises}: {} states, {} ways, {} runs of the code",
        found.states, found.ways, found.runs
    );
    if let Some((wrong, events)) = found.wrong {
        panic!("{wrong}:\n  {}", events.join("\n  "));
    }
    assert!(found.states > least, "hardly anything was searched");
}

#[test]
fn of_two_generations_there_is_never_more_than_one_copy_and_never_none_for_good() {
    holds(Rules { late: 2, ..PROTOCOL }, 1_000_000);
}

#[test]
fn of_three_generations_there_is_never_more_than_one_copy_and_never_none_for_good() {
    holds(Rules { last: 3, epochs: 3, surprises: 2, ..PROTOCOL }, 8_000_000);
}

/// Breaks one rule and returns what that leads to.
fn without(what: &str, break_it: impl Fn(&mut Rules)) -> &'static str {
    let mut rules = PROTOCOL;
    break_it(&mut rules);
    let (wrong, events) = search(rules).wrong.unwrap_or_else(|| panic!("nothing is wrong without {what}"));
    println!("without {what}: {wrong}\n  {}", events.join("\n  "));
    wrong
}

const TWO: &str = "two copies run";

#[test]
fn a_source_that_breaks_a_rule_makes_two_copies() {
    assert_eq!(without("stopping first", |rules| rules.stop_before_commit = false), TWO);
    assert_eq!(without("settling after a crash", |rules| rules.settle_after_a_crash = false), TWO);
    assert_eq!(without("withdrawing", |rules| rules.withdraw_before_going_on = false), TWO);
    assert_eq!(without("doubting a lost reply", |rules| rules.lost_reply_is_unknown = false), TWO);
    let doubt = |rules: &mut Rules| rules.replaced_after_a_lost_reply_is_unknown = false;
    assert_eq!(without("doubting a late refusal", doubt), TWO);
    assert_eq!(without("the same care at the end", |rules| rules.end_is_as_careful = false), TWO);
    assert_eq!(without("leaving alone what runs on", |rules| rules.left_running_is_not_offered = false), TWO);
}

#[test]
fn a_target_that_breaks_a_rule_makes_two_copies() {
    assert_eq!(without("deciding first", |rules| rules.decide_before_running = false), TWO);
    assert_eq!(without("remembering what it tried", |rules| rules.remember_before_restoring = false), TWO);
    let overtake = |rules: &mut Rules| (rules.what_is_new_is_looked_at, rules.last) = (false, 3);
    assert_eq!(without("looking at what is new", overtake), TWO);
    assert_eq!(without("standing by for what moved away", |rules| rules.moved_away_is_standby = false), TWO);
    assert_eq!(without("the newest outcome first", |rules| (rules.newest_outcome_first, rules.last) = (false, 3)), TWO);
    assert_eq!(without("withdrawing what is pending", |rules| rules.withdraw_what_is_pending = false), TWO);
    assert_eq!(without("looking at head first", |rules| rules.head_before_outcomes = false), TWO);
    assert_eq!(without("a store that keeps writers apart", |rules| rules.store_is_fenced = false), TWO);
}

#[test]
fn a_prune_that_breaks_a_rule_makes_two_copies() {
    assert_eq!(without("keeping the newest mark", |rules| rules.newest_mark_stays = false), TWO);
}

#[test]
fn a_rule_broken_the_other_way_loses_the_service() {
    assert_eq!(
        without("standing still", |rules| rules.unknown_stays_still = false),
        "a copy was ended that was not committed"
    );
    let forget = |rules: &mut Rules| (rules.own_outcome_is_ours, rules.surprises) = (false, 2);
    assert_eq!(without("knowing oneself", forget), "no copy ever runs again");
}
