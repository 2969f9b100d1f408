//! What clients ask for.

use super::{Supervisor, Task};
use crate::{
    control::{
        protocol::{Event, Op, State, Status, Wanted},
        server::{ClientId, Said, failed},
    },
    init::{checkpoint::Checkpoint, tree, worker::Worker},
    worker::{Fate, Job},
};

impl Supervisor {
    pub(super) fn serve(&mut self, slot: usize) {
        match self.server.serve(slot) {
            Some(Said::Asked(client, Op::Status)) => {
                let service = self.tree.map_or(0, |tree| tree.service);
                let status = Status { state: self.state(), service, ..Status::default() };
                self.server.finish(client, &Event::Status(Box::new(status)));
            }
            Some(Said::Asked(client, Op::Checkpoint(wanted))) => {
                if let Err(message) = self.checkpoint(client, wanted) {
                    self.server.finish(client, &failed(message));
                }
            }
            Some(Said::Asked(client, _)) => self.server.finish(client, &failed("not yet".to_owned())),
            Some(Said::Left(client)) => self.cancel(client),
            None => {}
        }
    }

    /// Nobody waits for the checkpoint any more: unless it is committed, the service just runs on.
    fn cancel(&mut self, client: ClientId) {
        if let Some((worker, Task::Checkpoint(checkpoint))) = &mut self.worker
            && checkpoint.client == client
            && checkpoint.committed().is_none()
        {
            worker.dismiss();
        }
    }

    fn state(&self) -> State {
        match (&self.worker, self.tree) {
            _ if self.end.is_some() || self.farewell.is_some() => State::Ending,
            (Some((_, Task::Checkpoint(_))), _) => State::Checkpointing,
            (Some((_, Task::Restore(_))), _) | (None, None) => State::Starting,
            (None, Some(_)) => State::Running,
        }
    }

    fn checkpoint(&mut self, client: ClientId, wanted: Wanted) -> Result<(), String> {
        let tree = match (self.state(), self.tree) {
            (State::Running, Some(tree)) => tree,
            (State::Checkpointing, _) => return Err("a checkpoint is already under way: wait for its end".to_owned()),
            (State::Ending, _) => return Err("the service is ending".to_owned()),
            _ => return Err("the service is still starting: try again when `freeze status` says running".to_owned()),
        };
        if tree.root == 0 {
            return Err("the holder of the service's processes was killed, so not all of them can be found: \
                        restart the container to be able to checkpoint again"
                .to_owned());
        }
        let include = self.config.include.clone();
        let (common, lease) = (self.common(), self.lease);
        let fate = if wanted.leave_running { Fate::Run } else { Fate::End };
        let job = Job::Checkpoint { common, root: tree.root, service: tree.service, lease, fate, include };
        let worker = Worker::start(&job, self.config.checkpoint_timeout)
            .map_err(|error| format!("cannot start a worker for the checkpoint; the service runs on: {error}"))?;
        let was_stopped = tree::is_stopped(tree.service);
        self.worker = Some((worker, Task::Checkpoint(Checkpoint::new(client, wanted.leave_running, was_stopped))));
        Ok(())
    }
}
