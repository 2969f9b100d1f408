//! Kinds of objects that come back whole: a service that holds one is checkpointed and left running, and is moved twice
//! after that. The objects are those of `tests/services/holds_modes.c`, `holds_mappings.c` and `holds_tcp.c`.

use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, text};

const SETTINGS: &[Setting] = &[Setting::Restricted, Setting::RestrictedPodman, Setting::Caps];
/// With kcmp and without.
const EVERYWHERE: &[Setting] = &[Setting::Restricted, Setting::Unconfined];

fn comes_back(settings: &[Setting], object: &str) {
    for setting in settings {
        goes_on(&App::new(*setting, &["holds", object]));
    }
}

fn goes_on(app: &App) {
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
    first.verified();
    let second = move_on(app, &first);
    move_on(app, &second);
}

fn move_on(app: &App, from: &Container) -> Container {
    from.checkpoint(&[]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    let to = app.start();
    to.verified();
    to
}

/// One test for each object, so that one that fails names itself.
macro_rules! come_back {
    ($($settings:expr => { $($name:ident: $object:literal,)* })*) => {
        $($(
            #[test]
            fn $name() {
                comes_back($settings, $object);
            }
        )*)*
    };
}

// What is open has another mode by now, which would not let it be opened like that.
come_back! {
    SETTINGS => {
        opened_before_its_mode_read_only: "mode-read-only",
        opened_before_its_mode_none: "mode-none",
        opened_before_its_mode_none_in_shared_memory: "mode-none-shm",
        opened_before_its_mode_write_only: "mode-write-only",
        opened_before_its_mode_set_id: "mode-set-id",
        opened_before_its_mode_ghost: "mode-ghost",
        opened_before_its_mode_small_ghost: "mode-ghost-small",
        opened_before_its_mode_write_only_ghost: "mode-ghost-write-only",
        opened_before_its_mode_direct_ghost: "mode-ghost-direct",
        opened_before_its_mode_by_several: "mode-several",
        opened_before_its_mode_mapped: "mode-mapped",
        opened_before_its_mode_mapped_ghost: "mode-ghost-mapped",
        opened_before_its_mode_memfd: "mode-memfd",
        opened_before_its_mode_fifo: "mode-fifo",
        opened_before_its_mode_folder: "mode-folder",
        opened_before_its_mode_watched: "mode-watched",
    }
}

/// The restored watch reports no event of the mode that the restore lends. A service that runs on gets the event of freeze's own read.
#[test]
fn opened_before_its_mode_watched_for_that() {
    for setting in SETTINGS {
        let app = App::new(*setting, &["holds", "mode-watched-mode"]);
        let first = app.start();
        first.verified();
        let second = move_on(&app, &first);
        move_on(&app, &second);
    }
}

// What is reserved may be more than all memory.
come_back! {
    SETTINGS => {
        reserved_for_nobody: "reserve-none",
        reserved_after_use: "reserve-used",
        reserved_beyond_32_bits_of_pages: "reserve-most",
        reserved_in_a_parent_and_a_child: "reserve-forked",
        reserved_in_pieces: "reserve-pieces",
        reserved_and_shared: "reserve-shared",
    }
}

// What is mapped has no name, and is open nowhere.
come_back! {
    SETTINGS => {
        mapped_unlinked_semaphores: "sem-unlinked",
        mapped_named_semaphores: "sem-named",
        mapped_under_a_former_name: "mapped-linked",
        mapped_parts_of_a_file: "unreachable-parts",
        mapped_parts_of_shared_memory: "unreachable-parts-shm",
        mapped_parts_of_a_memfd: "unreachable-parts-memfd",
        mapped_parts_of_anonymous_memory: "anonymous-parts",
        mapped_shared_and_private: "unreachable-both",
        mapped_as_a_library: "unreachable-library",
        mapped_beyond_its_end: "unreachable-end",
        mapped_beyond_its_end_in_memory: "unreachable-end-shm",
        mapped_and_sparse: "unreachable-sparse",
        mapped_private: "deleted-mapped",
        mapped_private_memfd: "memfd-private-closed",
        mapped_deleted_shared_memory: "deleted-shm",
    }
}

// What an epoll watches is open by another number than it was added by.
come_back! {
    EVERYWHERE => {
        watched_by_one_number: "epoll-twice",
        watched_by_a_closed_number: "epoll-closed",
    }
}

/// An entry with EPOLLONESHOT that has fired stays disarmed through a dump.
#[test]
fn watched_by_one_number_and_fired() {
    for setting in EVERYWHERE {
        let app = App::new(*setting, &["holds", "epoll-fired"]);
        let first = app.start();
        first.checkpoint(&["--leave-running"]);
        assert!(first.verified().contains("fired=1"), "{}", first.story());
        move_on(&app, &first);
    }
}

come_back! {
    EVERYWHERE => {
        descriptors_of_a_parent_and_a_child: "shared-files",
    }
}

// What memory may be from now on.
come_back! {
    SETTINGS => {
        locked_for_ever: "locked-future",
        writable_or_executable: "mdwe",
    }
}

// Signals at the end of a parent, and processes that have ended.
come_back! {
    EVERYWHERE => {
        chained_by_the_end_of_parents: "death-chain",
        ended_and_waited_for_by_nobody: "zombies",
        deleted_below_a_deleted_folder: "deleted-nested",
    }
}

// TCP connections inside the service. What was on the way arrives.
come_back! {
    SETTINGS => {
        tcp_quiet: "tcp-quiet",
        tcp_unread: "tcp-unread",
        tcp_full: "tcp-full",
        tcp_small: "tcp-small",
        tcp_corked: "tcp-corked",
        tcp_shut: "tcp-shut",
        tcp_shut_full: "tcp-shut-full",
        tcp_last_words: "tcp-last-words",
        tcp_last_words_full: "tcp-last-words-full",
        tcp_last_words_shut: "tcp-last-words-shut",
        tcp_waiting: "tcp-waiting",
        tcp_no_listener: "tcp-no-listener",
        tcp_ipv6: "tcp-ipv6",
        tcp_ipv6_only: "tcp-ipv6-only",
        tcp_mapped: "tcp-mapped",
        tcp_mapped_client: "tcp-mapped-client",
        tcp_addresses: "tcp-addresses",
        tcp_one_port: "tcp-one-port",
        tcp_child: "tcp-child",
        tcp_stream: "tcp-stream",
        tcp_in_flight: "tcp-in-flight",
        tcp_options: "tcp-options",
        tcp_many: "tcp-many",
        tcp_many_of_a_child: "tcp-many-shared",
    }
}

/// By a restore, and not before.
#[test]
fn tcp_that_cannot_be_carried_is_closed() {
    for object in ["tcp-urgent", "tcp-self", "tcp-waiting-data"] {
        let app = App::new(Setting::Restricted, &["holds", object]);
        let first = app.start();
        first.checkpoint(&["--leave-running"]);
        assert!(first.verified().contains("closed=0"), "{object}: {}", first.story());
        let second = move_on(&app, &first);
        assert!(second.verified().contains("closed=1"), "{object}: {}", second.story());
    }
}

/// It listens where the service is restored, too.
#[test]
fn tcp_to_a_neighbour_that_has_not_accepted_is_closed() {
    let app = App::new(Setting::Restricted, &["holds", "tcp-neighbour"]).with_fail_points();
    let first = app.start();
    let neighbour = first.listen(7001);
    assert!(first.verified().contains("closed=0"), "{}", first.story());
    first.checkpoint(&[]);
    drop(neighbour);
    let second = app.start_stopping_at(Some(Point::RestoreBegun), &[]);
    let worker = Pid::from_raw(second.stopped());
    let neighbour = second.listen(7001);
    kill(worker, Signal::SIGCONT).unwrap();
    assert!(second.verified().contains("closed=1"), "{}", second.story());
    neighbour.set_nonblocking(true).unwrap();
    assert!(neighbour.accept().is_err(), "the neighbour has a new client");
}

/// As a service whose package is upgraded while it runs.
#[test]
fn mapped_as_the_program() {
    for setting in SETTINGS {
        let copy = "cp /services/service /tmp/program && exec /tmp/program holds upgraded";
        goes_on(&App::with_options(*setting, &[], &["sh", "-c", copy]));
    }
}

/// A page that cannot be read is no page of zeros: the checkpoint fails, and the service goes on.
#[test]
fn mapped_and_unreadable() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(15)) {
        return eprintln!("this kernel has no guards in files: nothing was tried");
    }
    refuses("unreadable", "can't be read, of a file that is mapped by");
}

/// The message would bring another file than the one that is mapped.
#[test]
fn mapped_and_in_flight() {
    refuses("in-flight", "its only descriptor is in flight in a message");
}

fn refuses(object: &str, words: &str) {
    let app = App::new(Setting::Restricted, &["holds", object]);
    let container = app.start();
    container.verified();
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert!(!out.status.success() && said.contains(words), "{said}");
    container.verified();
}
