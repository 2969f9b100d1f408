//! A seccomp profile that allows choosing PIDs: Docker's default plus clone3. The profile's conditions are
//! resolved, as OCI runtimes and Kubernetes read none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// File name of Docker's profile beside freeze: moby's `profiles/seccomp/default.json` (Apache-2.0).
pub const DOCKER: &str = "docker-seccomp.json";
const ALLOWED: &str = "clone3";
/// This architecture's name in Go, which the conditions use, and in libseccomp, which `archMap` uses.
const ARCHITECTURE: (&str, &str) =
    if cfg!(target_arch = "aarch64") { ("arm64", "SCMP_ARCH_AARCH64") } else { ("amd64", "SCMP_ARCH_X86_64") };

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditional {
    default_action: String,
    default_errno_ret: u32,
    arch_map: Vec<Architecture>,
    syscalls: Vec<ConditionalRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ConditionalRule {
    #[serde(flatten)]
    rule: Rule,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Deserialize, Default)]
struct Condition {
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    caps: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: u32,
    architectures: Vec<String>,
    syscalls: Vec<Rule>,
}

#[derive(Serialize, Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    args: Vec<Value>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read Docker's seccomp profile from {} ({error}). Copy that file from freeze's image to there", docker.display())]
pub struct NoProfile {
    docker: PathBuf,
    error: io::Error,
}

/// The profile in JSON for a container with these capabilities (named without `CAP_`), derived from the file
/// `docker`.
pub fn profile(docker: &Path, capabilities: &BTreeSet<String>) -> Result<String, NoProfile> {
    let read = fs::read(docker).and_then(|json| Ok(serde_json::from_slice(&json)?));
    let docker: Conditional = read.map_err(|error| NoProfile { docker: docker.to_owned(), error })?;
    let architectures = docker.arch_map.into_iter().filter(|map| map.architecture == ARCHITECTURE.1);
    let mut syscalls: Vec<Rule> =
        docker.syscalls.into_iter().filter(|rule| rule.holds(capabilities)).map(|rule| rule.rule).collect();
    for rule in &mut syscalls {
        rule.names.retain(|name| name != ALLOWED);
    }
    syscalls.retain(|rule| !rule.names.is_empty());
    let allowed = Rule { names: vec![ALLOWED.into()], action: "SCMP_ACT_ALLOW".into(), errno_ret: None, args: vec![] };
    syscalls.push(allowed);
    let profile = Profile {
        default_action: docker.default_action,
        default_errno_ret: docker.default_errno_ret,
        architectures: architectures
            .flat_map(|map| [vec![map.architecture], map.sub_architectures.unwrap_or_default()].concat())
            .collect(),
        syscalls,
    };
    Ok(serde_json::to_string_pretty(&profile).unwrap_or_default() + "\n")
}

impl ConditionalRule {
    /// Decides as Docker does (moby, profiles/seccomp/seccomp_linux.go). Ignores conditions on the kernel:
    /// all of them hold since Linux 4.8.
    fn holds(&self, capabilities: &BTreeSet<String>) -> bool {
        let held = |name: &String| name.strip_prefix("CAP_").is_some_and(|name| capabilities.contains(name));
        let ours = |name: &String| name == ARCHITECTURE.0;
        (self.includes.arches.is_empty() || self.includes.arches.iter().any(ours))
            && self.includes.caps.iter().all(held)
            && !self.excludes.arches.iter().any(ours)
            && !self.excludes.caps.iter().any(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/sandbox/seccomp/docker-default.json");

    fn rules(capabilities: &[&str]) -> Vec<(String, String, usize)> {
        let capabilities = capabilities.iter().map(ToString::to_string).collect();
        let profile: Value = serde_json::from_str(&profile(FILE.as_ref(), &capabilities).unwrap()).unwrap();
        let rules = profile["syscalls"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        rules
            .flat_map(|rule| {
                let arguments = rule.get("args").map_or(0, |args| args.as_array().unwrap().len());
                let names = rule["names"].as_array().unwrap().iter();
                names.map(move |name| (text(name), text(&rule["action"]), arguments)).collect::<Vec<_>>()
            })
            .collect()
    }

    fn of(name: &str, capabilities: &[&str]) -> Vec<(String, usize)> {
        let found = rules(capabilities).into_iter().filter(|(found, ..)| found == name);
        found.map(|(_, action, arguments)| (action, arguments)).collect()
    }

    #[test]
    fn clone3_is_allowed_and_nothing_else_is_new() {
        let allow = |arguments| ("SCMP_ACT_ALLOW".to_owned(), arguments);
        assert_eq!(of("clone3", &[]), [allow(0)]);
        // The rule on clone's flags still refuses namespaces, and kcmp needs the capability.
        assert_eq!(of("clone", &[]), [allow(1)]);
        assert_eq!(of("unshare", &[]), []);
        assert_eq!(of("kcmp", &[]), []);
        assert_eq!(of("kcmp", &["SYS_PTRACE"]), [allow(0)]);
        assert_eq!(of("arch_prctl", &[]), [allow(0)]);
        assert_eq!(of("riscv_flush_icache", &[]), []);
    }

    #[test]
    fn it_is_what_runtimes_read() {
        let profile: Value = serde_json::from_str(&profile(FILE.as_ref(), &BTreeSet::new()).unwrap()).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        assert!(profile["architectures"].as_array().unwrap().contains(&ARCHITECTURE.1.into()));
        assert!(profile["syscalls"].as_array().unwrap().iter().all(|rule| rule.get("includes").is_none()));
    }
    #[test]
    fn a_missing_or_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DOCKER);
        let error = || profile(&path, &BTreeSet::new()).unwrap_err().to_string();
        let (missing, named) = (error(), format!("from {} (", path.display()));
        assert!(missing.contains(&named) && missing.contains("No such file"), "{missing}");
        fs::write(&path, "{}").unwrap();
        let broken = error();
        assert!(broken.contains(&named) && broken.contains("missing field"), "{broken}");
    }
}
