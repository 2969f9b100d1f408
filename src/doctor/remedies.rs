//! What to add to a container for more abilities: the exact lines for each engine. Pure functions of the
//! abilities found.

use serde::Serialize;

use crate::privileges::{Abilities, Ability, DumpPlan, Pids, RestorePlan};

/// File name for the output of `freeze doctor --print-seccomp-profile`.
pub const PROFILE: &str = "freeze-seccomp.json";

/// File capabilities of criu-caps.
pub const CAPABILITIES: [&str; 3] = ["CHECKPOINT_RESTORE", "SYS_PTRACE", "SETPCAP"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    pub gives: &'static str,
    /// Steps besides the lines below, or instead of them if there are none.
    pub also: Vec<String>,
    /// Options of `docker run`.
    pub docker: String,
    /// Options of `podman run`.
    pub podman: String,
    /// Lines of a pod's spec, in YAML.
    pub kubernetes: String,
    /// A SecurityContextConstraints that allows it, in YAML.
    pub openshift: String,
}

const USERS: &str = "services whose processes run as several users or are not dumpable; hosts with Yama's scope 2";
const TO_ROOT: &str = "only Podman gives capabilities to users other than root; with other engines run the container as root, with --cap-add SYS_PTRACE";
const PIDS: &str =
    "chosen PIDs: at once, in any order, and in containers that have used them; the original /proc/PID/exe";
const PIDS_AND_YAMA: &str = "chosen PIDs: at once, in any order, and in containers that have used them; the original /proc/PID/exe; hosts with Yama's scope 2";

/// What the container lacks.
#[derive(Default)]
struct Needs {
    capabilities: Vec<&'static str>,
    clone3: bool,
    unmasked: bool,
    /// Capabilities come from criu-caps's file, as most engines give them to root alone.
    by_file: bool,
    /// Those of [`CAPABILITIES`] that the bounding set has already. A remedy must not take them away.
    held: Vec<&'static str>,
    root: bool,
}

/// Everything that would add an ability here, the most useful first.
pub fn remedies(abilities: &Abilities) -> Vec<Remedy> {
    [possible(abilities), pids(abilities), users(abilities), namespaces(abilities)].into_iter().flatten().collect()
}

/// What every checkpoint and restore needs.
fn possible(abilities: &Abilities) -> Option<Remedy> {
    let yama = match abilities.facts.yama {
        Some(3) => "boot the host with the sysctl kernel.yama.ptrace_scope at 1 or 0: it cannot be lowered from 3",
        Some(2) => "set the sysctl kernel.yama.ptrace_scope to 1 or 0 on the host",
        _ => "set the sysctl kernel.yama.ptrace_scope to 0 on the host",
    };
    let advice = [
        (
            Ability::Ptrace,
            "use a seccomp profile that allows ptrace, such as that of Docker (Linux 4.8 and newer), Podman or CRI-O",
        ),
        (Ability::Attach, yama),
        (Ability::WholeProc, "mount /proc without subset, and without hidepid=2 or 4"),
        (Ability::MemoryMap, "use a kernel with CONFIG_CHECKPOINT_RESTORE"),
        (Ability::Memfd, "set the sysctl vm.memfd_noexec to 0 or 1"),
    ];
    let tracer = DumpPlan::of(abilities).tracer;
    let has = |ability| abilities.has(ability) || tracer && ability == Ability::Attach;
    let missing = advice.into_iter().filter(|(ability, _)| !has(*ability));
    let also: Vec<String> = missing.map(|(_, advice)| advice.to_owned()).collect();
    let gives = "any checkpoint or restore at all";
    (!also.is_empty()).then(|| Remedy { also, ..Needs::of(abilities).remedy(gives) })
}

fn pids(abilities: &Abilities) -> Option<Remedy> {
    let plan = RestorePlan::of(abilities);
    if plan.pids != Pids::CountedUp && plan.exe_link {
        return None;
    }
    let mut needs = Needs { clone3: !abilities.has(Ability::Clone3), ..Needs::of(abilities) };
    if !plan.exe_link {
        needs.add(&["CHECKPOINT_RESTORE"]);
    }
    Some(needs.remedy(if needs.by_file { PIDS_AND_YAMA } else { PIDS }))
}

/// Freeze itself needs SYS_PTRACE, as it inspects the processes before CRIU does. The file capabilities of
/// criu-caps are not enough.
fn users(abilities: &Abilities) -> Option<Remedy> {
    if DumpPlan::of(abilities).all_users {
        return None;
    }
    let needs = Needs { capabilities: vec!["SYS_PTRACE"], ..Needs::of(abilities) };
    let remedy = needs.remedy(USERS);
    if needs.root {
        return Some(remedy);
    }
    Some(Remedy {
        also: vec![TO_ROOT.to_owned()],
        docker: String::new(),
        kubernetes: String::new(),
        openshift: String::new(),
        ..remedy
    })
}

fn namespaces(abilities: &Abilities) -> Option<Remedy> {
    if abilities.has(Ability::PidNamespace) {
        return None;
    }
    let mut also = Vec::new();
    if !abilities.has(Ability::Unshare) {
        also.push(
            "use a seccomp profile that allows unshare and clone3, such as Podman's; those of Docker, containerd and CRI-O \
             refuse both"
                .into(),
        );
    } else if !abilities.has(Ability::UserNamespace) {
        also.push(
            "allow user namespaces on the host: set the sysctl user.max_user_namespaces above 0 and, if they exist, \
             kernel.unprivileged_userns_clone to 1 and kernel.apparmor_restrict_unprivileged_userns to 0"
                .into(),
        );
    }
    let needs = Needs { unmasked: !abilities.has(Ability::UnmaskedProc), ..Needs::of(abilities) };
    let remedy = needs.remedy(
        "namespaces of the service's own (--isolate auto): clocks that continue after a restore, and PIDs of its own",
    );
    (needs.unmasked || !also.is_empty()).then_some(Remedy { also, ..remedy })
}

impl Needs {
    fn of(abilities: &Abilities) -> Self {
        let held = CAPABILITIES.into_iter().filter(|name| abilities.facts.bounding.contains(*name)).collect();
        Self { held, root: abilities.facts.uid == 0, ..Self::default() }
    }

    /// Root gets the capabilities themselves. Other users need criu-caps, whose file has all three.
    fn add(&mut self, capabilities: &[&'static str]) {
        self.by_file = !self.root;
        self.capabilities = if self.by_file { CAPABILITIES.to_vec() } else { capabilities.to_vec() };
    }

    fn remedy(&self, gives: &'static str) -> Remedy {
        let mut also = Vec::new();
        if self.clone3 {
            also.push(format!("write the profile: freeze doctor --print-seccomp-profile > {PROFILE}"));
            also.push(format!(
                "for Kubernetes and OpenShift, copy it to /var/lib/kubelet/seccomp/{PROFILE} on each node"
            ));
        }
        if self.by_file {
            also.push("install criu-caps beside freeze with its file capabilities (COPY keeps them, cp does not), and do not set no-new-privileges".into());
        }
        let (docker, podman) = (self.engine("systempaths=unconfined"), self.engine("unmask=ALL"));
        Remedy { gives, also, docker, podman, kubernetes: self.kubernetes(), openshift: self.openshift() }
    }

    fn engine(&self, unmask: &str) -> String {
        let mut options: Vec<String> = self.capabilities.iter().map(|name| format!("--cap-add {name}")).collect();
        if self.clone3 {
            options.push(format!("--security-opt seccomp={PROFILE}"));
        }
        if self.unmasked {
            options.push(format!("--security-opt {unmask}"));
        }
        options.join(" ")
    }

    fn kubernetes(&self) -> String {
        let mut container = String::new();
        if self.by_file {
            container += "    allowPrivilegeEscalation: true\n";
        }
        if !self.capabilities.is_empty() {
            container += &format!("    capabilities:\n      add: [{}]\n", self.capabilities.join(", "));
        }
        if self.clone3 {
            container += &format!("    seccompProfile:\n      type: Localhost\n      localhostProfile: {PROFILE}\n");
        }
        if self.unmasked {
            container += "    procMount: Unmasked\n";
        }
        if container.is_empty() {
            return container;
        }
        let pod = if self.unmasked { "hostUsers: false\n" } else { "" };
        format!("{pod}containers:\n- name: app\n  securityContext:\n{container}")
    }

    /// `restricted-v2` plus the needs. The pod's service account must be allowed to use it.
    fn openshift(&self) -> String {
        if self.capabilities.is_empty() && !self.clone3 {
            return String::new();
        }
        let allowed: Vec<&str> = CAPABILITIES
            .into_iter()
            .filter(|name| self.capabilities.contains(name) || self.held.contains(name))
            .collect();
        let user = if self.root { "RunAsAny" } else { "MustRunAsRange" };
        let profile = if self.clone3 { "localhost/freeze-seccomp.json" } else { "runtime/default" };
        format!(
            "apiVersion: security.openshift.io/v1
kind: SecurityContextConstraints
metadata:
  name: freeze
allowedCapabilities: [{}]
requiredDropCapabilities: []
defaultAddCapabilities: []
allowPrivilegeEscalation: {}
allowPrivilegedContainer: false
allowHostDirVolumePlugin: false
allowHostIPC: false
allowHostNetwork: false
allowHostPID: false
allowHostPorts: false
readOnlyRootFilesystem: false
runAsUser: {{type: {user}}}
seLinuxContext: {{type: MustRunAs}}
fsGroup: {{type: MustRunAs}}
supplementalGroups: {{type: RunAsAny}}
seccompProfiles: [{profile}]
volumes: [configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim, projected, secret]
",
            allowed.join(", "),
            // no_new_privs would disable file capabilities.
            !allowed.is_empty() && !self.root
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privileges::Facts;

    const BASIC: [Ability; 5] =
        [Ability::Ptrace, Ability::Attach, Ability::WholeProc, Ability::MemoryMap, Ability::Memfd];

    fn container(uid: u32, more: &[Ability]) -> Abilities {
        let abilities = Abilities::with(&[&BASIC, more].concat());
        let bounding = if more.contains(&Ability::ExeLink) { vec!["CHECKPOINT_RESTORE".to_owned()] } else { vec![] };
        Abilities { facts: Facts { uid, bounding: bounding.into_iter().collect(), ..Facts::default() }, ..abilities }
    }

    fn text(abilities: &Abilities) -> String {
        remedies(abilities)
            .iter()
            .map(|remedy| {
                let Remedy { gives, also, docker, podman, kubernetes, openshift } = remedy;
                format!(
                    "== {gives}\n{}\ndocker: {docker}\npodman: {podman}\n{kubernetes}---\n{openshift}",
                    also.join("\n")
                )
            })
            .collect()
    }

    #[test]
    fn restricted_under_docker() {
        insta::assert_snapshot!(text(&container(1000, &[])));
    }

    #[test]
    fn root_with_the_capability_under_docker_lacks_the_profile_alone() {
        insta::assert_snapshot!(text(&container(
            0,
            &[Ability::ExeLink, Ability::Unshare, Ability::UserNamespace, Ability::TraceOthers]
        )));
    }

    #[test]
    fn what_a_criu_with_capabilities_has_stays_allowed() {
        let mut abilities = container(1000, &[Ability::FileCapabilities, Ability::TraceOthers]);
        abilities.facts.bounding = CAPABILITIES.map(str::to_owned).into();
        let Remedy { docker, openshift, .. } = &remedies(&abilities)[0];
        assert_eq!(docker, "--security-opt seccomp=freeze-seccomp.json");
        assert!(
            openshift.contains("\nallowedCapabilities: [CHECKPOINT_RESTORE, SYS_PTRACE, SETPCAP]\n"),
            "{openshift}"
        );
        assert!(openshift.contains("\nallowPrivilegeEscalation: true\n"), "{openshift}");
    }

    #[test]
    fn where_everything_is_there_nothing_is_to_be_added() {
        assert_eq!(remedies(&container(0, &Ability::ALL)), []);
    }

    #[test]
    fn a_host_that_forbids_user_namespaces_is_told_from_a_profile_that_does() {
        let without = [Ability::PidNamespace, Ability::UserNamespace, Ability::TimeNamespace];
        let abilities: Vec<Ability> = Ability::ALL.into_iter().filter(|ability| !without.contains(ability)).collect();
        let found = remedies(&container(0, &abilities));
        assert!(found.len() == 1 && found[0].also[0].contains("user.max_user_namespaces"), "{found:?}");
    }

    #[test]
    fn yama_is_overcome_by_tracers_or_on_the_host() {
        let under = |scope, more: &[Ability]| {
            let mut abilities = container(1000, more);
            abilities.answers.insert(Ability::Attach, crate::privileges::Answer::No(String::new()));
            abilities.facts.yama = Some(scope);
            remedies(&abilities)[0].also.join("; ")
        };
        let tracers = &[Ability::Pidfd];
        assert!(!under(1, tracers).contains("yama"));
        assert!(under(2, tracers).contains("to 1 or 0 on the host") && under(3, tracers).starts_with("boot the host"));
        assert!(under(1, &[]).contains("to 0 on the host"));
    }

    #[test]
    fn what_nothing_goes_without_comes_first() {
        let abilities = Abilities::with(&[Ability::Ptrace, Ability::Attach, Ability::MemoryMap]);
        insta::assert_snapshot!(remedies(&abilities)[0].also.join("\n"), @r"
        mount /proc without subset, and without hidepid=2 or 4
        set the sysctl vm.memfd_noexec to 0 or 1
        ");
    }
}
