//! `freeze inspect`: shows what is in a checkpoint. Changes nothing.

use std::fmt::Write;

use super::text::{count, date, json, printable, size};
use crate::upkeep::UpkeepError;
use crate::upkeep::inspect::{self, Inspected};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    /// The generation to show [default: the newest]
    #[arg(value_name = "GENERATION")]
    generation: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn main(arguments: &Arguments) -> u8 {
    super::finish(inspect(arguments))
}

fn inspect(arguments: &Arguments) -> Result<String, UpkeepError> {
    let found = inspect::inspect(&arguments.store.open_full()?, arguments.generation)?;
    Ok(if arguments.json { json(&found) } else { text(&found) })
}

fn text(found: &Inspected) -> String {
    let parts = [summary(found), processes(found), memory(found), open_files(found), captured(found)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn summary(found: &Inspected) -> String {
    let sizes = &found.sizes;
    let newest = if found.newest { ", the newest" } else { "" };
    let rows = [
        ("generation", format!("{}{newest}", found.generation)),
        (
            "taken",
            format!(
                "{} by freeze {}; the service was frozen for {} ms",
                date(found.created_ms),
                found.freeze_version,
                found.frozen_ms
            ),
        ),
        ("command", found.command.join(" ")),
        ("user", format!("uid {}, gid {}", found.uid, found.gid)),
        ("machine", format!("{}, kernel {}", found.arch, found.kernel)),
        ("CPU needs", found.cpu_features.join(" ")),
        (
            "size",
            format!(
                "{}; stored in {}, {} of it new and {} shared with earlier generations",
                size(sizes.raw),
                size(sizes.stored),
                size(sizes.new),
                size(sizes.shared)
            ),
        ),
        ("packs", format!("{}, {} of them new", sizes.packs, sizes.new_packs)),
    ];
    rows.iter().map(|(name, value)| format!("{name:12}{}\n", printable(value))).collect()
}

fn processes(found: &Inspected) -> String {
    let mut text = format!("{:>7}  {:>7}  {:>10}  NAME\n", "PID", "THREADS", "MEMORY");
    for (depth, process) in inspect::tree(&found.processes) {
        let memory = process.memory.map_or("?".to_owned(), |memory| size(memory.saved()));
        let name = format!("{}  {}", process.name, process.exe);
        let (threads, indent) = (process.threads.len(), "  ".repeat(depth.min(20)));
        let _ = writeln!(text, "{:7}  {threads:7}  {memory:>10}  {indent}{}", process.pid, printable(&name));
    }
    text
}

fn memory(found: &Inspected) -> String {
    let Some(memory) = found.memory else { return "memory: unknown, because CRIU's images cannot be read\n".into() };
    let mut text = format!("{:14}{:>12}{:>12}\n", "MEMORY", "MAPPED", "SAVED");
    for (name, usage) in memory.kinds() {
        let _ = writeln!(text, "{name:14}{:>12}{:>12}", size(usage.mapped), size(usage.saved));
    }
    text
}

fn open_files(found: &Inspected) -> String {
    let Some(open) = &found.open else { return "open files: unknown, because CRIU's images cannot be read\n".into() };
    let kinds: Vec<String> = open.kinds.iter().map(|(kind, number)| format!("{number} {kind}")).collect();
    let mut text = format!("OPEN FILES  {}\n", kinds.join(", "));
    for path in &open.paths {
        let _ = writeln!(text, "{}", printable(path));
    }
    for socket in &open.sockets {
        let remote = socket.remote.as_ref().map_or(String::new(), |remote| format!(" to {remote}"));
        let _ = writeln!(text, "{} {}{remote} {}", socket.kind, printable(&socket.local), socket.state);
    }
    text
}

fn captured(found: &Inspected) -> String {
    if found.files.is_empty() {
        return String::new();
    }
    let mut text = format!("CAPTURED FILES  {}\n", count(found.files.len() as u64, "file"));
    for file in &found.files {
        let target = if file.target.is_empty() { String::new() } else { format!(" -> {}", file.target) };
        let path = printable(&format!("{}{target}", file.path));
        let _ = writeln!(text, "{:10}{:>10}  {:04o}  {path}", file.kind, size(file.size), file.mode);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::inspect::{File, Memory, OpenFiles, Process, Sizes, Socket, Usage};
    use std::collections::BTreeMap;

    fn process(pid: i32, ppid: i32, name: &str, memory: Option<Memory>) -> Process {
        let (name, exe) = (name.to_owned(), format!("/bin/{name}"));
        Process { pid, ppid, pgid: pid, sid: pid, name, exe, threads: vec![pid], memory }
    }

    fn sample() -> Inspected {
        let heap = Usage { mapped: 4 << 20, saved: 3 << 20 };
        let memory = Memory { heap, ..Memory::default() };
        let socket = |kind, local: &str, remote: Option<&str>, state| Socket {
            kind,
            local: local.into(),
            remote: remote.map(Into::into),
            state,
        };
        Inspected {
            generation: 3,
            newest: true,
            created_ms: 1_700_000_000_000,
            freeze_version: "0.1.0".into(),
            arch: "x86_64".into(),
            kernel: "6.1.0".into(),
            cpu_features: vec!["avx".into(), "avx2".into()],
            command: vec!["sh".into(), "-c".into(), "\u{1b}[2J".into()],
            uid: 1000,
            gid: 1000,
            root_pid: 1000,
            service_pid: 1001,
            stdio: vec!["/dev/null".into(), "pipe:[7]".into()],
            frozen_ms: 40,
            sizes: Sizes { raw: 8 << 20, stored: 3 << 20, new: 1 << 20, shared: 2 << 20, packs: 3, new_packs: 1 },
            memory: Some(memory),
            processes: vec![process(1000, 1, "holder", None), process(1001, 1000, "sh", Some(memory))],
            open: Some(OpenFiles {
                kinds: BTreeMap::from([("regular", 1), ("tcp", 2)]),
                paths: vec!["/data/log".into()],
                sockets: vec![
                    socket("tcp", "0.0.0.0:80", None, "listen"),
                    socket("tcp", "127.0.0.1:5000", Some("127.0.0.1:80"), "established"),
                ],
            }),
            files: vec![File {
                path: "/data/log".into(),
                kind: "regular",
                size: 12_000,
                mode: 0o640,
                uid: 1000,
                gid: 1000,
                mtime_ns: 5,
                target: String::new(),
            }],
        }
    }

    #[test]
    fn the_text_is_readable() {
        insta::assert_snapshot!(text(&sample()), @r"
        generation  3, the newest
        taken       2023-11-14T22:13:20Z by freeze 0.1.0; the service was frozen for 40 ms
        command     sh -c \u{1b}[2J
        user        uid 1000, gid 1000
        machine     x86_64, kernel 6.1.0
        CPU needs   avx avx2
        size        8.0 MiB; stored in 3.0 MiB, 1.0 MiB of it new and 2.0 MiB shared with earlier generations
        packs       3, 1 of them new

            PID  THREADS      MEMORY  NAME
           1000        1           ?  holder  /bin/holder
           1001        1     3.0 MiB    sh  /bin/sh

        MEMORY              MAPPED       SAVED
        anonymous              0 B         0 B
        heap               4.0 MiB     3.0 MiB
        stack                  0 B         0 B
        private files          0 B         0 B
        shared                 0 B         0 B

        OPEN FILES  1 regular, 2 tcp
        /data/log
        tcp 0.0.0.0:80 listen
        tcp 127.0.0.1:5000 to 127.0.0.1:80 established

        CAPTURED FILES  1 file
        regular     11.7 KiB  0640  /data/log
        ");
    }

    #[test]
    fn the_names_in_json_stay() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&sample()).unwrap(), @r#"
        {
          "generation": 3,
          "newest": true,
          "created_ms": 1700000000000,
          "freeze_version": "0.1.0",
          "arch": "x86_64",
          "kernel": "6.1.0",
          "cpu_features": [
            "avx",
            "avx2"
          ],
          "command": [
            "sh",
            "-c",
            "\u001b[2J"
          ],
          "uid": 1000,
          "gid": 1000,
          "root_pid": 1000,
          "service_pid": 1001,
          "stdio": [
            "/dev/null",
            "pipe:[7]"
          ],
          "frozen_ms": 40,
          "sizes": {
            "raw": 8388608,
            "stored": 3145728,
            "new": 1048576,
            "shared": 2097152,
            "packs": 3,
            "new_packs": 1
          },
          "memory": {
            "anonymous": {
              "mapped": 0,
              "saved": 0
            },
            "heap": {
              "mapped": 4194304,
              "saved": 3145728
            },
            "stack": {
              "mapped": 0,
              "saved": 0
            },
            "file_private": {
              "mapped": 0,
              "saved": 0
            },
            "shared": {
              "mapped": 0,
              "saved": 0
            }
          },
          "processes": [
            {
              "pid": 1000,
              "ppid": 1,
              "pgid": 1000,
              "sid": 1000,
              "name": "holder",
              "exe": "/bin/holder",
              "threads": [
                1000
              ],
              "memory": null
            },
            {
              "pid": 1001,
              "ppid": 1000,
              "pgid": 1001,
              "sid": 1001,
              "name": "sh",
              "exe": "/bin/sh",
              "threads": [
                1001
              ],
              "memory": {
                "anonymous": {
                  "mapped": 0,
                  "saved": 0
                },
                "heap": {
                  "mapped": 4194304,
                  "saved": 3145728
                },
                "stack": {
                  "mapped": 0,
                  "saved": 0
                },
                "file_private": {
                  "mapped": 0,
                  "saved": 0
                },
                "shared": {
                  "mapped": 0,
                  "saved": 0
                }
              }
            }
          ],
          "open": {
            "kinds": {
              "regular": 1,
              "tcp": 2
            },
            "paths": [
              "/data/log"
            ],
            "sockets": [
              {
                "kind": "tcp",
                "local": "0.0.0.0:80",
                "remote": null,
                "state": "listen"
              },
              {
                "kind": "tcp",
                "local": "127.0.0.1:5000",
                "remote": "127.0.0.1:80",
                "state": "established"
              }
            ]
          },
          "files": [
            {
              "path": "/data/log",
              "kind": "regular",
              "size": 12000,
              "mode": 416,
              "uid": 1000,
              "gid": 1000,
              "mtime_ns": 5
            }
          ]
        }
        "#);
    }
}
