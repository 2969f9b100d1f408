//! Compiles the subreaper, the relay and the tracer, the freestanding programs of a page or two that the
//! executable embeds. Reads which CRIU criu/build.sh makes. Makes the executable start at `freeze_start`, which blocks
//! the signals (src/sys/signals.rs).

use std::{env, ffi::OsString, fs, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--entry=freeze_start");
    println!("cargo::rerun-if-changed=src/sys/freestanding");
    compile("subreaper");
    compile("relay");
    compile("tracer");
    let (file, script) = ("criu/build.sh", fs::read_to_string("criu/build.sh").expect("criu/build.sh is there"));
    println!("cargo::rerun-if-changed={file}");
    let version = script.lines().find_map(|line| line.strip_prefix("version=")).expect("criu/build.sh has a version");
    println!("cargo::rustc-env=FREEZE_CRIU_VERSION={version}");
}

fn compile(name: &str) {
    let source = format!("src/sys/{name}/main.rs");
    println!("cargo::rerun-if-changed=src/sys/{name}");
    // The linker that cargo uses for the target, as set for cross-compilation.
    let linker = env::var_os("RUSTC_LINKER").map(|linker| {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        option
    });
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(name);
    let status = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
        .args([&source, "--edition=2024", "--crate-type=bin", "-Dwarnings", "--crate-name", name])
        .args(["--target", &env::var("TARGET").expect("cargo sets TARGET")])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
        .args(["-Cstrip=symbols", "-Cforce-unwind-tables=no", "-Coverflow-checks=no"])
        // Keeps the file small, because every checkpoint dumps the subreaper's pages: no libraries, no
        // alignment.
        .args([
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
            "-Clink-arg=-Wl,--build-id=none",
        ])
        .args(["-Clink-arg=-Wl,-z,noseparate-code,-z,norelro,-z,noexecstack,--gc-sections"])
        .args(linker)
        .arg("-o")
        .arg(&output)
        .status()
        .expect("rustc starts");
    assert!(status.success(), "the {name} does not compile");
}
