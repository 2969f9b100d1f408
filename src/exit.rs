//! Every exit status of `freeze`, in one table. The service's own status passes through unchanged beside them.

/// Done: for `freeze checkpoint`, the generation is committed.
pub const OK: u8 = 0;
/// A command failed; for `freeze checkpoint`, nothing was committed and the service runs on.
pub const FAILED: u8 = 1;
/// The command line cannot be understood (clap's own status).
pub const USAGE: u8 = 2;
/// There is no init to talk to.
pub const NO_INIT: u8 = 3;
/// `freeze run`: the service's executable exists but cannot be executed, as shells say it.
pub const NOT_EXECUTABLE: u8 = 126;
/// `freeze run`: the service's executable was not found, as shells say it.
pub const NOT_FOUND: u8 = 127;
/// `freeze run`: the service was killed by signal N: 128 + N.
pub const SIGNAL_BASE: u8 = 128;
/// `freeze run`: a fatal error of freeze itself.
pub const FATAL: u8 = 170;
/// `freeze run`: the restore failed, and starting afresh would lose the service's state.
pub const RESTORE_FAILED: u8 = 171;
/// `freeze run`: the service was checkpointed and ended (settable by `--checkpointed-status`).
pub const CHECKPOINTED: u8 = 172;
/// `freeze run`: another container has the application, so the service was ended, or not started, here.
pub const REPLACED: u8 = 173;
/// `freeze run --standby`: the PIDs of this container are nearly used up; only a new container can restore the service.
pub const WORN_OUT: u8 = 174;
