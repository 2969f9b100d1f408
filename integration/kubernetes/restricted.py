"""The "restricted" level of the Pod Security Standards (1.37), for clusters and tests without that admission.

violations(POD) yields a sentence for each rule that the pod, a dictionary with `metadata` and `spec`, breaks. It is
stricter than the admission in two points: pods for Windows and pods with `hostUsers: false` get no exceptions.
"""

SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def at(tree, *path):
    """The value at that path, or None."""
    for name in path:
        tree = (tree or {}).get(name)
    return tree


def violations(pod):
    spec = pod["spec"]
    containers = [c for kind in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(kind) or []]
    # Each holder of a security context: the pod and its containers.
    holders = [("the pod", at(spec, "securityContext") or {})]
    holders += [("container " + c["name"], c.get("securityContext") or {}) for c in containers]

    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"host namespaces: {name}"
    for volume in spec.get("volumes") or []:
        if kinds := set(volume) - {"name"} - VOLUMES:
            yield f"volume types: {volume['name']} is of the type {', '.join(sorted(kinds))}"
    for sysctl in at(spec, "securityContext", "sysctls") or []:
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctls: {sysctl['name']}"
    for name, value in (at(pod, "metadata", "annotations") or {}).items():
        if name.startswith(APPARMOR) and value not in ("", "runtime/default") and not value.startswith("localhost/"):
            yield f"AppArmor: the annotation {name}={value}"

    for name, context in holders:
        if at(context, "windowsOptions", "hostProcess"):
            yield f"host process: {name}"
        if at(context, "appArmorProfile", "type") not in (None, "RuntimeDefault", "Localhost"):
            yield f"AppArmor: {name}"
        if at(context, "seLinuxOptions", "type") not in SELINUX_TYPES | {None}:
            yield f"SELinux: the type of {name}"
        for part in ("user", "role"):
            if at(context, "seLinuxOptions", part):
                yield f"SELinux: the {part} of {name}"
        if context.get("runAsUser") == 0:
            yield f"running as non-root user: {name} has runAsUser 0"
        if context.get("runAsNonRoot") is False:
            yield f"running as non-root: {name}"
        if at(context, "seccompProfile", "type") not in (None, "RuntimeDefault", "Localhost"):
            yield f"seccomp: {name}"

    pod_context = holders[0][1]
    for container, (name, context) in zip(containers, holders[1:]):
        if context.get("privileged"):
            yield f"privileged containers: {name}"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"privilege escalation: {name}"
        if context.get("procMount") not in (None, "Default"):
            yield f"/proc mount type: {name}"
        if "ALL" not in (at(context, "capabilities", "drop") or []):
            yield f"capabilities: {name} does not drop ALL"
        if added := set(at(context, "capabilities", "add") or []) - {"NET_BIND_SERVICE"}:
            yield f"capabilities: {name} adds {', '.join(sorted(added))}"
        if not (context.get("runAsNonRoot") or pod_context.get("runAsNonRoot")):
            yield f"running as non-root: {name}"
        if not (at(context, "seccompProfile", "type") or at(pod_context, "seccompProfile", "type")):
            yield f"seccomp: {name} has no profile"
        for port in container.get("ports") or []:
            if port.get("hostPort"):
                yield f"host ports: {name} has {port['hostPort']}"
        handlers = [container.get(probe) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += [at(container, "lifecycle", moment) for moment in ("postStart", "preStop")]
        if any(at(handler, kind, "host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
            yield f"host probes and lifecycle hooks: {name}"
