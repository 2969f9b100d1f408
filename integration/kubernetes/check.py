"""check.py [VERSION…]: checks the Kubernetes objects (YAML) on stdin, and prints how many there are.

Fails if an object is invalid under the strict schema of one of those versions of Kubernetes, or if a pod is not of the
"restricted" Pod Security level. Run it with the Python that `python` prints.
"""

import sys

import kubernetes_validate
import yaml

import restricted


def pod_of(thing):
    """The pod, or the pod template, of an object; None if it has none."""
    if thing["kind"] == "Pod":
        return thing
    spec = thing.get("spec") or {}
    return (spec["jobTemplate"]["spec"] if thing["kind"] == "CronJob" else spec).get("template")


def main():
    versions = sys.argv[1:] or ["1.25", "1.37"]
    things = [thing for thing in yaml.safe_load_all(sys.stdin) if thing]
    wrong, pods = [], 0
    for thing in things:
        name = f"{thing['kind']} {thing['metadata']['name']}"
        for version in versions:
            try:
                kubernetes_validate.validate(thing, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                wrong.append(f"{name}: Kubernetes {version}: {error.message}")
        if (pod := pod_of(thing)) is not None:
            pods += 1
            wrong += [f"{name}: restricted: {violation}" for violation in restricted.violations(pod)]
    if wrong or not things:
        sys.exit("\n".join(wrong) or "check: there is no object")
    print(f"{len(things)} objects are valid in Kubernetes {', '.join(versions)}; {pods} pods are restricted")


main()
