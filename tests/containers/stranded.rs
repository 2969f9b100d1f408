//! The kinds of services that freeze once ended so that no container could restore them. CRIU carries each now
//! (`criu/patches`). Here the container comes to lack what the carrying needs, and freeze must say so while the service
//! runs. docs/explanation/tests.md has the sentences.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use freeze::exit;

use crate::files;
use crate::harness::{App, Container, Setting, text};
use crate::reasons::limit;

/// The page has what was said, with `…` for each number.
fn is_on_the_page(kind: &str, said: &str) {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/explanation/tests.md")).unwrap();
    let mut row = page.lines().filter(|line| line.starts_with(&format!("| {kind} |")));
    let row = row.next().unwrap_or_else(|| panic!("the page lacks \"{kind}\": {said}"));
    let sentence = row.split('`').nth(1).unwrap();
    let mut rest = said;
    for part in sentence.split('…') {
        let at = rest.find(part).unwrap_or_else(|| panic!("\"{part}\" of the page is not in: {said}"));
        rest = &rest[at + part.len()..];
    }
    println!("| {kind} | {sentence} |");
}

/// A service that a checkpoint has carried, and that runs.
fn carried(app: &App) -> Container {
    let container = app.start();
    container.verified();
    container.checkpoint(&["--leave-running"]);
    container
}

fn holds(object: &str) -> App {
    App::new(Setting::Restricted, &["holds", object])
}

/// The next checkpoint is refused before the freeze, and the service runs on.
fn is_refused(kind: &str, container: &Container) {
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
    is_on_the_page(kind, &said);
    container.verified();
}

/// What a container without the means says of the generation, while the service runs.
fn is_named(kind: &str, target: &Container) {
    let store = ["FREEZE_STORE=file:/store", "/opt/freeze/freeze"];
    let out = target.exec(&[&["env"], &store[..], &["doctor", "--for", "newest"]].concat());
    assert!(!out.status.success(), "{}", text(&out.stderr));
    is_on_the_page(kind, &text(&out.stdout));
}

#[test]
fn a_file_that_was_opened_before_its_mode() {
    let app = holds("volume-lock").with_volume(None);
    let container = carried(&app);
    chown(app.volume().join("lock"), Some(0), Some(0)).unwrap();
    is_refused("file opened before its mode", &container);
    is_named("file opened before its mode", &container);
    chown(app.volume().join("lock"), Some(1000), Some(1000)).unwrap();
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    chown(app.volume().join("lock"), Some(0), Some(0)).unwrap();
    let unfit = app.start();
    assert_eq!(unfit.wait(), i32::from(exit::RESTORE_FAILED), "{}", unfit.story());
    chown(app.volume().join("lock"), Some(1000), Some(1000)).unwrap();
    app.start().verified();
}

#[test]
fn a_reservation_larger_than_memory() {
    let app = holds("reserve-none");
    let container = carried(&app);
    limit(container.pid(), &format!("--as={0}:{0}", 100_u64 << 30));
    is_refused("reservation larger than memory", &container);
}

#[test]
fn the_memory_of_a_sanitizer() {
    let app = holds("reserve-most");
    let container = carried(&app);
    limit(container.pid(), &format!("--data={0}:{0}", 1_u64 << 40));
    is_refused("16 TiB of a sanitizer", &container);
}

#[test]
fn locked_memory() {
    let app = holds("locked-future");
    let container = carried(&app);
    limit(container.pid(), "--memlock=65536:65536");
    is_refused("locked memory", &container);
}

/// Another pod has the volume of another application.
#[test]
fn a_file_of_a_config_map() {
    let config = |key: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("..1")).unwrap();
        fs::write(folder.path().join("..1").join(key), "first\n").unwrap();
        symlink("..1", folder.path().join("..data")).unwrap();
        symlink(Path::new("..data").join(key), folder.path().join(key)).unwrap();
        folder
    };
    let (own, other) = (config("key"), config("other"));
    let app = holds("config-open").with_folder(own.path(), "/config:ro");
    let _first = carried(&app);
    let app = app.with_folder(other.path(), "/config:ro");
    let standby = app.start_with(&["--standby", "--instance", "target"]);
    standby.reaches("standby");
    is_named("file of a ConfigMap", &standby);
}

#[test]
fn a_program_of_equal_size() {
    let app = holds("library");
    let images = [(); 2].map(|()| files::image(Setting::Restricted, &["app/library"]));
    fs::write(images[1].0.path().join("app/library"), "other\n").unwrap();
    let first = app.start_in(&images[0].1);
    first.verified();
    first.checkpoint(&["--leave-running"]);
    let other = app.start_in(&images[1].1);
    assert_eq!(other.wait(), i32::from(exit::RESTORE_FAILED), "{}", other.story());
    is_on_the_page("program of equal size", &other.logs().1);
    first.verified();
}
