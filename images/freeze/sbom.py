"""The software bill of materials (CycloneDX 1.6), and the texts of the licences."""

import json
import uuid


def component(part, kind="library"):
    """A component in CycloneDX's form."""
    entry = {"type": kind, "bom-ref": part.purl, "name": part.name, "version": part.version, "purl": part.purl}
    entry["licenses"] = [{"expression": part.licence}]
    if part.sha256:
        entry["hashes"] = [{"alg": "SHA-256", "content": part.sha256}]
    if part.home:
        entry["externalReferences"] = [{"type": "website", "url": part.home}]
    return entry


def document(freeze, criu, source, libraries, revision, created):
    """The bill of freeze and criu. `libraries` are linked into one of them; `source` is where criu's code comes from."""
    programs = [component(freeze, "application"), component(criu, "application")]
    programs[1]["externalReferences"].append(
        {
            "type": "source-distribution",
            "url": f"/usr/src/criu/{source.tarball.name}",
            "hashes": [{"alg": "SHA-256", "content": source.checksum}],
        }
    )
    programs[1]["pedigree"] = {
        "notes": "built by criu/build.sh with the patches in criu/patches",
        "patches": [{"type": "unofficial", "diff": {"url": f"criu/patches/{patch.name}"}} for patch in source.patches],
    }
    parts = sorted(libraries, key=lambda part: part.purl)
    image = f"freeze-image@{freeze.version}"
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "component": {"type": "container", "bom-ref": image, "name": "freeze", "version": freeze.version},
            "properties": [{"name": "freeze:revision", "value": revision}],
        },
        "components": programs + [component(part) for part in parts],
        "dependencies": [{"ref": image, "dependsOn": [freeze.purl, criu.purl]}]
        + [{"ref": part.purl, "dependsOn": sorted(part.needs)} for part in (freeze, criu, *parts)],
    }
    # The same bill has the same serial number.
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True))}"
    return json.dumps(bill, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def texts(parts):
    """Each licence text once, below the names of all parts that have it."""
    owners = {}
    for part in parts:
        for name, text in part.texts.items():
            owners.setdefault(text.strip(), []).append(f"{part.name} {part.version}: {name}")
    for part in parts:
        if not part.texts:
            where = f"{part.name} {part.version}: {part.licence}; the crate has no text of it, see {part.home}"
            owners.setdefault("", []).append(where)
    blocks = ["\n".join(owners[text]) + "\n\n" + text for text in sorted(owners, key=lambda text: owners[text])]
    return ("\n\n" + "=" * 100 + "\n\n").join(blocks) + "\n"
