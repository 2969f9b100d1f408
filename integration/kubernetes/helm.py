"""helm.py lint|template|install CHART RELEASE [VALUES-FILE…] [PATH=VALUE…]: does what the `helm` commands do, by Helm's
own code (v4.2.3).

`install` uses KUBECONFIG and HELM_NAMESPACE. Run it with the Python that `python` prints.
"""

import os
import sys

import helm_python as helm

WARNING = 2


def merge(into, values):
    """Merges values as several -f and --set do: a later value wins, tables are merged."""
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value


def values_from(sources):
    values = {}
    for source in sources:
        if "=" in source:
            merge(values, helm.parse_set_string(source))
        else:
            with open(source, encoding="utf-8") as file:
                merge(values, helm.values_from_yaml(file.read()))
    return values


def lint(chart, values):
    report = helm.lint(chart, values)
    found = [message for message in report["messages"] if message["severity"] >= WARNING]
    if found or report["errors"]:
        sys.exit(f"helm: {found or report['errors']}")


def template(chart, release, values):
    with helm.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        for name, text in sorted(loaded.render(values, name=release).items()):
            if name.endswith(".yaml") and text.strip():
                print(f"---\n# Source: {name}\n{text.strip()}")


def install(chart, release, values):
    with helm.Config(namespace=os.environ["HELM_NAMESPACE"]) as cluster:
        print("helm: release %s: %s" % (release, cluster.install(chart, release, values)["status"]))


def main():
    action, chart, release, *sources = sys.argv[1:]
    try:
        values = values_from(sources)
        if action == "lint":
            lint(chart, values)
        elif action == "template":
            template(chart, release, values)
        else:
            install(chart, release, values)
    except helm.HelmError as error:
        sys.exit(f"helm: {error}")


main()
