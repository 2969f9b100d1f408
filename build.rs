//! Compiles the holder (src/sys/holder): a freestanding program of a page or two that the executable carries inside. And has
//! the executable begin where it blocks the signals (src/sys/signals.rs).

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "src/sys/holder/main.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--entry=freeze_start");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("holder");
    let status = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
        .args([SOURCE, "--edition=2024", "--crate-type=bin", "--crate-name=holder", "-Dwarnings"])
        .args(["--target", &env::var("TARGET").expect("cargo sets TARGET")])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
        .args(["-Cstrip=symbols", "-Cforce-unwind-tables=no", "-Coverflow-checks=no"])
        // Neither libraries nor alignment: what the file does not hold need not be dumped.
        .args([
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
            "-Clink-arg=-Wl,--build-id=none",
        ])
        .args(["-Clink-arg=-Wl,-z,noseparate-code,-z,norelro,-z,noexecstack,--gc-sections"])
        .arg("-o")
        .arg(&output)
        .status()
        .expect("rustc starts");
    assert!(status.success(), "the holder does not compile");
}
