"""The components that are linked into the two programs: origin, licence, and the licence's text."""

import json
import os
import pathlib
import re
import subprocess
import sys
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The licences of Debian's static libraries, by source package. Each is the licence of the code that is linked, not of the
# whole package.
DEBIAN_LICENCES = {
    "gcc": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "glibc": "LGPL-2.1-or-later",
    "libbsd": "BSD-3-Clause AND BSD-2-Clause AND ISC AND MIT",
    "libcap2": "BSD-3-Clause OR GPL-2.0-only",
    "libmd": "BSD-3-Clause AND BSD-2-Clause AND ISC",
    "libnet": "BSD-2-Clause AND BSD-3-Clause",
    "libnl3": "LGPL-2.1-only",
    "protobuf-c": "BSD-2-Clause",
    "util-linux": "BSD-3-Clause",  # libuuid
}
# As for criu/build.sh: empty for this machine's architecture.
ARCH = os.environ.get("FREEZE_ARCH", "")
LICENCE_FILE = re.compile(r"(UN)?LICEN[CS]E|COPYING|COPYRIGHT|NOTICE", re.IGNORECASE)


@dataclass
class Component:
    """A crate, a library or a program. `purl` names it; `needs` has the purls of what is linked into it."""

    name: str
    version: str
    licence: str
    purl: str
    home: str = ""
    sha256: str = ""
    texts: dict = field(default_factory=dict)
    needs: list = field(default_factory=list)


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def read(path):
    return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")


def triple():
    if ARCH == "arm64":
        return "aarch64-unknown-linux-gnu"
    return re.search(r"^host: (.*)$", run("rustc", "-vV"), re.MULTILINE)[1]


def crates():
    """The crates that are linked into freeze, freeze itself first; without build scripts, macros and test dependencies."""
    metadata = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", triple()))
    packages = {(p["name"], p["version"]): p for p in metadata["packages"]}
    blocks = re.findall(r'name = "(.*)"\nversion = "(.*)"\nsource = .*\nchecksum = "(.*)"', read(ROOT / "Cargo.lock"))
    checksums = {(name, version): checksum for name, version, checksum in blocks}
    tree = run("cargo", "tree", "--locked", "--target", triple(), "--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", " {p}")
    found, above = {}, []
    for line in tree.splitlines():
        depth, name, version = re.match(r"(\d+) (\S+) v(\S+)", line).groups()
        key = name, version
        if key not in found:
            found[key] = crate(packages[key], checksums.get(key, ""))
        del above[int(depth) :]
        if above and found[key].purl not in above[-1].needs:
            above[-1].needs.append(found[key].purl)
        above.append(found[key])
    return list(found.values())


def crate(package, checksum):
    folder = pathlib.Path(package["manifest_path"]).parent
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and LICENCE_FILE.match(f.name) and "tests" not in f.parts]
    if folder == ROOT:
        files = [ROOT / "LICENSE"]
    name, version = package["name"], package["version"]
    return Component(
        name,
        version,
        re.sub(r" ?/ ?", " OR ", package["license"]),
        f"pkg:cargo/{name}@{version}".replace("+", "%2B"),
        package["repository"] or "",
        checksum,
        {str(f.relative_to(folder)): read(f) for f in files},
    )


def rust():
    """Rust's own library. Its licences are in one page that comes with rustc, or with Debian's library."""
    version = re.match(r"rustc (\S+)", run("rustc", "--version"))[1]
    page = pathlib.Path(run("rustc", "--print", "sysroot").strip(), "share/doc/rust/COPYRIGHT-library.html")
    texts = {"rust-std.html": read(page)} if page.exists() else {"rust-std.txt": read("/usr/share/doc/libstd-rust-dev/copyright")}
    home = "https://github.com/rust-lang/rust"
    return Component("rust-std", version, "MIT OR Apache-2.0", f"pkg:generic/rust-std@{version}", home, texts=texts)


def debian(package, version, source):
    """A static library of a Debian or Ubuntu package."""
    # A cross compiler's library is of another source package than the compiler's own.
    known = source.removesuffix("-cross")
    licence = DEBIAN_LICENCES.get(known.rstrip("-0123456789")) or DEBIAN_LICENCES.get(known)
    if not licence:
        sys.exit(f"build: say in {__file__} which licence {source} has: {package} is linked in")
    name = re.search(r"^ID=(.*)$", read("/etc/os-release"), re.MULTILINE)[1]
    text = read(f"/usr/share/doc/{package}/copyright")
    purl = f"pkg:deb/{name}/{package}@{version}".replace("+", "%2B")
    return Component(package, version, licence, purl, f"https://tracker.debian.org/pkg/{source}", texts={"copyright": text})


def linked(lines):
    """A package of two architectures is listed twice."""
    return [debian(*line.split()) for line in dict.fromkeys(lines.splitlines())]


def freeze_libraries():
    """The libraries of this machine that rustc links into a static program: libc, and the C compiler's unwinder."""
    compiler = run("aarch64-linux-gnu-gcc" if ARCH == "arm64" else "cc", "-print-libgcc-file-name").strip()
    owner = run("dpkg-query", "-S", str(pathlib.Path(compiler).resolve())).split(":")[0]
    return linked(run("dpkg-query", "-W", "-f", "${Package} ${Version} ${source:Package}\\n", "libc6-dev", owner))


class Criu:
    """Our criu, as criu/build.sh has built it, and its complete source."""

    def __init__(self):
        self.program = pathlib.Path(run("criu/build.sh").splitlines()[-1])
        recipe = read(ROOT / "criu/build.sh")
        self.version = re.search(r"^version=(.*)$", recipe, re.MULTILINE)[1]
        self.checksum = re.search(r"^checksum=(.*)$", recipe, re.MULTILINE)[1]
        self.tarball = self.program.parents[1] / f"criu_{self.version}.orig.tar.xz"
        self.patches = sorted((ROOT / "criu/patches").glob("*.patch"))

    def component(self, needs):
        return Component(
            "criu",
            self.version,
            "GPL-2.0-only",
            f"pkg:generic/criu@{self.version}",
            "https://github.com/checkpoint-restore/criu",
            texts={"COPYING": read(self.program.parent / "COPYING")},
            needs=[library.purl for library in needs],
        )

    def libraries(self):
        return linked(read(self.program.parent / "linked"))
