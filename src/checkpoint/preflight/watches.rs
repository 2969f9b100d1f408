//! inotify: an instance is carried; a watch only where CRIU finds its file again.

use super::descriptors::{Descriptor, info};
use super::{Finding, Service};
use crate::files::watched::{self, Searched};
use crate::tree::Process;

/// What of this service's watches can be carried.
pub struct Watches {
    /// None where CRIU can open any file by its handle, so that it is left to it.
    searched: Option<Searched>,
}

impl Watches {
    pub fn of(service: &Service) -> Self {
        Self { searched: (!service.abilities.facts.has("DAC_READ_SEARCH")).then(Searched::default) }
    }

    pub fn finding(&self, process: &Process, descriptor: &Descriptor) -> Option<Finding> {
        if descriptor.target != "anon_inode:inotify" {
            return None;
        }
        let searched = self.searched.as_ref()?;
        let files = watched::files(&info(process.pid, descriptor.fd));
        let lost = files.iter().filter(|file| searched.path(**file).is_none()).count();
        (lost > 0).then(|| {
            let what = format!("has inotify watches, {lost} of which lead to no file in /etc, /var/log or /var/spool and cannot be checkpointed");
            Finding::refused(Some(process), &what, "switch off the service's file watching")
        })
    }
}
