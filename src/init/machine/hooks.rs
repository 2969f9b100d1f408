//! Hooks: commands and signals before and after a checkpoint, and after a start or restore.

use super::{Action, Busy, HookCall, Machine, Moment, Timer};
use crate::init::config::Hook;

impl Machine {
    /// Runs a hook. Returns whether an [`Input::HookOver`](super::Input::HookOver) follows.
    pub(super) fn run_hook(&mut self, call: HookCall) -> bool {
        match self.config.hooks.at(call.moment) {
            None => false,
            // Nothing shows when the service has handled a signal, so there is nothing to wait for.
            Some(Hook::Signal(signal)) => {
                let signal = *signal;
                if self.tree.is_some() {
                    self.act(Action::Signal(signal));
                }
                false
            }
            Some(Hook::Command(_)) => {
                let timeout = self.config.hooks.timeout;
                self.set(Timer::Hook, timeout);
                self.act(Action::RunHook(call));
                true
            }
        }
    }

    /// Runs the hooks after the start of the service, one after the other.
    pub(super) fn run_ready_hooks(&mut self, mut moments: Vec<Moment>) {
        while !moments.is_empty() {
            let moment = moments.remove(0);
            let restore = self.status.restore.as_ref();
            let call = HookCall {
                moment,
                generation: self.status.generation,
                reason: if restore.is_some() { "restore" } else { "start" },
                result: "",
                peer: restore.map(|restore| restore.from.clone()).unwrap_or_default(),
                service: self.tree.map_or(0, |tree| tree.service),
            };
            if self.run_hook(call) {
                self.busy = Busy::Ready(moments);
                return;
            }
        }
        self.idle();
    }

    pub(super) fn hook_over(&mut self, failure: Option<String>) {
        self.act(Action::Clear(Timer::Hook));
        match std::mem::replace(&mut self.busy, Busy::Nothing) {
            Busy::Ready(moments) => {
                self.warn_of_hook("after the start of the service", failure);
                self.run_ready_hooks(moments);
            }
            Busy::Before(checkpoint) => self.before_over(checkpoint, failure),
            Busy::After(end) => {
                self.warn_of_hook("after the checkpoint", failure);
                match end {
                    Some(code) => self.finish(code, "the service was checkpointed and has ended"),
                    None => self.idle(),
                }
            }
            other => self.busy = other,
        }
    }

    pub(super) fn warn_of_hook(&mut self, which: &str, failure: Option<String>) {
        if let Some(failure) = failure {
            self.say(format!("warning: the hook {which} {failure}"));
        }
    }
}
