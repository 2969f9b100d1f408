//! Kinds of objects that come back whole: a service that holds one is checkpointed and left running, and is moved twice
//! after that. The objects are those of `tests/services/holds_modes.c` and `holds_mappings.c`.

use crate::harness::{App, Container, Setting, text};

const SETTINGS: &[Setting] = &[Setting::Restricted, Setting::RestrictedPodman, Setting::Caps];

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

/// The restored watch does not tell of the mode that the restore lends. A service that runs on is told: freeze reads the file.
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
