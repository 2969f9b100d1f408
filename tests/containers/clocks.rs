//! Services that move between hosts that booted at different times, where no time namespace hides that. `make test-clocks` has all
//! other cases on such hosts.

use crate::harness::{App, Hosts, Setting, in_all_settings};
use crate::isolate::checkpoint;

in_all_settings! {
    processes_and_threads;
}

/// Twice to a host that booted earlier, and twice to one that booted later.
fn processes_and_threads(setting: Setting) {
    for hosts in [Hosts::Earlier, Hosts::Later] {
        let app = App::new(setting, &["mixed"]).on_hosts(hosts);
        let mut container = app.start();
        container.verified();
        for _ in 0..2 {
            checkpoint(&container);
            container = app.start();
            container.verified();
        }
    }
}

/// Those that a service gives as a length of time: the kernel counts them by its own clock.
#[test]
fn time_limits_of_waits() {
    for hosts in [Hosts::Earlier, Hosts::Later] {
        let app = App::new(Setting::Restricted, &["waits"]).on_hosts(hosts);
        let first = app.start();
        first.ask("begin");
        checkpoint(&first);
        let second = app.start();
        second.eventually("a wait does not end", || {
            let answer = second.ask("verify");
            (answer.contains("ended=10") || answer.starts_with("error")).then_some(())
        });
        second.verified();
    }
}
