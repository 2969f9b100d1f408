//! Questions to the kernel about what it allows.

/// Whether the seccomp profile lets clone3(2) through. Creates nothing: with no arguments the kernel itself answers EINVAL.
pub fn clone3_is_allowed() -> bool {
    // SAFETY: a null pointer with size 0 is refused by the kernel before it reads anything (kernel/fork.c, copy_clone_args_from_user).
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0usize) };
    result < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    #[test]
    fn asking_creates_no_process() {
        // Other tests have children, so this one looks at itself in a process of its own.
        if std::env::var_os("ALONE").is_none() {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            again.args(["--exact", "sys::probe::tests::asking_creates_no_process"]).env("ALONE", "1");
            assert!(again.status().unwrap().success());
            return;
        }
        super::clone3_is_allowed();
        assert_eq!(nix::sys::wait::wait(), Err(nix::errno::Errno::ECHILD));
    }
}
