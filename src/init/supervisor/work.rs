//! What the workers bring: a restored service or none, a checkpoint or the reason why not.

use super::{Restore, Supervisor, Task, killed_by, say};
use crate::{
    control::{protocol::Event, server::ClientId},
    exit,
    init::{
        checkpoint::Checkpoint,
        service,
        tree::{self, Tree},
        worker::Worker,
    },
    sys::{memory, process},
    worker::{Common, Job},
};

impl Supervisor {
    pub(super) fn begin(&mut self) {
        self.take_signals();
        if let Some(signal) = self.cancelled {
            return self.finish(killed_by(signal), "init was told to end");
        }
        let job = Job::Restore {
            common: self.common(),
            choice: self.config.restore,
            failure: self.config.restore_failure,
            standby: self.config.standby.clone(),
            exclusive_ms: self.config.exclusive.map(|time| time.as_millis() as u64),
        };
        match Worker::start(&job, self.config.restore_timeout) {
            Ok(worker) => self.worker = Some((worker, Task::Restore(Restore::default()))),
            Err(error) => self
                .fail(&format!("cannot start the worker that looks for a checkpoint: {error}"), exit::RESTORE_FAILED),
        }
    }

    fn start(&mut self) {
        match service::start(&self.config) {
            Ok(tree) => {
                self.tree = Some(tree);
                self.send_waiting();
                settle();
            }
            Err(error) => self.fail(&error.to_string(), exit::FATAL),
        }
    }

    pub(super) fn common(&self) -> Common {
        Common {
            store: self.config.store.clone(),
            keys: self.config.keys.clone(),
            runtime_dir: self.runtime_dir.clone(),
            memory: self.config.memory,
            instance: self.config.instance.clone(),
        }
    }

    pub(super) fn hear_worker(&mut self) {
        let mut ended_already = None;
        while let Some((worker, task)) = &mut self.worker
            && let Some(event) = worker.next_event()
        {
            match task {
                Task::Restore(restore) => match event {
                    Event::Progress { .. } => {}
                    Event::Restoring { root } => restore.root = root,
                    Event::Claimed => restore.settled = true,
                    Event::Warning { message } => {
                        say(&format!("warning: {message}"));
                        restore.settled = restore.result.is_some();
                    }
                    _ => {
                        if let Event::Restored { root, service, lease, .. } = event {
                            self.tree = Some(Tree { root, service });
                            self.lease = lease;
                            ended_already = restore.ended;
                        }
                        restore.result = Some(event);
                        worker.hurry();
                    }
                },
                Task::Checkpoint(checkpoint) => {
                    if let Event::Warning { message } = &event {
                        say(&format!("warning: {message}"));
                    }
                    if let Some(event) = checkpoint.take(event) {
                        self.server.send(checkpoint.client, &event);
                    }
                    self.lease = checkpoint.committed().unwrap_or(self.lease);
                    if checkpoint.has_result() {
                        worker.hurry();
                    }
                }
            }
        }
        if let Some(ending) = ended_already {
            self.tree = None;
            self.service_ended(ending);
        } else if self.tree.is_some() {
            self.send_waiting();
        }
    }

    pub(super) fn restore_over(&mut self, restore: Restore, reason: &str) {
        match (self.cancelled, restore.result) {
            (_, Some(Event::Restored { root, .. })) if self.tree.is_none() || process::is_child(root) => {
                if !restore.settled {
                    say(&format!(
                        "warning: the service runs, but its worker {reason} before it had told the store. Another container \
                         that restores the same generation will not be noticed before the next checkpoint"
                    ));
                }
                settle();
            }
            (_, Some(Event::Restored { .. })) => {
                self.fail(
                    "the restored service is not there: it ended before init could take it over",
                    exit::RESTORE_FAILED,
                );
            }
            (Some(signal), _) => {
                tree::kill_below(std::process::id() as i32);
                self.finish(killed_by(signal), "init was told to end");
            }
            (None, Some(Event::NothingToRestore { lease })) => {
                self.lease = lease;
                self.start();
            }
            (None, Some(Event::Failed { message, log, .. })) => {
                let log = log.map(|path| format!(" (log: {})", path.display())).unwrap_or_default();
                self.fail(&format!("{message}{log}"), exit::RESTORE_FAILED);
            }
            (None, _) => self.fail(&format!("the restore failed: its worker {reason}"), exit::RESTORE_FAILED),
        }
    }

    pub(super) fn checkpoint_over(&mut self, checkpoint: Checkpoint, reason: &str) {
        let Checkpoint { client, was_stopped, .. } = checkpoint;
        let ends = checkpoint.ends_service();
        let answer = checkpoint.answer(reason);
        match self.tree {
            Some(tree) if ends => {
                self.farewell = Some((client, answer));
                tree.kill();
            }
            None if ends => self.say_farewell(client, &answer),
            tree => {
                // A worker that died may have left the service standing still.
                if let (Some(tree), false) = (tree, was_stopped) {
                    tree::continue_below(tree.root);
                }
                self.server.finish(client, &answer);
                memory::give_back();
            }
        }
    }

    /// The service was checkpointed and has ended: so does init.
    pub(super) fn say_farewell(&mut self, client: ClientId, answer: &Event) {
        self.server.finish(client, answer);
        self.finish(self.config.checkpointed_status, "the service was checkpointed and has ended");
    }
}

/// Holds nothing any more that only the start needed: the folder it was made in, and memory.
fn settle() {
    let _ = std::env::set_current_dir("/");
    memory::give_back();
}
