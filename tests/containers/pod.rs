//! What the containers of a pod share.

use std::fs;
use std::process::{Child, Command};

/// An IPC namespace that outlives containers, as a pod's.
pub struct Pod(Child);

impl Pod {
    pub fn new() -> Self {
        let pod = Self(Command::new("unshare").args(["--ipc", "sleep", "infinity"]).spawn().unwrap());
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap();
        while namespace("self") == namespace(&pod.0.id().to_string()) {
            std::thread::yield_now();
        }
        pod
    }

    /// Of a process in the namespace, and in no container.
    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
