//! Compares this process's user, capabilities and user namespace with those of the container's init. An exec
//! may differ in each, and then the doctor's findings do not hold for the service.

use std::fs;
use std::path::PathBuf;

use crate::proc::status::Status;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    uid: u32,
    capabilities: u64,
    /// User namespace. `None` if the kernel hides it, as from a reader with fewer capabilities.
    users: Option<PathBuf>,
}

impl Identity {
    fn of(pid: &str) -> Option<Self> {
        let status = Status::read(pid).ok()?;
        let users = fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        Some(Self { uid: status.uid?, capabilities: status.effective?, users })
    }
}

/// A sentence, if the container's init is freeze and is confined in another way than this process.
pub fn note() -> Option<String> {
    if std::process::id() == 1 {
        return None;
    }
    let line = fs::read("/proc/1/cmdline").ok()?;
    let program = String::from_utf8_lossy(line.split(|byte| *byte == 0).next()?).into_owned();
    match program.rsplit('/').next()? {
        "freeze-relay" => Some(ISOLATED.to_owned()),
        "freeze" => difference(&Identity::of("1")?, &Identity::of("self")?),
        _ => None,
    }
}

const ISOLATED: &str = "The service here runs in its own namespaces (--isolate), and this command runs outside them: these answers hold outside them only.";

fn difference(init: &Identity, ours: &Identity) -> Option<String> {
    if init.uid != ours.uid {
        return Some(format!(
            "The service here runs as uid {}, and this command as uid {ours}: these answers are for uid {ours}.",
            init.uid,
            ours = ours.uid
        ));
    }
    if init.users.is_some() && init.users != ours.users {
        return Some(ISOLATED.to_owned());
    }
    (init.capabilities != ours.capabilities).then(|| {
        "The container's init has other capabilities than this command, perhaps in a namespace of its own \
         (--isolate): these answers are for the capabilities of this command."
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_said_and_only_that() {
        let init = Identity { uid: 1000, capabilities: 0, users: Some("user:[1]".into()) };
        let said = |ours: Identity| difference(&init, &ours).unwrap();
        assert_eq!(difference(&init, &init), None);
        insta::assert_snapshot!(said(Identity { uid: 0, ..init.clone() }), @"The service here runs as uid 1000, and this command as uid 0: these answers are for uid 0.");
        assert_eq!(said(Identity { users: Some("user:[2]".into()), ..init.clone() }), ISOLATED);
        insta::assert_snapshot!(said(Identity { capabilities: 3, ..init.clone() }), @"The container's init has other capabilities than this command, perhaps in a namespace of its own (--isolate): these answers are for the capabilities of this command.");
        assert!(Identity::of("self").is_some_and(|ours| ours.users.is_some()));
    }
}
