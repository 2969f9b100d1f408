//! Files of volumes that others fill, and update by making a link lead to another folder: ConfigMaps, Secrets, projected
//! and downward API volumes, releases.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::harness::{App, Container, Setting};

const SETTINGS: &[Setting] = &[Setting::Restricted, Setting::RestrictedPodman, Setting::Caps];

/// A volume as kubelet makes it: `key -> ..data/key`, `..data -> ..TIMESTAMP`. It belongs to root.
struct Config(tempfile::TempDir);

impl Config {
    fn new() -> Self {
        let config = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(config.0.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        symlink("..data/key", config.0.path().join("key")).unwrap();
        config.update("1", "first");
        config
    }

    /// Makes a revision the present one, and removes the others. Returns its folder.
    fn update(&self, name: &str, text: &str) -> PathBuf {
        let (top, name) = (self.0.path(), format!("..2026_11_30_01_02_03.{name}"));
        fs::create_dir(top.join(&name)).unwrap();
        fs::write(top.join(&name).join("key"), format!("{text} revision\n")).unwrap();
        symlink(&name, top.join("..data_tmp")).unwrap();
        fs::rename(top.join("..data_tmp"), top.join("..data")).unwrap();
        for other in fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()) {
            if !other.is_symlink() && !other.ends_with(&name) {
                fs::remove_dir_all(other).unwrap();
            }
        }
        top.join(name)
    }
}

fn app(setting: Setting, config: &Config, object: &str) -> App {
    App::new(setting, &["holds", object]).with_folder(config.0.path(), "/config:ro")
}

fn says(container: &Container, words: &str) {
    let answer = container.verified();
    assert!(answer.contains(words), "{words} is not in: {answer}\n{}", container.story());
}

fn moved(app: &App, from: &Container, meanwhile: impl FnOnce()) -> Container {
    from.checkpoint(&[]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    meanwhile();
    app.start()
}

fn modify(key: &Path) {
    let text = fs::read(key).unwrap();
    fs::write(key, text).unwrap();
}

/// Revisions of other sizes, shorter and longer.
#[test]
fn a_file_is_that_of_the_new_containers_revision() {
    for setting in SETTINGS {
        let config = Config::new();
        let app = app(*setting, &config, "config");
        let first = app.start();
        says(&first, "open=first private=first shared=first cwd=first told=0");
        first.checkpoint(&["--leave-running"]);
        says(&first, "open=first private=first shared=first cwd=first told=0");
        let mut at = PathBuf::new();
        let second = moved(&app, &first, || at = config.update("2", "2nd"));
        says(&second, "open=2nd private=2nd shared=2nd cwd=2nd told=0");
        modify(&at.join("key"));
        says(&second, "cwd=2nd told=1");
        let third = moved(&app, &second, || at = config.update("3", "a longer third"));
        says(&third, "open=a private=a shared=a cwd=a told=0");
        modify(&at.join("key"));
        says(&third, "cwd=a told=1");
    }
}

/// It was updated below the service, which has the old file still open.
#[test]
fn a_replaced_file_that_is_open_keeps_its_content() {
    for setting in SETTINGS {
        let config = Config::new();
        let app = app(*setting, &config, "config-open");
        let first = app.start();
        says(&first, "open=first cwd=/config/..2026_11_30_01_02_03.1");
        config.update("2", "second");
        says(&first, "open=first cwd=gone");
        first.checkpoint(&["--leave-running"]);
        says(&first, "open=first cwd=gone");
        let second = moved(&app, &first, || {
            config.update("3", "third");
        });
        says(&second, "open=first cwd=gone");
        says(&moved(&app, &second, || ()), "open=first cwd=gone");
    }
}

/// Nothing has changed: the link is not asked.
#[test]
fn a_folder_that_is_there_is_the_one() {
    let config = Config::new();
    let app = app(Setting::Restricted, &config, "config");
    let first = app.start();
    says(&first, "open=first");
    says(&moved(&app, &first, || ()), "open=first private=first shared=first cwd=first told=0");
}

/// A volume that the service could write to may have data that it relies on.
#[test]
fn on_a_writable_volume_a_file_of_another_size_is_refused() {
    let config = Config::new();
    let app = App::new(Setting::Restricted, &["holds", "config-open"]).with_folder(config.0.path(), "/config");
    let first = app.start();
    says(&first, "open=first");
    let second = moved(&app, &first, || {
        config.update("2", "other");
    });
    says(&second, "open=other cwd=/config/..2026_11_30_01_02_03.2");
    second.checkpoint(&[]);
    assert_eq!(second.wait(), 172, "{}", second.story());
    config.update("3", "another");
    let third = app.start();
    assert_eq!(third.wait(), 171, "{}", third.story());
    assert!(third.story().contains("config/..2026_11_30_01_02_03.3/key has bad size"), "{}", third.story());
}
