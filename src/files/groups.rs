//! Sums up a long list of files: a few folders, each with the number and size of the files below it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Files below one folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub folder: PathBuf,
    pub files: u64,
    pub bytes: u64,
}

/// Sorts the files into at most `most` folders, the largest first. A folder is divided into its parts as long
/// as there is room for all of them.
pub fn groups<'a>(files: impl IntoIterator<Item = (&'a Path, u64)>, most: usize) -> Vec<Group> {
    let files: Vec<(&Path, u64)> = files.into_iter().collect();
    if files.is_empty() {
        return Vec::new();
    }
    let mut open = vec![(PathBuf::from("/"), files)];
    let mut done = Vec::new();
    while let Some((folder, files)) = open.pop() {
        let parts = parts(&folder, &files);
        let is_leaf = parts.contains_key(&folder);
        if is_leaf || open.len() + done.len() + parts.len() > most {
            let bytes = files.iter().map(|(_, bytes)| bytes).sum();
            done.push(Group { folder, files: files.len() as u64, bytes });
        } else {
            open.extend(parts);
        }
        open.sort_by_key(|(_, files)| files.iter().map(|(_, bytes)| *bytes).sum::<u64>());
    }
    done.sort_by(|one, other| other.bytes.cmp(&one.bytes).then_with(|| one.folder.cmp(&other.folder)));
    done
}

type Files<'a> = Vec<(&'a Path, u64)>;

/// The files by the folder in `folder` that holds them; `folder` itself has those directly in it.
fn parts<'a>(folder: &Path, files: &Files<'a>) -> BTreeMap<PathBuf, Files<'a>> {
    let mut parts: BTreeMap<PathBuf, Files> = BTreeMap::new();
    for (path, bytes) in files {
        let mut below = path.strip_prefix(folder).unwrap_or(path).components();
        let first = below.next().filter(|_| below.next().is_some());
        let part = first.map_or_else(|| folder.to_owned(), |name| folder.join(name));
        parts.entry(part).or_default().push((path, *bytes));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(files: &[(&str, u64)], most: usize) -> Vec<(String, u64, u64)> {
        let files = files.iter().map(|(path, bytes)| (Path::new(*path), *bytes));
        groups(files, most).into_iter().map(|it| (it.folder.display().to_string(), it.files, it.bytes)).collect()
    }

    #[test]
    fn the_folder_that_holds_all_is_named() {
        let files = [("/data/pg/base/1/a", 5), ("/data/pg/base/2/b", 1), ("/data/pg/VERSION", 1)];
        assert_eq!(grouped(&files, 8), [("/data/pg".into(), 3, 7)]);
        assert_eq!(grouped(&[], 8), []);
    }

    #[test]
    fn a_folder_is_divided_while_there_is_room() {
        let files = [("/a/x", 1), ("/b/1/x", 4), ("/b/2/x", 4), ("/c/x", 2)];
        let four = [("/b/1".into(), 1, 4), ("/b/2".into(), 1, 4), ("/c".into(), 1, 2), ("/a".into(), 1, 1)];
        assert_eq!(grouped(&files, 4), four);
        assert_eq!(grouped(&files, 3), [("/b".into(), 2, 8), ("/c".into(), 1, 2), ("/a".into(), 1, 1)]);
        assert_eq!(grouped(&files, 2), [("/".into(), 4, 11)]);
    }
}
