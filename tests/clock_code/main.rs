//! What our criu finds in machine code (criu/README.md, 0081 and 0082), compared with what objdump finds there: in this
//! machine's C library, its loader, musl, and a static program.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// What is tested.
const CODE: [&str; 5] = [
    "criu/arch/x86/clock-insn.c",
    "criu/arch/x86/clock-scan.c",
    "criu/arch/x86/clock-sites.c",
    "criu/include/clock-insn.h",
    "criu/include/clock-sites.h",
];
const SOURCES: [&str; 3] = ["clock-insn.c", "clock-scan.c", "clock-sites.c"];
/// What it includes besides.
const SHIMS: [(&str, &str); 3] = [
    ("log.h", "#include <stdio.h>\n#define pr_err(...) fprintf(stderr, __VA_ARGS__)\n"),
    (
        "xmalloc.h",
        "#include <stdlib.h>\n#define xzalloc(n) calloc(1, n)\n#define xrealloc realloc\n#define xfree free\n",
    ),
    ("common/compiler.h", "#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))\n"),
];
/// By number: the calls that have to do with the clocks.
const CALLS: [i64; 6] = [202, 223, 228, 230, 286, 449];
/// Of a call whose number the caller gives.
const ANY: i64 = -1;

/// Puts criu's code into the folder, as our patches leave it one after another.
fn add_code(folder: &Path) {
    let patches = fs::read_dir(Path::new(ROOT).join("criu/patches")).unwrap();
    let mut patches: Vec<_> = patches.map(|patch| patch.unwrap().path()).collect();
    patches.sort();
    for patch in patches {
        let text = fs::read_to_string(&patch).unwrap();
        for (part, name) in text.split("\ndiff --git ").flat_map(|part| CODE.map(|name| (part, name))) {
            if !part.contains(&format!("\n+++ b/{name}\n")) {
                continue;
            }
            let mut apply = Command::new("patch");
            apply.args(["--silent", "--force"]).arg(Path::new(name).file_name().unwrap()).current_dir(folder);
            let mut child = apply.stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(format!("{part}\n").as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "{}", patch.display());
        }
    }
}

struct Harness {
    folder: TempDir,
}

impl Harness {
    fn build() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("common")).unwrap();
        add_code(folder.path());
        for (name, content) in SHIMS {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-D_GNU_SOURCE", "-fsanitize=undefined,address", "-I.", "-o", "harness"]);
        cc.args(SOURCES).arg(Path::new(ROOT).join("tests/clock_code/harness.c"));
        assert!(cc.current_dir(&folder).status().unwrap().success());
        Self { folder }
    }

    fn run(&self, mode: &str, file: &Path, input: String) -> Vec<Vec<i64>> {
        let mut command = Command::new(self.folder.path().join("harness"));
        command.arg(mode).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.env("ASAN_OPTIONS", "detect_leaks=0").spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(out.status.success(), "{mode} of {}", file.display());
        let first = |word: &str| if mode == "sites" { i64::from_str_radix(word, 16) } else { word.parse() };
        let numbers = |line: &str| {
            let mut words = line.split(' ');
            let head = first(words.next().unwrap()).unwrap();
            [head].into_iter().chain(words.map(|word| word.parse().unwrap())).collect()
        };
        String::from_utf8(out.stdout).unwrap().lines().map(numbers).collect()
    }
}

/// An instruction by objdump.
struct Instruction {
    at: i64,
    length: i64,
    text: String,
}

fn disassemble(file: &Path) -> Vec<Instruction> {
    let out = Command::new("objdump").args(["-d", "-w", "-z", "--section=.text"]).arg(file).output().unwrap();
    let line = |line: &str| {
        let mut parts = line.split('\t');
        let at = i64::from_str_radix(parts.next()?.trim().strip_suffix(':')?, 16).ok()?;
        let length = parts.next()?.split_whitespace().count() as i64;
        Some(Instruction { at, length, text: parts.next()?.to_owned() })
    };
    String::from_utf8(out.stdout).unwrap().lines().filter_map(line).collect()
}

/// objdump splits or joins these: a prefix alone, and fwait with what follows.
fn is_shown_otherwise(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    let is_prefix = |word: &str| {
        word.starts_with("rex")
            || ["data16", "addr32", "lock", "rep", "repz", "repnz", "cs", "ds", "fs", "gs"].contains(&word)
    };
    text.contains("(bad)")
        || (is_prefix(first) && text.split_whitespace().count() == 1)
        || ["fstcw", "fstsw", "fstenv", "fsave", "fclex", "finit"].contains(&first)
}

fn files(harness: &Harness) -> Vec<PathBuf> {
    let library = |name: &str| {
        let out = Command::new("cc").arg(format!("-print-file-name={name}")).output().unwrap();
        fs::canonicalize(String::from_utf8(out.stdout).unwrap().trim()).unwrap()
    };
    let program = harness.folder.path().join("static");
    let source = Path::new(ROOT).join("tests/clock_code/harness.c");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-O2", "-D_GNU_SOURCE", "-I.", "-o"]).arg(&program).arg(source);
    cc.args(SOURCES);
    assert!(cc.current_dir(&harness.folder).status().unwrap().success());
    vec![library("libc.so.6"), library("ld-linux-x86-64.so.2"), "/usr/lib/x86_64-linux-musl/libc.so".into(), program]
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "it is about x86-64")]
fn lengths_are_those_of_objdump() {
    let harness = Harness::build();
    for file in files(&harness) {
        let found = disassemble(&file);
        let input: String = found.iter().map(|one| format!("{:x}\n", one.at)).collect();
        let lengths = harness.run("lengths", &file, input);
        assert_eq!(lengths.len(), found.len());
        assert!(found.len() > 10_000, "{}", file.display());
        let differs =
            |(one, length): &(&Instruction, &Vec<i64>)| one.length != length[0] && !is_shown_otherwise(&one.text);
        let different: Vec<String> = (found.iter().zip(&lengths).filter(differs))
            .map(|(one, length)| format!("{:x}: {} is {}, not {}", one.at, one.text, one.length, length[0]))
            .collect();
        assert!(different.is_empty(), "{}: {different:#?}", file.display());
    }
}

/// The number that the last instructions before a `syscall` put into eax, if it is one.
fn number_before(found: &[Instruction], syscall: usize) -> Option<i64> {
    let before = found[syscall.saturating_sub(12)..syscall].iter().rev();
    for one in before.take_while(|one| !one.text.starts_with("call") && !one.text.starts_with("ret")) {
        if one.text.starts_with("xor") && one.text.ends_with("%eax,%eax") {
            return Some(0);
        }
        if let Some(value) =
            one.text.strip_prefix("mov").and_then(|text| text.trim().strip_prefix("$0x")?.strip_suffix(",%eax"))
        {
            return i64::from_str_radix(value, 16).ok();
        }
        if one.text.ends_with(",%eax") || one.text.ends_with(",%rax") {
            return None;
        }
    }
    None
}

/// A futex without a time, or one with another operation than to wait until one: FUTEX_WAIT or FUTEX_WAKE.
fn has_no_time(found: &[Instruction], syscall: usize) -> bool {
    let before = &found[syscall.saturating_sub(12)..syscall];
    before.iter().any(|one| {
        let text = one.text.split_whitespace().collect::<Vec<_>>().join(" ");
        ["xor %r10d,%r10d", "mov $0x1,%esi", "mov $0x1,%edx", "xor %esi,%esi"].contains(&&*text)
    })
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "it is about x86-64")]
fn each_site_is_found_and_is_one() {
    let harness = Harness::build();
    for file in files(&harness) {
        let found = disassemble(&file);
        let index: BTreeMap<i64, usize> = found.iter().enumerate().map(|(k, one)| (one.at, k)).collect();
        let sites = harness.run("sites", &file, String::new());
        for site in &sites {
            let [at, call, length, _] = site[..] else { panic!("{site:?}") };
            let k = *index.get(&at).unwrap_or_else(|| panic!("{at:x} of {} is no instruction", file.display()));
            assert!(found[k].text.starts_with("syscall"), "{at:x}: {}", found[k].text);
            assert!(call == ANY || CALLS.contains(&call), "{at:x}: {call}");
            if call != ANY
                && let Some(number) = number_before(&found, k)
            {
                assert_eq!(number, call, "{at:x} of {}", file.display());
            }
            if call == ANY && length == 0 {
                // A thread that waits there is found.
                continue;
            }
            assert!((5..20).contains(&length), "{at:x} of {} is out of reach", file.display());
            let first = index.get(&(at - length)).unwrap_or_else(|| panic!("the window before {at:x} begins nowhere"));
            let targets = found.iter().filter_map(|one| {
                let text = one.text.strip_prefix('j').or(one.text.strip_prefix("call"))?;
                i64::from_str_radix(text.split_whitespace().nth(1)?, 16).ok()
            });
            let inside = targets.filter(|to| (at - length + 1..=at).contains(to));
            assert_eq!(inside.count(), 0, "something jumps into the window before {at:x}, from {}", found[*first].text);
        }
        let known: Vec<i64> = sites.iter().map(|site| site[0]).collect();
        let missing = found.iter().enumerate().filter(|(k, one)| {
            one.text.starts_with("syscall")
                && number_before(&found, *k).is_some_and(|number| CALLS.contains(&number))
                && !has_no_time(&found, *k)
                && !known.contains(&one.at)
        });
        let missing: Vec<String> = missing.map(|(_, one)| format!("{:x}", one.at)).collect();
        assert!(missing.is_empty(), "{}: {missing:?} were not found", file.display());
        println!("{}: {} sites", file.display(), sites.len());
    }
}

/// A call, whether it can be changed, and whether it is then made in the stub.
type Found = (i64, bool, bool);

/// The functions of table.S, and what is found of the `syscall` in each.
const TABLE: [(&str, Option<Found>); 18] = [
    ("plain", Some((202, true, false))),
    ("by_register", Some((230, true, false))),
    ("by_caller", Some((ANY, true, false))),
    ("other_call", None),
    ("without_time", None),
    ("other_operation", None),
    ("operation_by_jump", Some((202, true, false))),
    ("operation_changed", Some((202, true, false))),
    ("read_again", Some((202, true, true))),
    ("read_in_loop", Some((202, true, true))),
    ("set_again", Some((202, true, false))),
    ("jumped_into", Some((202, false, true))),
    ("jumped_into_from_afar", Some((202, false, false))),
    ("landed_on", Some((202, false, false))),
    ("too_short", Some((202, false, false))),
    ("within", None),
    ("wrong_beginning", None),
    ("in_data", None),
];

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "it is about x86-64")]
fn system_calls_are_told_apart() {
    let harness = Harness::build();
    let file = harness.folder.path().join("table");
    let mut cc = Command::new("cc");
    // Its data are in the segment of the code, as older linkers place them.
    cc.args(["-nostdlib", "-static", "-Wl,--eh-frame-hdr,-z,noseparate-code", "-o"])
        .arg(&file)
        .arg(Path::new(ROOT).join("tests/clock_code/table.S"));
    assert!(cc.status().unwrap().success());
    let names = Command::new("nm").args(["-n", "--defined-only"]).arg(&file).output().unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    let starts: Vec<(i64, &str)> = (names.lines())
        .map(|line| (i64::from_str_radix(&line[..16], 16).unwrap(), line.rsplit(' ').next().unwrap()))
        .collect();
    let sites = harness.run("sites", &file, String::new());
    for (name, expected) in TABLE {
        let k = starts.iter().position(|(_, found)| *found == name).unwrap();
        let inside: Vec<_> = sites.iter().filter(|site| (starts[k].0..starts[k + 1].0).contains(&site[0])).collect();
        let found: Vec<_> = inside.iter().map(|site| (site[1], site[2] > 0, site[3] == 1)).collect();
        assert_eq!(found, Vec::from_iter(expected), "{name}");
    }
}
