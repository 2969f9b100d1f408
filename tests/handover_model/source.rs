//! What a container does that has the service.

use crate::state::*;

impl State {
    pub fn runs(&self, who: usize, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let us = who as u8;
        let ours = self.containers[who];
        // Whoever was replaced changes nothing.
        if !ours.lease {
            return;
        }
        if self.owner != us {
            let mut next = *self;
            if let Some(late) = next.later(Late::Head { by: us, generation: self.head, alive: true }, rules) {
                add(true, "its claim is late", late);
            }
            next.put_head(who, self.head, true);
            add(false, "claims head", next);
        }
        let Some(free) = self.free(rules) else { return };
        for fate in [Fate::End, Fate::Handover] {
            let what = if fate == Fate::End { "is to be checkpointed and end" } else { "is to be handed over" };
            add(false, what, self.to(who, Step::Stopped(fate)));
        }
        let generation = free as u8 + 2;
        let mut next = *self;
        next.manifests[free] = Some(Manifest { by: us, offered: !rules.left_running_is_not_offered });
        if let Some(late) = next.later(Late::Head { by: us, generation, alive: true }, rules) {
            add(true, "the commit of a checkpoint beside it is late", late);
        }
        next.put_head(who, generation, true);
        add(false, "commits a checkpoint and runs on", next);
    }

    /// A worker or CRIU dies while nobody knows who has the service.
    pub fn faults_while_still(
        &self,
        who: usize,
        fate: Fate,
        generation: u8,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        let careful = rules.end_is_as_careful || fate == Fate::Handover;
        let mut next = *self;
        next.containers[who].loose = !rules.stop_before_commit || !careful;
        add(true, "CRIU dies", next);
        let settles = rules.settle_after_a_crash && careful;
        let step = if settles { Step::Withdraws(fate, generation) } else { Step::Runs };
        add(true, "the worker dies", next.to(who, step));
    }

    pub fn proposed(
        &self,
        who: usize,
        fate: Fate,
        generation: u8,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        self.faults_while_still(who, fate, generation, rules, add);
        if !self.containers[who].lease {
            add(false, "was replaced by another container", self.to(who, Step::Runs));
            return;
        }
        let unknown = if rules.lost_reply_is_unknown { Step::Withdraws(fate, generation) } else { Step::Runs };
        if let Some(late) = self.later(Late::Head { by: who as u8, generation, alive: true }, rules) {
            add(true, "its commit is late", late.to(who, unknown));
        }
        let mut next = *self;
        next.put_head(who, generation, true);
        add(true, "gets no reply to its commit", next.to(who, unknown));
        match fate {
            Fate::End => add(false, "commits and ends", next.end(who, generation)),
            Fate::Handover => add(false, "commits", next.to(who, Step::Offered(generation))),
        }
    }

    pub fn withdraws(
        &self,
        who: usize,
        fate: Fate,
        generation: u8,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        let us = who as u8;
        self.faults_while_still(who, fate, generation, rules, add);
        let mut done = *self;
        match done.decide(generation, Outcome::Withdrawn(us), rules) {
            Outcome::Withdrawn(_) => add(false, "takes it back", done.to(who, Step::Runs)),
            Outcome::Taken(_) => add(false, "learns that it was taken", done.end(who, generation)),
        }
        add(true, "gets no reply to its withdrawal", done);
        if let Some(late) = self.later(Late::Withdrawn { by: us, generation }, rules) {
            add(true, "its withdrawal is late", late);
        }
        if !rules.unknown_stays_still {
            add(true, "ends, not knowing", self.end(who, generation));
        }
        if !rules.end_is_as_careful && fate == Fate::End {
            add(true, "the store does not answer, so it goes on", self.to(who, Step::Runs));
        }
        if !rules.replaced_after_a_lost_reply_is_unknown && self.head >= generation && self.owner != us {
            add(false, "was replaced by another container", self.to(who, Step::Runs));
        }
    }
}
