"""Writes an image as an archive: an OCI layout with Docker's manifest.json. The same files give the same bytes.

It reads the image's description from the Dockerfile, as far as an image FROM scratch needs.
"""

import hashlib
import io
import json
import pathlib
import shlex
import string
import tarfile

CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
# Not compressed, because a compressor's output depends on its version. `docker push` and `skopeo copy` compress it.
LAYER = "application/vnd.oci.image.layer.v1.tar"


def instructions(dockerfile):
    """Yields pairs of an instruction and its words."""
    lines = (line for line in dockerfile.splitlines() if line.strip() and not line.startswith("#"))
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, rest = line.split(maxsplit=1)
        yield name, json.loads(rest) if rest.startswith("[") else shlex.split(rest)


def read_dockerfile(dockerfile, arguments):
    """The image's config, and what the Dockerfile copies: pairs of source and destination."""
    config, copies = {}, []
    for name, words in instructions(dockerfile):
        match name, words:
            case "FROM", ["scratch"]:
                pass
            case "ARG", names if all(name in arguments for name in names):
                pass
            case "COPY", [source, destination]:
                copies.append((source, destination))
            case "ENTRYPOINT", _:
                config["Entrypoint"] = words
            case "LABEL", _:
                labels = (string.Template(word).substitute(arguments).split("=", 1) for word in words)
                config.setdefault("Labels", {}).update(labels)
            case _:
                raise SystemExit(f"archive: the Dockerfile has {name} {words}, which this cannot do")
    return config, copies


def pack(files, epoch):
    """A tar of pairs of a name and a path, bytes, or None for a folder, in that order. Everything belongs to root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.mtime = epoch
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
                continue
            data = content if isinstance(content, bytes) else content.read_bytes()
            executable = not isinstance(content, bytes) and content.stat().st_mode & 0o100
            entry.mode, entry.size = 0o755 if executable else 0o644, len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def tree(folder, copies):
    """The files and folders of the image, sorted by name."""
    found = {}
    for source, destination in copies:
        top = pathlib.PurePosixPath(destination.strip("/"))
        paths = [folder / source, *(folder / source).rglob("*")]
        for path in paths:
            found[str(top / path.relative_to(folder / source))] = None if path.is_dir() else path
        found.update((str(parent), None) for parent in top.parents)
    found.pop(".", None)
    return sorted(found.items())


class Blobs:
    """The content of an OCI layout, by digest."""

    def __init__(self):
        self.files = {}

    def add(self, data, kind, **more):
        """Returns the descriptor of the data."""
        digest = hashlib.sha256(data).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data), **more}


def document(content):
    return json.dumps(content, sort_keys=True).encode()


def path(descriptor):
    return f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"


def add_image(blobs, architecture, folder, dockerfile, arguments, epoch):
    """Adds the image of one architecture. Returns its descriptor, and Docker's entry for it."""
    config, copies = read_dockerfile(dockerfile, arguments)
    created = arguments["CREATED"]
    layer = blobs.add(pack(tree(folder, copies), epoch), LAYER)
    image = {
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created": created, "created_by": "images/freeze/build"}],
    }
    settings = blobs.add(document(image), CONFIG)
    manifest = document({"schemaVersion": 2, "mediaType": MANIFEST, "config": settings, "layers": [layer]})
    platform = {"architecture": architecture, "os": "linux"}
    return blobs.add(manifest, MANIFEST, platform=platform), {"Config": path(settings), "Layers": [path(layer)]}


def write(roots, dockerfile, arguments, name, epoch):
    """The archive's bytes, and the digest of its manifest, or of its index if there are several.

    `roots` are pairs of an architecture and a folder, `name` is REPOSITORY:TAG. Docker's own manifest.json has one image: the first.
    """
    blobs = Blobs()
    images = [add_image(blobs, architecture, folder, dockerfile, arguments, epoch) for architecture, folder in roots]
    top = images[0][0]
    if len(images) > 1:
        top = blobs.add(document({"schemaVersion": 2, "mediaType": INDEX, "manifests": [image for image, _ in images]}), INDEX)
    full = name if "/" in name else f"docker.io/library/{name}"
    annotations = {"io.containerd.image.name": full, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**top, "annotations": annotations}]}
    files = {
        "blobs": None,
        "blobs/sha256": None,
        **blobs.files,
        "index.json": document(index),
        "manifest.json": document([{**images[0][1], "RepoTags": [name]}]),
        "oci-layout": document({"imageLayoutVersion": "1.0.0"}),
    }
    return pack(sorted(files.items()), epoch), top["digest"]
