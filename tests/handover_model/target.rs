//! What can happen next, and what a container does that has no service yet.

use crate::state::*;

impl State {
    /// What the outcomes say to a container that starts: its service has moved away, or it is its own; nothing otherwise.
    pub fn has_moved(&self, who: usize, rules: &Rules) -> Option<bool> {
        let us = who as u8;
        if self.replaced {
            // It comes by another name each time, so nothing concerns it.
            return None;
        }
        let concerns = |generation: u8| {
            let from = self.manifest(generation).map(|manifest| manifest.by);
            let lost = self.losers[usize::from(generation) - 2] & 1 << us != 0;
            match self.outcome(generation) {
                Some(Outcome::Taken(by) | Outcome::Withdrawn(by)) if by == us && rules.own_outcome_is_ours => {
                    Some(false)
                }
                Some(Outcome::Taken(_)) if from == Some(us) => Some(rules.moved_away_is_standby),
                _ => lost.then_some(true),
            }
        };
        let mut generations: Vec<u8> = (2..=LAST).collect();
        if rules.newest_outcome_first {
            generations.reverse();
        }
        generations.into_iter().find_map(concerns)
    }

    /// Every event that is possible now, with the state after it.
    pub fn events(&self, rules: &Rules) -> Vec<(Event, State)> {
        let mut found = Vec::new();
        for who in 0..3 {
            let mut add = |fault: bool, what, state: State| found.push((Event { who, what, fault }, state));
            self.of_container(who, rules, &mut add);
            if self.containers[who].step != Step::Down {
                add(true, "the container dies", self.down(who));
            }
        }
        for index in 0..LATE {
            let Some(request) = self.late[index] else { continue };
            let mut gone = *self;
            gone.late[index] = None;
            gone.late.sort();
            let mut done = gone;
            let by = match request {
                Late::Head { by, generation, alive } => {
                    done.put_head(by.into(), generation, alive);
                    by
                }
                Late::Taken { by, generation } => {
                    done.decide(generation, Outcome::Taken(by), rules);
                    by
                }
                Late::Withdrawn { by, generation } => {
                    done.decide(generation, Outcome::Withdrawn(by), rules);
                    by
                }
            };
            let event = |what| Event { who: by.into(), what, fault: false };
            found.push((event("a late request is carried out"), done));
            found.push((event("a late request is lost"), gone));
        }
        found
    }

    pub fn of_container(&self, who: usize, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let us = who as u8;
        match self.containers[who].step {
            Step::Down => {
                let next = self.to(who, Step::Start);
                if !self.replaced || who == NEWCOMER {
                    add(false, "starts", next);
                }
                let all_down = self.containers.iter().all(|one| one.step == Step::Down);
                if who == NEWCOMER && all_down && !self.replaced {
                    // That somebody has to do this is no part of a service that comes back by itself.
                    add(true, "starts in the place of the others", State { replaced: true, ..next });
                }
            }
            Step::Start if rules.head_before_outcomes => {
                let mut next = self.to(who, Step::Look(self.head));
                next.containers[who].lease = true;
                add(false, "looks at head", next);
            }
            Step::Start => match self.has_moved(who, rules) {
                Some(true) => add(false, "sees that its service has moved away", self.to(who, Step::Wait)),
                _ => add(false, "looks at outcomes", self.to(who, Step::Look(0))),
            },
            Step::Look(head) => self.look(who, head, rules, add),
            Step::Secure(head) => self.secure(who, head, rules, add),
            Step::Wait => {
                let mut next = *self;
                next.containers[who].lease = true;
                if self.is_open(self.head) {
                    next.take_up(who, self.head, rules, add);
                }
                if let Some(Outcome::Taken(by) | Outcome::Withdrawn(by)) = self.outcome(self.head)
                    && by == us
                    && rules.own_outcome_is_ours
                {
                    add(false, "finds that it has it already", next.to(who, Step::Secure(self.head)));
                }
            }
            Step::Restored { generation, open } => self.restored(who, generation, open, rules, add),
            Step::Won => add(false, "lets the tasks go", self.to(who, Step::Runs)),
            Step::Runs => self.runs(who, rules, add),
            Step::Stopped(fate) => {
                add(true, "the worker dies", self.to(who, Step::Runs));
                add(true, "the manifest cannot be written", self.to(who, Step::Runs));
                if let Some(free) = self.free(rules) {
                    let mut next = self.to(who, Step::Proposed(fate, free as u8 + 2));
                    next.manifests[free] = Some(Manifest { by: us, offered: true });
                    add(false, "writes the manifest", next);
                }
            }
            Step::Proposed(fate, generation) => self.proposed(who, fate, generation, rules, add),
            Step::Offered(generation) => {
                self.faults_while_still(who, Fate::Handover, generation, rules, add);
                match self.outcome(generation) {
                    Some(Outcome::Taken(_)) => add(false, "sees that it was taken", self.end(who, generation)),
                    Some(Outcome::Withdrawn(_)) => add(false, "sees that it was withdrawn", self.to(who, Step::Runs)),
                    None if rules.withdraw_before_going_on => {
                        add(false, "has waited long enough", self.to(who, Step::Withdraws(Fate::Handover, generation)));
                    }
                    None => add(false, "has waited long enough and goes on", self.to(who, Step::Runs)),
                }
            }
            Step::Withdraws(fate, generation) => self.withdraws(who, fate, generation, rules, add),
        }
    }

    fn look(&self, who: usize, head: u8, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let moved = match rules.head_before_outcomes {
            true => self.has_moved(who, rules),
            false => (who != NEWCOMER).then_some(false),
        };
        let mut next = *self;
        next.containers[who].lease |= !rules.head_before_outcomes;
        let head = if rules.head_before_outcomes { head } else { self.head };
        if moved == Some(true) {
            add(false, "sees that its service has moved away", self.to(who, Step::Wait));
            if !rules.what_is_new_is_looked_at && self.head != head && self.is_open(self.head) {
                add(false, "restores what was there before that is offered", self.to(who, Step::Secure(head)));
            }
        } else if moved.is_none() && who == STANDBY {
            add(false, "is a standby", self.to(who, Step::Wait));
        } else if self.is_open(head) {
            next.take_up(who, head, rules, add);
        } else if who == NEWCOMER && !self.replaced && !self.tried && moved.is_none() {
            // The one that had it may be alive, and who starts a container for it for the first time has to know.
            add(false, "finds nothing that is for it", self.down(who));
        } else {
            add(false, "finds what was its own", next.to(who, Step::Secure(head)));
        }
    }

    /// Restores what is offered, once it has said that this is its own only if the outcome says so.
    fn take_up(mut self, who: usize, generation: u8, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        if rules.remember_before_restoring && self.manifest(generation).is_some_and(|manifest| manifest.by != who as u8)
        {
            add(true, "cannot say what it tries", self.down(who));
            self.losers[usize::from(generation) - 2] |= 1 << who;
            add(true, "does not know whether it has said what it tries", self.down(who));
        }
        self.tried |= who == NEWCOMER;
        add(false, "restores what is offered", self.to(who, Step::Restored { generation, open: true }));
    }

    /// Takes back what was proposed after the generation that it is going to restore: a put of head may be under way still.
    fn secure(&self, who: usize, head: u8, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let us = who as u8;
        let withdrawn = |generation| matches!(self.outcome(generation), Some(Outcome::Withdrawn(_)));
        let offered = |generation| self.manifest(generation).is_some_and(|manifest| manifest.offered);
        let pending = (head + 1..=LAST).find(|generation| offered(*generation) && !withdrawn(*generation));
        let Some(generation) = pending.filter(|_| rules.withdraw_what_is_pending) else {
            add(false, "restores", self.to(who, Step::Restored { generation: head, open: false }));
            return;
        };
        let mut done = *self;
        match done.decide(generation, Outcome::Withdrawn(us), rules) {
            Outcome::Withdrawn(_) => add(false, "withdraws what may yet be committed", done),
            Outcome::Taken(_) => add(false, "finds it taken and begins anew", done.to(who, Step::Start)),
        }
        add(true, "gets no reply to its withdrawal", done);
        if let Some(late) = self.later(Late::Withdrawn { by: us, generation }, rules) {
            add(true, "its withdrawal is late", late);
        }
    }

    fn restored(
        &self,
        who: usize,
        generation: u8,
        open: bool,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        let us = who as u8;
        if !open || !rules.decide_before_running {
            add(false, "lets the tasks go", self.to(who, Step::Runs));
            return;
        }
        let mut done = *self;
        let stands = done.decide(generation, Outcome::Taken(us), rules);
        // One by an earlier start of this container is found by the next.
        if stands == Outcome::Taken(us) && (self.is_open(generation) || !rules.store_is_fenced) {
            add(false, "takes it", done.to(who, Step::Won));
        } else {
            add(false, "was too late", done.down(who));
        }
        add(true, "gets no reply to its take", done.down(who));
        if let Some(late) = self.later(Late::Taken { by: us, generation }, rules) {
            add(true, "its take is late", late.down(who));
        }
    }
}
