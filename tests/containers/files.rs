//! Which files travel, and how they come back: as a fresh container lacks them, and no others.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::thread;

use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, in_all_settings, root, text};

in_all_settings! {
    a_program_made_at_run_time;
    what_was_changed;
    included_files;
}

/// A shell prepares something, then becomes the service.
fn prepared(setting: Setting, options: &[&str], script: &str) -> App {
    let script = format!("{script} && exec /services/service one");
    App::with_options(setting, options, &["/bin/sh", "-c", &script])
}

fn moved(app: &App) -> Container {
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start();
    second.verified();
    second
}

fn read(container: &Container, path: &str) -> String {
    text(&container.exec(&["cat", path]).stdout)
}

/// The new container does not have it before the restore puts it there.
fn a_program_made_at_run_time(setting: Setting) {
    let script = "cp /services/service /data/made && exec /data/made one";
    let app = App::with_options(setting, &[], &["/bin/sh", "-c", script]);
    moved(&app);
}

/// Closed files come back as they were: new ones with their links, holes and times, and those of the image that were
/// changed.
fn what_was_changed(setting: Setting) {
    let script = "umask 022; mkdir -p /data/new/empty /tmp/deep && cd /data/new && echo kept >file && ln file other && ln -s file link \
                  && chmod 640 file && mkfifo pipe && echo end | dd of=holes bs=1M seek=64 2>/dev/null \
                  && echo secret >/tmp/deep/closed && chmod 000 /tmp/deep/closed && touch -d '2001-02-03 04:05:06' link file && touch -d '2001-02-03 04:05:06' . && cd /";
    let app = prepared(
        setting,
        &["--exclude", "*.lost,/tmp/gone"],
        &format!("{script} && touch /data/a.lost && mkdir /tmp/gone"),
    );
    let first = app.start();
    first.verified();
    let states = "cd /data/new && stat -c '%n %F %s %a %u %g %Y %h' . file other link pipe empty holes && readlink link && cat other \
                  && [ $(stat -c %b holes) -lt 100 ] && stat -c '%s %a' /tmp/deep/closed && ls -d /data/a.lost /tmp/gone";
    let look = |container: &Container| text(&container.exec(&["sh", "-c", states]).stdout);
    let before = look(&first);
    assert!(before.ends_with("7 0\n/data/a.lost\n/tmp/gone\n"), "{before}");
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start();
    second.verified();
    let after = look(&second);
    assert_eq!(after, before.replace("/data/a.lost\n/tmp/gone\n", ""));
    // What a restore puts back was changed in the next container, too.
    second.checkpoint(&[]);
    assert_eq!(second.wait(), 172, "{}", second.story());
    let third = app.start();
    third.verified();
    assert_eq!(look(&third), after);
}

/// Closed files travel when they are asked for, with the folders above them, even if those may not be written to.
fn included_files(setting: Setting) {
    let script = "mkdir -p /data/keep/deep && echo kept >/data/keep/deep/file && ln -s deep/file /data/keep/link \
                  && chmod 500 /data/keep/deep && echo lost >/data/other";
    let app = prepared(setting, &["--files", "open", "--include", "/data/keep/"], script);
    let second = moved(&app);
    assert_eq!(read(&second, "/data/keep/link"), "kept\n");
    assert_eq!(read(&second, "/data/other"), "");
    let mode = text(&second.exec(&["stat", "-c", "%a", "/data/keep/deep"]).stdout);
    assert_eq!(mode, "500\n");
}

/// Files are known by what they are and not by their names, and what a link leads to comes with the link.
#[test]
fn a_name_as_of_a_deleted_file_and_an_include_through_a_link() {
    let script =
        "mkdir /data/real && echo kept >/data/real/file && ln -s real /data/link && exec 7>'/data/x (deleted)'";
    for setting in [Setting::Restricted, Setting::Caps] {
        let second = moved(&prepared(setting, &["--include", "/data/link"], script));
        assert_eq!(read(&second, "/data/link/file"), "kept\n");
    }
}

/// More of them than fit into the manifest.
#[test]
fn many_small_files() {
    let script = r#"mkdir /tmp/many && awk 'BEGIN { for (i = 0; i < 2000; i++) { f = "/tmp/many/" i; for (j = 0; j < 512; j++) printf "%016d", i * 512 + j >f; close(f) } }'"#;
    let app = prepared(Setting::Restricted, &[], script);
    let first = app.start();
    first.verified();
    let sum = |container: &Container| {
        text(&container.exec(&["sh", "-c", "cat /tmp/many/* | sha256sum; ls /tmp/many | wc -l"]).stdout)
    };
    let before = sum(&first);
    assert!(before.ends_with("\n2000\n"), "{before}");
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start();
    second.verified();
    assert_eq!(sum(&second), before);
}

/// With more than the limit nothing is frozen, and the largest folder is named. A request may leave it out.
#[test]
fn more_than_the_limit() {
    let script =
        "mkdir /tmp/large /tmp/small && head -c 3000000 /dev/urandom >/tmp/large/file && echo x >/tmp/small/file";
    let app = prepared(Setting::Restricted, &["--files-limit", "2MiB"], script).with_volume(None);
    let first = app.start();
    first.verified();
    let refused = first.try_checkpoint(&["--leave-running"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        said.contains("more than --files-limit allows (2.0 MiB)") && said.contains("folders: /tmp/large (2.9 MiB)"),
        "{said}"
    );
    let doctor = ["/opt/freeze/freeze", "doctor", "--service", "--runtime-dir", "/runtime"];
    let doctor = text(&first.exec(&doctor).stdout);
    assert!(doctor.contains("travels: 1 changed file below /tmp/large, 2.9 MiB\n"), "{doctor}");
    assert!(doctor.contains("stays: the volume /volume\n") && doctor.contains("cannot be checkpointed"), "{doctor}");
    first.checkpoint(&["--exclude", "/tmp/lar*"]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start();
    second.verified();
    assert_eq!(text(&second.exec(&["find", "/tmp/large", "/tmp/small", "-type", "f"]).stdout), "/tmp/small/file\n");
}

/// The service goes on, and what it writes later is not in the checkpoint. An included file is of this request alone.
#[test]
fn a_checkpoint_that_leaves_the_service_running_has_its_moment() {
    let app =
        prepared(Setting::Restricted, &[], "echo early >/tmp/file && echo named >/dev/shm/x.tmp").with_volume(None);
    let first = app.start();
    first.verified();
    first.exec(&["sh", "-c", "echo volume >/volume/file"]);
    first.checkpoint(&["--leave-running", "--include", "/volume/file", "--exclude", "*.tmp"]);
    first.exec(&["sh", "-c", "echo late >/tmp/file; echo late >/tmp/later; echo late >/volume/file"]);
    drop(first);
    let second = app.start_with(&["--volume-changed", "restore"]);
    second.verified();
    let found =
        text(&second.exec(&["sh", "-c", "cat /tmp/file /volume/file; ls /tmp /dev/shm | grep -E 'late|tmp$'"]).stdout);
    assert_eq!(found, "early\nvolume\n");
}

/// A layer of an image with files that the container's user may change, above the test's root.
pub fn image(setting: Setting, files: &[&str]) -> (tempfile::TempDir, String) {
    let layer = tempfile::tempdir().unwrap();
    fs::set_permissions(layer.path(), Permissions::from_mode(0o755)).unwrap();
    for file in files {
        let path = layer.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "image\n").unwrap();
        for path in path.ancestors().take_while(|path| *path != layer.path()) {
            chown(path, Some(setting.owner()), Some(setting.owner())).unwrap();
        }
    }
    let root = format!("{}:{}", layer.path().display(), root());
    (layer, root)
}

/// Files of the image that were changed, moved or deleted are so in the next container, and in the one after that. A file
/// that only another image has stays.
#[test]
fn what_was_changed_and_deleted_of_the_image() {
    for setting in [Setting::Restricted, Setting::Caps] {
        let files = [
            "app/changed",
            "app/moved",
            "app/deleted",
            "app/gone/deep/file",
            "app/was-folder/file",
            "app/linked/file",
            "app/deep/er/changed",
            "app/kept",
        ];
        let (layer, first_root) = image(setting, &files);
        let (other, other_root) = image(setting, &[&files[..], &["app/other"]].concat());
        for layer in [&layer, &other] {
            symlink("deep", layer.path().join("app/was-link")).unwrap();
        }
        let script = "cd /app && echo mine >>changed && mv moved new-name && rm deleted && rm -r gone was-folder && echo mine >>deep/er/changed \
                      && echo file >was-folder && rm -r linked && ln -s deep linked && rm was-link && mkdir was-link && echo mine >was-link/new && cd /";
        let app = prepared(setting, &[], script);
        let mut container = app.start_in(&first_root);
        container.verified();
        for (root, other) in [(&first_root, ""), (&other_root, "/app/other\n"), (&other_root, "/app/other\n")] {
            container.checkpoint(&[]);
            assert_eq!(container.wait(), 172, "{}", container.story());
            container = app.start_in(root);
            container.verified();
            let found = text(
                &container
                    .exec(&[
                        "sh",
                        "-c",
                        "find /app -type f | sort && cat /app/changed /app/deep/er/changed /app/was-folder && readlink /app/linked",
                    ])
                    .stdout,
            );
            let expected = format!(
                "/app/changed\n/app/deep/er/changed\n/app/kept\n/app/new-name\n{other}/app/was-folder\n/app/was-link/new\nimage\nmine\nimage\nmine\nfile\ndeep\n"
            );
            assert_eq!(found, expected, "{setting:?}");
        }
    }
}

/// What the image lets everybody write to is written back, and stays its owner's.
#[test]
fn a_file_of_another_owner() {
    let layer = tempfile::tempdir().unwrap();
    let shared = layer.path().join("shared");
    fs::set_permissions(layer.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(&shared, "image\n").unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o666)).unwrap();
    let root = format!("{}:{}", layer.path().display(), root());
    let app = prepared(Setting::Restricted, &["--include", "/shared"], "echo mine >>/shared");
    let first = app.start_in(&root);
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start_in(&root);
    second.verified();
    assert_eq!(read(&second, "/shared"), "image\nmine\n");
    assert_eq!(text(&second.exec(&["stat", "-c", "%u %a", "/shared"]).stdout), "0 666\n");
}

/// A store below an included folder does not swallow itself: its head goes on naming the last commit.
#[test]
fn a_folder_above_the_store() {
    let app = prepared(Setting::Caps, &["--include", "/"], "true");
    let second = moved(&app);
    second.checkpoint(&[]);
    assert_eq!(second.wait(), 172, "{}", second.story());
    app.start().verified();
    let head = fs::read_to_string(app.store().join("head")).unwrap();
    assert!(head.contains("\"generation\":2,"), "{head}");
}

/// A checkpoint does not carry what is mapped of the image, so another version is refused, whatever its size, and the
/// checkpoint stays for the right image. A second checkpoint knows the file from the first.
#[test]
fn another_library_of_the_same_size() {
    let setting = Setting::Restricted;
    let app = App::new(setting, &["holds", "library"]);
    let images = [image(setting, &["app/library"]), image(setting, &["app/library"])];
    fs::write(images[1].0.path().join("app/library"), "other\n").unwrap();
    let first = app.start_in(&images[0].1);
    assert!(first.verified().contains("library=image"));
    first.checkpoint(&["--leave-running"]);
    assert!(first.runtime().join("identities").exists());
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let other = app.start_in(&images[1].1);
    assert_eq!(other.wait(), 171, "{}", other.story());
    let said = "the application's file /app/library has the same size as at the checkpoint, but other content; start the same image";
    assert!(other.logs().1.contains(said), "{}", other.story());
    assert!(app.start_in(&images[0].1).verified().contains("library=image"));
}

/// A file that somebody removes after CRIU has named it is in no checkpoint. Nothing is committed, and the service runs
/// on.
#[test]
fn a_file_that_is_missed_fails_the_checkpoint() {
    for (setting, options) in [(Setting::Restricted, &[][..]), (Setting::Caps, &["--leave-running"])] {
        let app = App::new(setting, &["files", "/data", "data"]).with_fail_points();
        let container = app.start();
        container.verified();
        container.stop_at(Point::CheckpointHeld);
        let out = thread::scope(|scope| {
            let checkpoint = scope.spawn(|| container.try_checkpoint(options));
            let worker = Pid::from_raw(container.stopped());
            let service = container.find(&["/services/service"]).unwrap();
            fs::remove_file(format!("/proc/{service}/root/data/data")).unwrap();
            kill(worker, Signal::SIGCONT).unwrap();
            checkpoint.join().unwrap()
        });
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(freeze::exit::FILES.into()), "{said}");
        assert!(said.contains("(service) uses /data/data, which is no longer there"), "{said}");
        assert!(!app.store().join("head").exists());
        container.verified();
    }
}
