//! The mappings of a process, as `smaps` has them, without what is no attribute of theirs: how the kernel has split
//! them, what it counts as committed, and the inodes of files.

use std::fs;
use std::path::Path;

struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    rights: String,
    name: String,
    flags: String,
}

impl Mapping {
    /// `START-END RIGHTS OFFSET DEVICE INODE [NAME]`
    fn parse(words: &[&str], rename: impl Fn(&str) -> String) -> Option<Self> {
        let [range, rights, offset, _, _, name @ ..] = words else { return None };
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let name = rename(&name.join(" "));
        let (start, end, offset) = (number(start)?, number(end)?, number(offset)?);
        Some(Self { start, end, offset, rights: (*rights).to_owned(), name, flags: String::new() })
    }

    /// Whether `next` is the rest of it.
    fn goes_on(&self, next: &Self) -> bool {
        let is_file = !self.name.is_empty() && !self.name.starts_with('[');
        let attributes = |one: &Self| (one.rights.clone(), one.name.clone(), one.flags.clone());
        self.end == next.start
            && attributes(self) == attributes(next)
            && (!is_file || self.offset + (self.end - self.start) == next.offset)
    }
}

pub fn describe(path: &Path, rename: impl Fn(&str) -> String) -> Vec<String> {
    let text = fs::read_to_string(path.join("smaps")).unwrap_or_default();
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match (words.split_first(), all.last_mut()) {
            (Some((&"VmFlags:", flags)), Some(last)) => {
                // `gu` stays where guards have been. A file on a mount without execution may come back in memory.
                let left_out =
                    |flag: &str| ["ac", "gu"].contains(&flag) || (flag == "me" && last.name.starts_with("deleted"));
                last.flags = flags.iter().filter(|flag| !left_out(flag)).copied().collect::<Vec<_>>().join(" ");
            }
            _ => all.extend(Mapping::parse(&words, &rename)),
        }
    }
    let mut joined: Vec<Mapping> = Vec::new();
    for next in all {
        match joined.last_mut() {
            Some(last) if last.goes_on(&next) => last.end = next.end,
            _ => joined.push(next),
        }
    }
    let line = |one: &Mapping| {
        format!("{:x}-{:x} {} {:x} {} {}", one.start, one.end, one.rights, one.offset, one.name, one.flags)
    };
    joined.iter().map(line).collect()
}
