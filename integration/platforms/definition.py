"""definition.py FILE: prints what a manifest, an app definition or a job file says of its container, as assignments for a
shell.

- kind; user: UID:GID, a name, or empty; groups
- argv: an array, empty for the image's own; shell: a command for /bin/sh, or empty; env: an array
- grace: seconds between the signal and SIGKILL; signal: empty for the platform's own
- level, of Kubernetes' YAML: `restricted` if every container is of that Pod Security level
- cap_drop, of Nomad's HCL
"""

import json
import shlex
import sys

QUIET = {"user": "", "groups": "", "argv": [], "shell": "", "env": {}, "signal": "", "level": "", "cap_drop": ""}

# Each document must be valid in both versions, without unknown fields.
SCHEMAS = ("1.25.0", "1.37.0")


def seconds(text):
    assert text.endswith("s"), text
    return int(text[:-1])


def restricted(spec):
    pod = spec.get("securityContext", {})
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container.get("securityContext", {})
        said = {**pod, **own}
        if not (
            said.get("runAsNonRoot") is True
            and said.get("seccompProfile", {}).get("type") == "RuntimeDefault"
            and own.get("allowPrivilegeEscalation") is False
            and own.get("capabilities") == {"drop": ["ALL"]}
        ):
            return False
    return not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"))


def kubernetes(documents):
    (spec,) = [each["spec"]["template"]["spec"] for each in documents if each["kind"] == "StatefulSet"]
    (container,) = spec["containers"]
    pod = spec.get("securityContext", {})
    user = "%d:%d" % (pod["runAsUser"], pod["runAsGroup"]) if "runAsUser" in pod else ""
    return {
        "kind": "kubernetes",
        "user": user,
        "groups": str(pod.get("fsGroup", "")),
        "argv": container.get("command", []),
        "env": {each["name"]: each["value"] for each in container["env"]},
        "grace": spec["terminationGracePeriodSeconds"],
        "level": "restricted" if restricted(spec) else "",
    }


def marathon_app(app):
    return {
        "kind": app.get("container", {}).get("type", "no image"),
        "user": app.get("user", ""),
        "argv": app.get("args", []),
        "shell": app.get("cmd", ""),
        "env": app["env"],
        "grace": app["taskKillGracePeriodSeconds"],
    }


def marathon_pod(pod):
    (container,) = pod["containers"]
    return {
        "kind": "pod",
        "user": container.get("user", pod.get("user", "")),
        "shell": container["exec"]["command"]["shell"],
        "env": {**pod.get("environment", {}), **container["environment"]},
        "grace": container["lifecycle"]["killGracePeriodSeconds"],
    }


def nomad(tree):
    (job,) = [job for each in tree["job"] for job in each.values()]
    (group,) = [group for each in job["group"] for group in each.values()]
    (task,) = [task for each in group["task"] for task in each.values()]
    (config,) = task["config"]
    (env,) = task["env"]
    command = [config["command"]] if "command" in config else []
    return {
        "kind": task["driver"],
        "user": task.get("user", ""),
        "argv": command + config.get("args", []),
        "cap_drop": " ".join(config.get("cap_drop", [])),
        "env": env,
        "grace": seconds(task.get("kill_timeout", "5s")),
        "signal": task.get("kill_signal", "").removeprefix("SIG"),
    }


def read(path):
    with open(path, encoding="utf-8") as file:
        if path.endswith(".yaml"):
            import kubernetes_validate
            import yaml

            documents = list(yaml.safe_load_all(file))
            for document in documents:
                for version in SCHEMAS:
                    kubernetes_validate.validate(document, version, strict=True)
            return kubernetes(documents)
        if path.endswith(".hcl"):
            import hcl2

            return nomad(hcl2.load(file))
        definition = json.load(file)
    return (marathon_pod if "containers" in definition else marathon_app)(definition)


def main(path):
    for name, value in {**QUIET, **read(path)}.items():
        if name == "env":
            value = ["%s=%s" % pair for pair in value.items()]
        words = [shlex.quote(str(word)) for word in (value if isinstance(value, list) else [value])]
        print("%s=%s" % (name, "(%s)" % " ".join(words) if isinstance(value, list) else words[0]))


main(*sys.argv[1:])
