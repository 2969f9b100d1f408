//! Real containers: `freeze` as PID 1 of runc sandboxes, in all four settings, with services that check themselves.
//!
//! Run by `make test`, which builds what these need and says where it is in `FREEZE_TEST_OPT` (a folder with freeze and
//! criu), `FREEZE_TEST_ROOT` (a root) and `FREEZE_TEST_SERVICES` (a folder with the program `service`),
//! and an S3 server by `integration/s3/server run`.

mod asked;
mod attributes;
mod clock_option;
mod clock_shift;
mod clocks;
mod demands;
mod doctor;
mod failures;
mod files;
mod handover;
mod harness;
mod isolate;
mod keys;
mod killed;
mod kinds;
mod limits;
mod memory;
mod migrate;
mod older_stores;
mod order;
mod pids;
mod pod;
mod preflight;
mod reasons;
mod rounds;
mod s3;
#[path = "../s3_support/mod.rs"]
mod s3_support;
mod shapes;
mod snapshot;
mod sockets;
mod standby;
mod standby_memory;
mod stores;
mod stranded;
mod swap;
mod system_v;
mod takeover;
mod target;
mod terminals;
mod timers;
mod trace;
mod tracer;
mod triggers;
mod upkeep;
mod uprobes;
mod vdso;
mod volume_changes;
mod volumes;
