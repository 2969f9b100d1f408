//! What a container does in one step: the code under test, called as the workers of freeze call it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use freeze::image::{self, ImageError, Lease, Outcome, Result, Vault, Whereabouts};
use freeze::job::{Choice, Common, OnFailure, Standby, VolumeChanged};
use freeze::restore::{Newest, Policy, reason_to_wait};
use freeze::store::Location;

use crate::script::Script;
use crate::steps::*;

/// One step of a container.
pub struct Run<'a> {
    pub rules: &'a Rules,
    pub who: usize,
    pub script: Arc<Script>,
}

impl Run<'_> {
    pub fn run(&self, step: Step) -> Next {
        let vault = &self.script.vault();
        match step {
            Step::Down | Step::Runs(_) => unreachable!("these steps run no code"),
            // A restore that fails ends the container.
            Step::Start => Next::Go(self.start(vault).unwrap_or(Step::Down)),
            Step::Look(found) => Next::Go(self.look(vault, found).unwrap_or(Step::Down)),
            Step::Wait => Next::Go(self.wait(vault).ok().flatten().map_or(Step::Wait, Step::Chosen)),
            Step::Chosen(found) => Next::Go(self.remember(vault, found)),
            // It asks again, or gives up, which is as if it died.
            Step::Restored(found) => Next::Go(self.take(vault, found).unwrap_or(step)),
            Step::Claims(lease, former) => {
                let _ = lease.claim(vault);
                if let Some(former) = former {
                    let _ = image::mark_lost(vault, lease.generation, NAMES[former]);
                }
                Next::Go(Step::Runs(lease))
            }
            Step::Commits(AfterCommit::Resume, lease) => {
                let mut manifest = manifest(self.who, !self.rules.left_running_is_not_offered);
                let committed = image::commit(vault, &mut manifest, lease, Instant::now());
                Next::Go(Step::Runs(committed.unwrap_or(lease)))
            }
            Step::Commits(after_commit, lease) => self.give_away(vault, after_commit, lease),
            Step::Offered(generation, lease) => match image::look(vault, generation) {
                Ok(Some(outcome)) => self.settled(vault, generation, lease, &outcome),
                _ => Next::Go(step),
            },
            Step::Withdraws(after_commit, generation, lease) => {
                match image::decide(vault, generation, &Outcome::Withdrawn { by: party(self.who, &lease) }) {
                    Ok(outcome) => self.settled(vault, generation, lease, &outcome),
                    Err(_) if !self.rules.unknown_stays_still => Next::End(generation),
                    Err(_) if !self.rules.end_is_as_careful && after_commit == AfterCommit::Stop => {
                        Next::Go(Step::Runs(lease))
                    }
                    Err(_) => Next::Go(step),
                }
            }
        }
    }

    fn start(&self, vault: &Vault) -> Result<Step> {
        if !self.rules.head_before_outcomes && self.reason_to_wait(vault, 0)? {
            return Ok(Step::Wait);
        }
        let Some(lease) = Lease::for_newest(vault)? else { return Ok(Step::Down) };
        let Some(newest) = Newest::load(vault, &lease)? else { return Ok(Step::Down) };
        let found = found(lease, &newest);
        Ok(if self.rules.head_before_outcomes { Step::Look(found) } else { Step::Chosen(found) })
    }

    fn look(&self, vault: &Vault, found: Found) -> Result<Step> {
        Ok(if self.reason_to_wait(vault, found.lease.generation)? { Step::Wait } else { Step::Chosen(found) })
    }

    fn reason_to_wait(&self, vault: &Vault, found: u64) -> Result<bool> {
        let rules = self.rules;
        let us = NAMES[self.who];
        if self.who == SUCCESSOR || (!rules.moved_away_is_standby && self.who != STANDBY) {
            return Ok(false);
        }
        if !rules.own_outcome_is_ours && matches!(image::whereabouts(vault, us)?, Whereabouts::Here(_)) {
            return Ok(true);
        }
        if !rules.newest_outcome_first
            && let Some(away) = oldest_is_away(vault, us)?
        {
            return Ok(away);
        }
        let found = if rules.what_is_new_is_looked_at { found } else { image::newest(vault)?.unwrap_or(0) };
        let common = Common {
            store: Location::at(vault.url()),
            keys: Default::default(),
            runtime_dir: PathBuf::new(),
            memory: 0,
            instance: us.to_owned(),
            exclusive_ms: None,
            trace: None,
        };
        let standby = Standby { always: self.who == STANDBY, poll_ms: 1, cache: PathBuf::new(), cache_bytes: 0 };
        let policy = Policy {
            choice: Choice::Newest,
            failure: OnFailure::Fail,
            volume_changed: VolumeChanged::Refuse,
            clock: Default::default(),
            standby,
            exclusive: None,
            tracers: None,
            files: Default::default(),
        };
        Ok(reason_to_wait(Some(vault), found, &common, &policy)?.is_some())
    }

    fn wait(&self, vault: &Vault) -> Result<Option<Found>> {
        let Some(head) = Lease::of_head(vault)? else { return Ok(None) };
        let Some(newest) = Newest::load(vault, &head)? else { return Ok(None) };
        let is_ours = newest.is_of(NAMES[self.who]) && self.rules.own_outcome_is_ours;
        Ok((newest.offered().is_some() || is_ours).then(|| found(Lease::after(&head), &newest)))
    }

    fn remember(&self, vault: &Vault, found: Found) -> Step {
        match found.from {
            Some(from) if ![from, SUCCESSOR].contains(&self.who) && self.rules.remember_before_restoring => {
                match image::mark_lost(vault, found.lease.generation, NAMES[self.who]) {
                    Ok(()) => Step::Restored(found),
                    Err(_) => Step::Down,
                }
            }
            _ => Step::Restored(found),
        }
    }

    fn take(&self, vault: &Vault, Found { lease, from }: Found) -> Result<Step> {
        let by = party(self.who, &lease);
        let ours = match from {
            Some(_) if !self.rules.decide_before_running => true,
            Some(from) => {
                let wanted = Outcome::Taken { by, from: NAMES[from].to_owned() };
                image::decide(vault, lease.generation, &wanted)? == wanted
            }
            None => !self.rules.withdraw_what_is_pending || image::close_above(vault, lease.generation, &by)?,
        };
        let former = from.filter(|from| *from != self.who);
        Ok(if ours { Step::Claims(lease, former) } else { Step::Down })
    }

    fn give_away(&self, vault: &Vault, after_commit: AfterCommit, lease: Lease) -> Next {
        let runs = Next::Go(Step::Runs(lease));
        let mut manifest = manifest(self.who, true);
        let Ok(proposal) = image::propose(vault, &mut manifest, lease, Instant::now()) else { return runs };
        let generation = proposal.number;
        self.script.say(generation);
        let failure = match proposal.commit() {
            Ok(lease) if after_commit == AfterCommit::HandOver => return Next::Go(Step::Offered(generation, lease)),
            Ok(_) => return Next::End(generation),
            Err(failure) => failure,
        };
        let replaced = matches!(failure.error, ImageError::Replaced { .. });
        let known = replaced && !self.rules.replaced_after_a_lost_reply_is_unknown;
        if failure.may_count && self.rules.lost_reply_is_unknown && !known {
            Next::Go(Step::Withdraws(after_commit, generation, lease))
        } else {
            runs
        }
    }

    fn settled(&self, vault: &Vault, generation: u64, lease: Lease, outcome: &Outcome) -> Next {
        let Outcome::Taken { by, .. } = outcome else { return Next::Go(Step::Runs(lease)) };
        if by.instance != NAMES[self.who] {
            let _ = image::mark_lost(vault, generation, NAMES[self.who]);
        }
        Next::End(generation)
    }
}

/// What there is for a container to restore.
fn found(lease: Lease, newest: &Newest) -> Found {
    let from = newest.offered().and_then(|manifest| NAMES.iter().position(|name| *name == manifest.instance));
    Found { lease: Lease { writer: UNNAMED, ..lease }, from }
}

/// Goes by the oldest outcome that concerns an instance, where the newest should decide.
fn oldest_is_away(vault: &Vault, us: &str) -> Result<Option<bool>> {
    let mut records = image::records(&**vault.store())?;
    records.reverse();
    for record in records.into_iter().filter(|record| record.lost.is_none()) {
        match image::look(vault, record.number)? {
            Some(Outcome::Taken { by, .. } | Outcome::Withdrawn { by }) if by.instance == us => {
                return Ok(Some(false));
            }
            Some(Outcome::Taken { from, .. }) if from == us => return Ok(Some(true)),
            _ => {}
        }
    }
    Ok(None)
}
