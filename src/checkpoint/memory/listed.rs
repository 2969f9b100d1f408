//! CRIU's lists of the pages of a process: images `runs-ID.img`, of which no store learns (criu/README.md, 0098).

use std::io;

use crate::proc::memory::PAGE;

/// Most bytes of a list that are taken: of more than 100 GiB in single pages, and of what a copy does not have.
pub const LIMIT: usize = 512 << 20;

/// What a list begins with, and what each run begins with.
const TASK: usize = 8;
const RUN: usize = 16;
/// Bits of a run's flags.
const DATA: u32 = 1;
const MERGEABLE: u32 = 2;

/// The pages of one process, in the order of addresses.
#[derive(Debug)]
pub struct Listed {
    pub pid: i32,
    /// Name of the image that its pages are.
    pub image: String,
    pub runs: Vec<Run>,
}

/// Consecutive pages.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u64,
    pub end: u64,
    /// What is in them, if no copy has it.
    pub data: Option<Vec<u8>>,
    /// KSM may have merged them with those of any process.
    pub is_mergeable: bool,
}

impl Listed {
    /// Takes a list in. `name` is its image's.
    pub fn parse(name: &str, mut bytes: &[u8]) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("criu sent a broken list {name}"));
        let number = name.strip_prefix("runs-").ok_or_else(broken)?;
        let [_, _, _, _, a, b, c, d] = *take::<TASK>(&mut bytes).ok_or_else(broken)?;
        let mut runs: Vec<Run> = Vec::new();
        while !bytes.is_empty() {
            let run = run(&mut bytes).ok_or_else(broken)?;
            if runs.last().is_some_and(|last| last.end > run.start) {
                return Err(broken());
            }
            runs.push(run);
        }
        Ok(Self { pid: i32::from_le_bytes([a, b, c, d]), image: format!("pages-{number}"), runs })
    }
}

fn run(bytes: &mut &[u8]) -> Option<Run> {
    let head = take::<RUN>(bytes)?;
    let (start, counts) = head.split_at(8);
    let (pages, flags) = counts.split_at(4);
    let start = u64::from_le_bytes(start.try_into().ok()?);
    let length = u64::from(u32::from_le_bytes(pages.try_into().ok()?)) * PAGE;
    let flags = u32::from_le_bytes(flags.try_into().ok()?);
    let data = if flags & DATA != 0 { Some(bytes.split_off(..length as usize)?.to_vec()) } else { None };
    let end = start.checked_add(length).filter(|_| length > 0)?;
    Some(Run { start, end, data, is_mergeable: flags & MERGEABLE != 0 })
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pid: i32, runs: &[(u64, u32, u32)]) -> Vec<u8> {
        let mut bytes = [1, pid].map(i32::to_le_bytes).concat();
        for (start, pages, flags) in runs {
            bytes.extend(start.to_le_bytes());
            bytes.extend([pages, flags].map(|number| number.to_le_bytes()).concat());
            if flags & DATA != 0 {
                bytes.extend(vec![7; *pages as usize * PAGE as usize]);
            }
        }
        bytes
    }

    #[test]
    fn a_list_has_its_process_and_runs() {
        let listed =
            Listed::parse("runs-3.img", &of(9, &[(PAGE, 2, 0), (3 * PAGE, 1, DATA), (9 * PAGE, 1, MERGEABLE)]))
                .unwrap();
        assert_eq!((listed.pid, listed.image.as_str()), (9, "pages-3.img"));
        let run = |start, end, data, is_mergeable| Run { start: start * PAGE, end: end * PAGE, data, is_mergeable };
        let data = Some(vec![7; PAGE as usize]);
        assert_eq!(listed.runs, [run(1, 3, None, false), run(3, 4, data, false), run(9, 10, None, true)]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let whole = of(9, &[(PAGE, 1, DATA)]);
        for (name, bytes) in [
            ("runs-1.img", &whole[..whole.len() - 1]),
            ("runs-1.img", &whole[..5]),
            ("runs-1.img", &of(9, &[(PAGE, 0, 0)])),
            ("runs-1.img", &of(9, &[(PAGE, 2, 0), (PAGE, 1, 0)])),
            ("runs-1.img", &of(9, &[(u64::MAX - PAGE, 2, 0)])),
            ("pages-1.img", &whole),
        ] {
            assert_eq!(Listed::parse(name, bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
