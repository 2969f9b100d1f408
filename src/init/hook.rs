//! A running hook command: a process group of its own, which init may kill at any time.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::fd::OwnedFd,
    path::Path,
};

use super::{
    config::{self, Config},
    isolate,
    machine::HookCall,
    say,
};
use crate::{
    exit,
    sys::{
        process::{self, Ending, Fork},
        signals,
    },
};

#[derive(Debug)]
pub struct Hook {
    pid: i32,
    killed: bool,
}

impl Hook {
    /// # Errors
    /// If no process can be made, or the hook is no command.
    pub fn start(call: &HookCall, config: &Config, runtime_dir: &Path) -> io::Result<Hook> {
        let Some(config::Hook::Command(command)) = config.hooks.at(call.moment) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        match process::fork()? {
            Fork::Child => be_hook(command, call, runtime_dir),
            Fork::Parent(pid) => Ok(Hook { pid, killed: false }),
        }
    }

    pub fn is(&self, pid: i32) -> bool {
        self.pid == pid
    }

    pub fn kill(&mut self) {
        self.killed = true;
        process::kill(-self.pid, libc::SIGKILL);
        // Before setsid(2) the child leads no group.
        process::kill(self.pid, libc::SIGKILL);
    }

    /// Why the hook that has ended failed, if it did; continues "the hook …". Kills the rest of its process
    /// group, as a checkpoint could not tell it from the service.
    pub fn over(self, ending: Ending) -> Option<String> {
        process::kill(-self.pid, libc::SIGKILL);
        match ending {
            Ending::Exited(0) => None,
            _ if self.killed => Some("was killed because it took too long or was no longer needed".to_owned()),
            Ending::Exited(code) => Some(format!("ended with status {code}")),
            Ending::Killed(signal) => Some(format!("was killed by signal {signal}")),
        }
    }
}

/// The child: reads /dev/null instead of the service's input, and writes where init writes.
fn be_hook(command: &[CString], call: &HookCall, runtime_dir: &Path) -> ! {
    process::lead_session();
    isolate::keep_no_capabilities();
    // Only at the start init may be in another folder.
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = File::open("/dev/null") {
        let _ = process::place(&OwnedFd::from(null), 0);
    }
    let numbers = [call.generation.to_string(), call.service.to_string()];
    process::set_variables([
        ("FREEZE_HOOK", OsStr::new(call.moment.name())),
        ("FREEZE_HOOK_GENERATION", OsStr::new(&numbers[0])),
        ("FREEZE_HOOK_REASON", OsStr::new(call.reason)),
        ("FREEZE_HOOK_RESULT", OsStr::new(call.result)),
        ("FREEZE_HOOK_PEER", OsStr::new(&call.peer)),
        ("FREEZE_HOOK_SERVICE", OsStr::new(&numbers[1])),
        ("FREEZE_RUNTIME_DIR", runtime_dir.as_os_str()),
    ]);
    signals::release();
    let error = process::exec(command);
    let program = command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    say(&format!("cannot execute the hook {program}: {error}"));
    process::exit_now(if error.kind() == io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE })
}
