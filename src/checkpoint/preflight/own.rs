//! Refuses a service that could not be restored even in a fresh container like this one. Most often a limit was
//! lowered, or a privilege dropped, after the service had used it.

use super::{Finding, Findings, Service};
use crate::demands::{self, Means};
use crate::image::Demands;
use crate::proc::sysvipc::Name;

/// Returns what a restore will ask.
pub fn look(service: &Service, objects: &[Name], findings: &mut Findings) -> Demands {
    let open = service.processes.iter().map(|one| (one.process.pid, &one.descriptors[..]));
    let demands = demands::observe(service.all, open, objects);
    // The container's own finding names what the kernel lacks. The service has its clocks here already.
    let means = Means { lacks: Vec::new(), ..Means::fresh(service.abilities, None, service.init) };
    demands.missing(&means).iter().for_each(|unfit| findings.add(Finding::unfit(unfit)));
    demands
}
