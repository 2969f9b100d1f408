//! The status as metrics: the text exposition format 0.0.4, for a textfile collector or a scrape by exec.
//! Base units only.

use std::fmt::{Display, Write};

use super::RestoreTime;
use crate::control::protocol::{State, Status};

const STATES: [(State, &str); 6] = [
    (State::Starting, "starting"),
    (State::Standby, "standby"),
    (State::Running, "running"),
    (State::Checkpointing, "checkpointing"),
    (State::HandingOver, "handing-over"),
    (State::Ending, "ending"),
];

/// Leaves out unknown values.
pub fn metrics(status: &Status, restore_time: Option<RestoreTime>) -> String {
    let mut page = Page { text: String::new(), container: &status.instance };
    page.family("info", "gauge", "Version of the init that answered.");
    page.sample("info", &[("version", &status.version)], 1);
    page.family("state", "gauge", "State of init: 1 for the current state, 0 for all others.");
    for (state, name) in STATES {
        page.sample("state", &[("state", name)], u8::from(state == status.state));
    }
    page.gauge(
        "generation",
        "The newest generation that this container restored or committed; 0 for none.",
        status.generation,
    );
    page.counter("checkpoints", "Checkpoints that were committed here.", status.checkpoints);
    page.counter("checkpoint_failures", "Checkpoints that failed here.", status.failures);
    page.gauge("progress_bytes", "Bytes that the current step has processed.", status.bytes);
    page.gauge("progress_expected_bytes", "Bytes that the current step has to process; 0 if unknown.", status.total);
    if let Some(last) = &status.checkpoint {
        let report = last.report;
        page.gauge("checkpoint_timestamp_seconds", "When the last checkpoint was committed.", seconds(last.at_ms));
        page.gauge(
            "checkpoint_duration_seconds",
            "How long it took, the wait of a handover included, hooks excluded.",
            seconds(report.total_ms),
        );
        page.gauge("checkpoint_frozen_seconds", "How long it froze the service.", seconds(report.frozen_ms));
        page.gauge("checkpoint_bytes", "Memory and files in it.", report.bytes);
        page.gauge("checkpoint_new_bytes", "Of these, bytes that were new to the store.", report.new);
        page.gauge("checkpoint_shared_bytes", "Of these, bytes that the store held already.", report.shared);
        page.gauge("checkpoint_stored_bytes", "Bytes written to the store for it.", report.stored);
    }
    if let Some(failure) = &status.failure {
        page.gauge(
            "checkpoint_failure_timestamp_seconds",
            "When the last failed checkpoint failed.",
            seconds(failure.at_ms),
        );
    }
    if let Some(heartbeat) = &status.heartbeat {
        page.counter(
            "heartbeat_failures",
            "Heartbeats of this container (--exclusive) that failed or were late.",
            heartbeat.failures,
        );
        if let Some(at_ms) = heartbeat.at_ms {
            page.gauge(
                "heartbeat_timestamp_seconds",
                "When the last heartbeat (--exclusive) reached the store.",
                seconds(at_ms),
            );
        }
    }
    if let Some(last) = &status.restore {
        page.gauge("restore_timestamp_seconds", "When the service was restored here.", seconds(last.at_ms));
        page.gauge(
            "restore_duration_seconds",
            "Time from the decision to restore to the service's first instruction.",
            seconds(last.total_ms),
        );
        page.gauge("restore_bytes", "Memory and files that were restored.", last.bytes);
        page.gauge("restore_generation", "The generation that was restored.", last.generation);
    }
    if let Some(restore_time) = restore_time {
        page.gauge("predicted_restore_seconds", "How long a restore would take now.", seconds(restore_time.total_ms()));
    }
    page.text
}

/// Milliseconds as seconds, without rounding.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

struct Page<'a> {
    text: String,
    /// Tells containers apart in one collector.
    container: &'a str,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let name = format!("{name}_total");
        self.family(&name, "counter", help);
        self.sample(&name, &[], value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP freeze_{name} {help}\n# TYPE freeze_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels = [("freeze_instance", self.container)]
            .iter()
            .chain(labels)
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect::<Vec<_>>();
        let _ = writeln!(self.text, "freeze_{name}{{{}}} {value}", labels.join(","));
    }
}

/// Escapes a label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Each sample: name with labels, and value. Panics on a malformed line.
    fn samples(page: &str) -> Vec<(&str, &str)> {
        let mut typed = BTreeSet::new();
        let mut samples = Vec::new();
        for line in page.lines() {
            if let Some(comment) = line.strip_prefix("# TYPE ") {
                let (name, kind) = comment.split_once(' ').unwrap();
                assert!(
                    ["gauge", "counter"].contains(&kind) && (kind == "counter") == name.ends_with("_total"),
                    "{line}"
                );
                assert!(typed.insert(name), "{name} is there twice");
            } else if !line.starts_with("# HELP freeze_") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(typed.contains(name.split('{').next().unwrap()), "{line} has no type");
                value.parse::<f64>().unwrap();
                samples.push((name, value));
            }
        }
        samples
    }

    #[test]
    fn all_that_is_known_is_a_sample_in_base_units() {
        let page = metrics(&super::super::example(), Some(RestoreTime { pids_ms: 900, highest: 45_000, rest_ms: 250 }));
        let samples = samples(&page);
        for expected in [
            ("freeze_info{freeze_instance=\"redis-1\",version=\"0.1.0\"}", "1"),
            ("freeze_state{freeze_instance=\"redis-1\",state=\"checkpointing\"}", "1"),
            ("freeze_state{freeze_instance=\"redis-1\",state=\"running\"}", "0"),
            ("freeze_checkpoints_total{freeze_instance=\"redis-1\"}", "2"),
            ("freeze_checkpoint_frozen_seconds{freeze_instance=\"redis-1\"}", "0.040"),
            ("freeze_checkpoint_timestamp_seconds{freeze_instance=\"redis-1\"}", "1700000060.500"),
            ("freeze_heartbeat_failures_total{freeze_instance=\"redis-1\"}", "3"),
            ("freeze_heartbeat_timestamp_seconds{freeze_instance=\"redis-1\"}", "1700000110.000"),
            ("freeze_restore_duration_seconds{freeze_instance=\"redis-1\"}", "0.250"),
            ("freeze_predicted_restore_seconds{freeze_instance=\"redis-1\"}", "1.150"),
        ] {
            assert!(samples.contains(&expected), "{expected:?} is not in\n{page}");
        }
    }

    #[test]
    fn exactly_one_state_holds() {
        for (state, _) in STATES {
            let page = metrics(&Status { state, ..Status::default() }, None);
            let holds =
                samples(&page).iter().filter(|(name, value)| name.starts_with("freeze_state") && *value == "1").count();
            assert_eq!(holds, 1, "{state:?}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let page = metrics(&Status { instance: "a\"b\\c\nd".into(), ..Status::default() }, None);
        assert!(page.contains(r#"freeze_generation{freeze_instance="a\"b\\c\nd"} 0"#), "{page}");
    }
}
