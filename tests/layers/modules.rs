//! The modules of a crate, read as syntax: what each file defines, re-exports and uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::Imports;

/// Names from the root of the crate; none for the root itself.
pub type Module = Vec<String>;
type Names = Vec<String>;

/// What is known of one file.
#[derive(Default)]
struct File {
    children: BTreeSet<String>,
    /// Items, as far as they are defined at the top of the file.
    items: BTreeSet<String>,
    /// Names that `use` brings in, and where from. `*` stands for all.
    imported: Vec<(String, Names)>,
    /// Paths of expressions, types and macros, with how many inline modules deep they stand.
    paths: Vec<(Names, usize)>,
}

/// All files of a crate, but for programs of their own and files of unit tests.
pub struct Modules(BTreeMap<Module, File>);

impl Modules {
    /// Reads `src/`.
    pub fn read() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut texts = Vec::new();
        gather(&source, &source, &mut texts);
        Self::parse(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }

    /// Of texts, for a test.
    pub fn of(texts: &[(&str, &str)]) -> Self {
        Self::parse(texts.iter().copied())
    }

    fn parse<'a>(texts: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut files = BTreeMap::new();
        for (name, text) in texts {
            let mut file = File::default();
            let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            Reader { file: &mut file, depth: 0 }.visit_file(&syntax);
            files.insert(module(name), file);
        }
        // What only unit tests are made of has no `mod` line that counts.
        let declared = |module: &Module| {
            let holds =
                |at: usize| files.get(&module[..at]).is_some_and(|file: &File| file.children.contains(&module[at]));
            (0..module.len()).all(holds)
        };
        let kept: BTreeSet<Module> = files.keys().filter(|module| declared(module)).cloned().collect();
        files.retain(|module, _| kept.contains(module));
        Self(files)
    }

    /// What each file takes from which other file.
    pub fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (module, file) in &self.0 {
            let targets = imports.entry(module.clone()).or_default();
            let used = file
                .imported
                .iter()
                .map(|(_, path)| (path, 0))
                .chain(file.paths.iter().map(|(path, depth)| (path, *depth)));
            for (path, depth) in used {
                let Some((owner, rest)) = self.absolute(module, path, depth).and_then(|path| self.resolve(&path, 0))
                else {
                    continue;
                };
                // A module that is named alone counts where something of it is.
                if let Some(name) = rest.first().filter(|_| owner != *module) {
                    targets.entry(owner).or_default().insert(name.clone());
                }
            }
        }
        imports
    }

    /// A path from the root of the crate; none for what is of another crate.
    fn absolute(&self, module: &Module, path: &[String], depth: usize) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        let file = self.0.get(module)?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            // An inline module is a part of its file.
            "self" | "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                let rest = path.iter().skip_while(|name| *name == "self" || *name == "super");
                let kept = module.len().checked_sub(ups.saturating_sub(depth))?;
                Some(module[..kept].iter().chain(rest).cloned().collect())
            }
            name if file.children.contains(name) => Some(module.iter().chain(path).cloned().collect()),
            name => {
                let (_, from) = file.imported.iter().find(|(imported, from)| imported == name && from.len() > 1)?;
                let from: Names = from.iter().chain(rest).cloned().collect();
                if from == path { None } else { self.absolute(module, &from, 0) }
            }
        }
    }

    /// The file that defines what a path names, and the names that follow the file's own.
    fn resolve(&self, path: &[String], hops: usize) -> Option<(Module, Names)> {
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let (owner, rest) = (path[..length].to_vec(), path[length..].to_vec());
        let file = self.0.get(&owner)?;
        let Some((name, below)) = rest.split_first().filter(|(name, _)| !file.items.contains(*name) && hops < 9) else {
            return Some((owner, rest));
        };
        for (imported, from) in &file.imported {
            let from: Names = match imported.as_str() {
                "*" => from[..from.len() - 1].iter().chain(&rest).cloned().collect(),
                imported if imported == name => from.iter().chain(below).cloned().collect(),
                _ => continue,
            };
            let found = self.absolute(&owner, &from, 0).and_then(|path| self.resolve(&path, hops + 1));
            if found.as_ref().is_some_and(|(file, _)| *file != owner) {
                return found;
            }
        }
        Some((owner, rest))
    }
}

/// All files below `folder` by their path from `source`.
fn gather(source: &Path, folder: &Path, texts: &mut Vec<(String, String)>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.join("main.rs").exists() {
            gather(source, &path, texts);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("main.rs") {
            let name = path.strip_prefix(source).unwrap().to_str().unwrap().to_owned();
            texts.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// `a/b.rs` and `a/b/mod.rs` are the module `a::b`.
fn module(name: &str) -> Module {
    let mut names: Module = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|last| last == "mod" || last == "lib") {
        names.pop();
    }
    names
}

struct Reader<'a> {
    file: &'a mut File,
    depth: usize,
}

impl Reader<'_> {
    fn define(&mut self, name: &syn::Ident) {
        if self.depth == 0 {
            self.file.items.insert(name.to_string());
        }
    }

    fn add_use(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| -> Names { before.iter().cloned().chain([name.to_string()]).collect() };
        let path = match tree {
            syn::UseTree::Path(path) => return self.add_use(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => return group.items.iter().for_each(|tree| self.add_use(tree, before)),
            syn::UseTree::Name(name) if name.ident == "self" => before.to_vec(),
            syn::UseTree::Name(name) => with(&name.ident),
            syn::UseTree::Rename(rename) => with(&rename.ident),
            syn::UseTree::Glob(_) => before.iter().cloned().chain(["*".to_owned()]).collect(),
        };
        let name = match tree {
            syn::UseTree::Rename(rename) => rename.rename.to_string(),
            _ => path.last().cloned().unwrap_or_default(),
        };
        if self.depth == 0 { self.file.imported.push((name, path)) } else { self.file.paths.push((path, self.depth)) }
    }

    /// The arguments of a macro are no syntax yet: every `a::b` in them is a path.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        let mut joined = false;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if joined || path.is_empty() => path.push(name.to_string()),
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => {
                    joined = true;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.file.paths.push((std::mem::take(&mut path), self.depth));
                    self.add_tokens(group.stream());
                }
                TokenTree::Ident(name) => {
                    self.file.paths.push((std::mem::replace(&mut path, vec![name.to_string()]), self.depth));
                }
                _ => self.file.paths.push((std::mem::take(&mut path), self.depth)),
            }
            joined = false;
        }
        self.file.paths.push((path, self.depth));
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            // Unit tests may use anything.
            syn::Item::Mod(module) if is_for_tests(&module.attrs) => {}
            syn::Item::Mod(module) if module.content.is_none() => {
                self.file.children.insert(module.ident.to_string());
            }
            syn::Item::Mod(module) => {
                self.depth += 1;
                visit::visit_item_mod(self, module);
                self.depth -= 1;
            }
            syn::Item::Use(item) => self.add_use(&item.tree, &[]),
            item => {
                match item {
                    syn::Item::Fn(item) if is_for_tests(&item.attrs) => return,
                    syn::Item::Fn(item) => self.define(&item.sig.ident),
                    syn::Item::Struct(item) => self.define(&item.ident),
                    syn::Item::Enum(item) => self.define(&item.ident),
                    syn::Item::Trait(item) => self.define(&item.ident),
                    syn::Item::Const(item) => self.define(&item.ident),
                    syn::Item::Static(item) => self.define(&item.ident),
                    syn::Item::Type(item) => self.define(&item.ident),
                    _ => {}
                }
                visit::visit_item(self, item);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.file.paths.push((names, self.depth));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
    })
}
