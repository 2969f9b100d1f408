//! Why CRIU failed, by its log. Reads a bounded part of the log; never fails.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::reasons::{Failure, one_line};

/// Bytes that are read from the end of a log, where errors stand.
const TAIL: u64 = 1 << 20;
/// Lines of a log that a message repeats.
const LAST: usize = 8;

/// Why CRIU failed, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    sentence: String,
    /// Fresh PIDs or another attempt may help.
    pub numbers_were_taken: bool,
    /// The service's clocks cannot continue in user space.
    pub clocks_would_go_back: bool,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Why CRIU failed. `for_memory` says whether the kernel killed a process of this container meanwhile for lack of
/// memory; None if that is unknown.
pub fn cause(log: &Path, for_memory: Option<bool>) -> Cause {
    explain(&tail(log).unwrap_or_default(), for_memory)
}

/// The last errors of a log.
pub fn last_errors(log: &Path) -> Vec<String> {
    let text = tail(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().filter(|line| is_error(line)).collect();
    all.iter().skip(all.len().saturating_sub(LAST)).map(|line| one_line(line.trim())).collect()
}

/// The first failing call is the cause. A death counts only if no error stands before it: CRIU kills the processes that
/// it has created when it fails.
fn explain(text: &str, for_memory: Option<bool>) -> Cause {
    let first_error = text.lines().find(|line| is_error(line));
    let failure = text.lines().find_map(Failure::parse).filter(|failure| {
        !failure.is_death() || text.lines().find(|line| is_error(line) || Failure::parse(line).is_some()) != first_error
    });
    if let Some(failure) = failure {
        let failure = failure.with_memory(for_memory);
        return Cause {
            sentence: failure.sentence(),
            numbers_were_taken: failure.numbers_were_taken(),
            clocks_would_go_back: failure.is_of_clocks(),
        };
    }
    let sentence = match first_error {
        Some(line) => {
            let message = line.split_once("): ").map_or(line, |(_, message)| message);
            format!("CRIU: {}", one_line(message.trim()))
        }
        None => Failure::of_criu().with_memory(for_memory).sentence(),
    };
    Cause { sentence, numbers_were_taken: false, clocks_would_go_back: false }
}

fn is_error(line: &str) -> bool {
    line.contains("Error (")
}

fn tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(text: &str) -> String {
        explain(text, None).to_string()
    }

    #[test]
    fn the_first_failing_call_is_the_cause_and_not_the_first_error() {
        let log = "  1000: Error (criu/x.c:1): Noise\n  1001: Failure: call=bind errno=13 kind=inet object=0.0.0.0:80\n  1001: Error (criu/sk-inet.c:1132): Can't bind inet socket (id 3): Permission denied\n  1002: Failure: call=open errno=2 kind=file object=/late\nError (criu/cr-restore.c:1): Restoring FAILED.\n";
        assert!(sentence(log).starts_with("the service uses 0.0.0.0:80, and this container's user may not"));
        assert!(!explain(log, None).numbers_were_taken);
    }

    #[test]
    fn a_number_that_was_taken_is_known_by_its_failure() {
        let cause = explain("  1001: Failure: call=clone errno=17 kind=pid object=1003\n", None);
        assert!(cause.numbers_were_taken, "{cause}");
    }

    #[test]
    fn clocks_that_would_go_back_are_known_by_their_failure() {
        let cause = explain("  1001: Failure: call=shift errno=0 kind=clock object=a%20wait%20in%20/app\n", None);
        assert!(cause.clocks_would_go_back, "{cause}");
        assert!(!explain("  1001: Failure: call=clone errno=17 kind=pid object=1003\n", None).clocks_would_go_back);
    }

    #[test]
    fn a_death_is_for_lack_of_memory_if_the_kernel_says_so() {
        let log = "Failure: call=wait errno=0 kind=death object=9\nError (criu/cr-restore.c:1): 1001 killed by signal 9: Killed\n";
        let said = [Some(true), Some(false), None].map(|known| explain(log, known).to_string());
        insta::assert_snapshot!(said.join("\n"), @r"
        the kernel killed a process of the service, or CRIU, for lack of memory; raise the container's memory limit
        a process of the service was killed, and not for lack of memory; find out who killed it, and start the container again
        a process of the service died during the restore (signal 9), most often for lack of memory; raise the memory limit
        ");
        let other = explain(&log.replace("object=9", "object=11"), Some(false)).to_string();
        assert!(other.contains("(signal 11)"), "{other}");
    }

    #[test]
    fn a_death_after_an_error_is_its_consequence() {
        let log = "  1001: Error (criu/x.c:1): Odd thing\nFailure: call=wait errno=0 kind=death object=9\n";
        assert_eq!(sentence(log), "CRIU: Odd thing");
    }

    #[test]
    fn a_log_without_errors_is_of_a_criu_that_was_killed() {
        let known = |known| cause(Path::new("/nonexistent/log"), known).to_string();
        insta::assert_snapshot!([known(None), known(Some(true)), known(Some(false))].join("\n"), @r"
        CRIU was killed, probably for lack of memory; raise the container's memory limit
        the kernel killed a process of the service, or CRIU, for lack of memory; raise the container's memory limit
        CRIU was killed, and not for lack of memory; find out who killed it, and try again
        ");
    }

    #[test]
    fn the_last_errors_are_few_and_short() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines =
            (0..20).map(|n| format!("  1001: Error (criu/x.c:{n}): {}\x1b\nWarn  (criu/y.c:1): w\n", "x".repeat(1000)));
        std::fs::write(file.path(), lines.collect::<String>()).unwrap();
        let last = last_errors(file.path());
        assert_eq!((last.len(), last[0].starts_with("1001: Error (criu/x.c:12)")), (LAST, true), "{last:?}");
        assert!(last.iter().all(|line| line.chars().count() < 310));
    }
}
