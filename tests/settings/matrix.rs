//! The table of settings and services in docs/reference/settings.md: one test a row, which moves each service three times.

use crate::harness::{App, Setting};
use crate::moved;

/// Column and command, in the order of the table.
const SERVICES: [(&str, &[&str]); 7] = [
    ("one process", &["/services/service", "one"]),
    ("16 processes", &["/services/service", "prefork", "16"]),
    ("64 threads", &["/services/service", "threads", "64"]),
    ("Python, mixed", &["python3", "/services/languages/mixed.py"]),
    ("node cluster", &["node", "/services/languages/cluster.js"]),
    ("Java", &["java", "-cp", "/services/languages", "Mixed"]),
    ("Go", &["/services/languages/mixed"]),
];

const PAGE: &str = include_str!("../../docs/reference/settings.md");

fn line(first: &str, cells: impl Iterator<Item = String>) -> String {
    format!("| {first} | {} |", cells.collect::<Vec<_>>().join(" | "))
}

/// Runs a row with these variables for freeze; `name` is its first cell.
fn row(name: &str, setting: Setting, variables: &[&str]) {
    let cells = SERVICES.iter().map(|(_, command)| {
        let app = App::with_options(setting, &[], command);
        moved(&app.with_variables(variables), 3)
    });
    let row = line(&format!("`{name}`"), cells);
    println!("{row}");
    assert!(PAGE.contains(&row), "docs/reference/settings.md has another row than this:\n{row}");
}

/// One test for each row: a name, the setting and freeze's variables.
macro_rules! rows {
    ($($test:ident: $setting:ident, $variables:expr;)*) => {
        $(#[test] fn $test() { row(&stringify!($test).replace('_', "-"), Setting::$setting, $variables) })*
        const ROWS: &[&str] = &[$(stringify!($test)),*];
    };
}

rows! {
    restricted: Restricted, &[];
    restricted_podman: RestrictedPodman, &[];
    restricted_podman_isolated: RestrictedPodman, &["FREEZE_ISOLATE=auto"];
    openshift: OpenShift, &[];
    caps: Caps, &[];
    file_caps: FileCaps, &[];
    ambient: Ambient, &[];
    nested: Nested, &[];
    nested_isolated: Nested, &["FREEZE_ISOLATE=auto"];
    user_namespace: UserNamespace, &[];
    unconfined: Unconfined, &[];
}

#[test]
fn the_page_has_these_columns_and_no_other_rows() {
    let head = line("setting", SERVICES.iter().map(|(name, _)| (*name).to_owned()));
    let table = PAGE
        .split_once(&head)
        .unwrap_or_else(|| panic!("docs/reference/settings.md has another head than this:\n{head}"))
        .1;
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let names: Vec<_> = rows.iter().map(|row| row.split('`').nth(1).unwrap_or_default().replace('-', "_")).collect();
    assert_eq!(names, ROWS);
}
