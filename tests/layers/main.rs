//! The layers of docs/explanation/architecture.md, held against every path that `src/` uses.
//!
//! A file may import files of its own layer and of those before it, and no files may import each other in a loop. A `mod.rs` and its
//! children are one place: a child may use what its `mod.rs` defines. Paths are followed through `pub use` to the file that defines them,
//! so a re-export hides no import.

mod modules;

use std::collections::{BTreeMap, BTreeSet};

use modules::{Module, Modules};

/// Lowest first. `fuzz` is a helper of unit tests.
const LAYERS: &[&str] = &[
    "sys",
    "exit",
    "fail_points",
    "fuzz",
    "proc",
    "store",
    "image",
    "criu",
    "files",
    "privileges",
    "host",
    "demands",
    "control",
    "job",
    "checkpoint",
    "restore",
    "upkeep",
    "init",
    "doctor",
    "migrate",
    "commands",
];

/// The same within `image`.
const IMAGE: &[&str] = &["hex", "error", "layout", "crypto", "format", "ownership", "read", "write"];

type Imports = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

#[test]
fn every_file_imports_only_what_stands_before_it() {
    let modules = Modules::read();
    let imports = modules.imports();
    let unknown: Vec<_> = imports.keys().filter(|module| !module.is_empty() && rank(module).is_none()).collect();
    assert!(unknown.is_empty(), "these have no layer: {unknown:?}");
    let upward: Vec<String> = all(&imports)
        .filter(|(from, to, _)| !from.is_empty() && rank(from) < rank(to))
        .map(|(from, to, names)| format!("{} imports {} from {}", show(from), names.join(", "), show(to)))
        .collect();
    println!("files: {}, imports between files: {}, upward: {}", imports.len(), all(&imports).count(), upward.len());
    assert!(upward.is_empty(), "imports that run upwards:\n{}", upward.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_loop() {
    let imports = Modules::read().imports();
    let loops = loops(&imports);
    println!("loops: {}", loops.len());
    let text: Vec<String> = loops.iter().map(|files| files.iter().map(show).collect::<Vec<_>>().join(" ")).collect();
    assert!(loops.is_empty(), "loops of imports:\n{}", text.join("\n"));
}

/// The test itself finds what it is for.
#[test]
fn an_upward_import_and_a_loop_are_found() {
    let modules = Modules::of(&[
        ("lib.rs", "mod store; mod image;"),
        ("store/mod.rs", "pub mod a; pub mod b; pub use a::A; fn f() { crate::image::Image::new() }"),
        ("store/a.rs", "use super::b::B; pub struct A;"),
        ("store/b.rs", "pub struct B; fn f() { println!(\"{}\", crate::store::A) }"),
        ("image.rs", "use crate::store; pub struct Image; fn f(_: store::A) {}"),
    ]);
    let imports = modules.imports();
    let found: Vec<_> = all(&imports).map(|(from, to, names)| (show(from), show(to), names.join(" "))).collect();
    let expected = [
        ("image", "store::a", "A"),
        ("store", "image", "Image"),
        ("store", "store::a", "A"),
        ("store::a", "store::b", "B"),
        ("store::b", "store::a", "A"),
    ];
    assert_eq!(found, expected.map(|(from, to, name)| (from.to_owned(), to.to_owned(), name.to_owned())));
    assert_eq!(all(&imports).filter(|(from, to, _)| rank(from) < rank(to)).count(), 1);
    assert_eq!(
        loops(&imports),
        [["store::a", "store::b"].map(|name| name.split("::").map(str::to_owned).collect::<Module>())]
    );
}

/// Where a module stands: its layer, and within `image` its folder.
fn rank(module: &Module) -> Option<(usize, usize)> {
    let place = |layers: &[&str], name: &str| layers.iter().position(|layer| *layer == name);
    let layer = place(LAYERS, module.first()?)?;
    match (module[0].as_str(), module.get(1)) {
        ("image", Some(folder)) => Some((layer, place(IMAGE, folder)?)),
        // The face of the folder is made of all its parts.
        ("image", None) => Some((layer, IMAGE.len())),
        _ => Some((layer, 0)),
    }
}

fn show(module: &Module) -> String {
    module.join("::")
}

fn all(imports: &Imports) -> impl Iterator<Item = (&Module, &Module, Vec<&str>)> {
    imports.iter().flat_map(|(from, targets)| {
        targets.iter().map(move |(to, names)| (from, to, names.iter().map(String::as_str).collect()))
    })
}

/// Sets of files of which each reaches the others, without the imports of a child from its `mod.rs`.
fn loops(imports: &Imports) -> Vec<Vec<Module>> {
    let next = |module: &Module| -> Vec<Module> {
        let is_parent = |to: &Module| module.len() == to.len() + 1 && module.starts_with(to);
        imports
            .get(module)
            .into_iter()
            .flat_map(|targets| targets.keys().filter(|to| !is_parent(to)).cloned())
            .collect()
    };
    let reach: BTreeMap<&Module, BTreeSet<Module>> =
        imports.keys().map(|module| (module, reachable(module, next))).collect();
    let mut found = BTreeSet::new();
    for (module, reached) in &reach {
        if reached.contains(*module) {
            let both = |other: &&Module| reach.get(*other).is_some_and(|back| back.contains(*module));
            found.insert(reached.iter().filter(both).cloned().collect::<Vec<_>>());
        }
    }
    found.into_iter().collect()
}

fn reachable(from: &Module, next: impl Fn(&Module) -> Vec<Module>) -> BTreeSet<Module> {
    let (mut seen, mut open) = (BTreeSet::new(), next(from));
    while let Some(module) = open.pop() {
        if seen.insert(module.clone()) {
            open.extend(next(&module));
        }
    }
    seen
}
