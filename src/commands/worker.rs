//! `freeze worker`: what init starts for one checkpoint or restore. Not for people.

/// Returns the exit status.
pub fn main() -> u8 {
    crate::worker::main()
}
