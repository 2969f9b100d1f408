//! Limits of the service's processes that this container does not allow: CRIU lowers them to its hard limits. A service
//! that comes to need more finds out later, so each is a warning.

use crate::criu::images::{self, CORE, Core};
use crate::demands::Means;
use crate::image::{Body, Manifest};

/// By their numbers (getrlimit(2)): the name in /proc/PID/limits.
const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// Of the soft limits of all processes, which bind them, the highest of each kind.
pub fn lowered(manifest: &Manifest, here: &Means) -> Vec<String> {
    let cores = manifest.images.iter().filter(|image| image.name.starts_with("core-"));
    let soft: Vec<Vec<u64>> =
        cores.filter_map(|image| image.body.as_ref()).map(Body::inline).filter_map(soft).collect();
    let lowered = NAMES.iter().enumerate().filter_map(|(number, name)| {
        let then = soft.iter().filter_map(|limits| limits.get(number)).max()?;
        let now = here.limits.hard(name).filter(|now| now < then)?;
        let then = if *then == u64::MAX { "unlimited".to_owned() } else { then.to_string() };
        let what = name.trim_start_matches("Max ");
        Some(format!(
            "a limit of the service, {what}, was {then} at the checkpoint and is {now} here, this container's hard limit; raise that if the service needs more (docker run --ulimit)"
        ))
    });
    lowered.collect()
}

/// Of the process in an image; None for a thread's.
fn soft(image: &[u8]) -> Option<Vec<u64>> {
    let entry = *images::entries(image, CORE).ok()?.first()?;
    let limits = images::decode::<Core>(entry).ok()?.task?.limits?.limits;
    Some(limits.iter().map(|limit| limit.soft).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::images::{ResourceLimit, ResourceLimits, TaskCore};
    use crate::image::CriuImage;
    use crate::proc::limits::Limits;

    fn lowered_here(soft: u64, hard: &str) -> Vec<String> {
        let limits = vec![ResourceLimit { soft, hard: u64::MAX }; NAMES.len()];
        let core = Core { task: Some(TaskCore { limits: Some(ResourceLimits { limits }) }), ..Core::default() };
        let body = Body::from_inline(images::encode(CORE, &[core]));
        let images = vec![CriuImage { name: "core-1000.img".into(), body: Some(body) }];
        let limits = Limits::parse(&format!("{:25} {:20} {hard:20}", "Max open files", "unlimited"));
        lowered(&Manifest { images, ..Manifest::default() }, &Means { limits, ..Means::default() })
    }

    #[test]
    fn only_a_limit_that_is_lowered_is_told() {
        assert_eq!(lowered_here(1024, "1024"), Vec::<String>::new());
        assert_eq!(lowered_here(u64::MAX, "unlimited"), Vec::<String>::new());
        insta::assert_snapshot!(lowered_here(1025, "1024").join("\n"), @"a limit of the service, open files, was 1025 at the checkpoint and is 1024 here, this container's hard limit; raise that if the service needs more (docker run --ulimit)");
        assert!(lowered_here(u64::MAX, "1024")[0].contains("was unlimited at the checkpoint"));
    }
}
