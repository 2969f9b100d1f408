//! The properties of a CPU that programs choose their code by: features, and what is saved of the registers.

mod later;
mod unused;

use std::fs;
use std::io::{BufRead, BufReader};

use crate::image::SavedRegisters;
use crate::sys::cpuid;
pub use unused::matters;

/// Features of this machine that programs may depend on. Empty if /proc/cpuinfo cannot be read.
pub fn cpu_features() -> Vec<String> {
    let Ok(file) = fs::File::open("/proc/cpuinfo") else { return Vec::new() };
    // All processors have the same features, and the whole file is long on a large host: read the first only.
    let line = BufReader::new(file).lines().map_while(Result::ok).find(|line| is_list(line));
    let shown = line.as_deref().map(in_use).unwrap_or_default();
    shown.into_iter().chain(later::features()).collect()
}

/// Bounds registers of MPX, which Linux no longer enables since 5.6.
const MPX: u64 = 0b11 << 3;

/// What XSAVE saves of a thread's registers here, without MPX. None if the kernel does not use XSAVE.
pub fn saved_registers() -> Option<SavedRegisters> {
    let found = cpuid::saved_registers()?;
    Some(SavedRegisters { components: found.components & !MPX, bytes: found.bytes.into() })
}

/// Whether this machine saves everything that the other one saved. Otherwise a signal frame on a stack of the
/// service may contain registers that this kernel cannot load.
pub fn saves_all(theirs: &SavedRegisters, ours: &SavedRegisters) -> bool {
    theirs.components & !ours.components == 0 && theirs.bytes <= ours.bytes
}

/// `flags` on x86, `Features` on aarch64.
fn is_list(line: &str) -> bool {
    line.starts_with("flags") || line.starts_with("Features")
}

fn in_use(line: &str) -> Vec<String> {
    let (name, features) = line.split_once(':').unwrap_or_default();
    let arch = if name.trim_end() == "Features" { "aarch64" } else { "x86_64" };
    features.split_ascii_whitespace().filter(|feature| matters(arch, feature)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_compared_and_the_hosts_own_affairs_are_not() {
        let line = "flags\t\t: rdtscp rdpid waitpkg movdiri clflushopt avx512_vp2intersect of_next_year vmx md_clear smep erms hwp";
        let used = ["rdtscp", "rdpid", "waitpkg", "movdiri", "clflushopt", "avx512_vp2intersect", "of_next_year"];
        assert_eq!(in_use(line), used);
    }

    #[test]
    fn features_of_both_architectures() {
        assert_eq!(in_use("flags\t\t: fpu vmx avx2"), ["avx2"]);
        assert_eq!(in_use("Features\t: fp asimd evtstrm aes cpuid sve"), ["fp", "asimd", "aes", "sve"]);
        assert!(is_list("Features\t: fp") && !is_list("processor\t: 0"));
    }

    #[test]
    fn registers_that_are_not_saved_here_are_missed() {
        // AVX; AVX-512 and PKRU of AMD and of Intel; AMX.
        let [avx, amd, intel, amx] = [(0x7, 832), (0x2e7, 2440), (0x2e7, 2696), (0x602e7, 11_008)]
            .map(|(components, bytes)| SavedRegisters { components, bytes });
        for (theirs, ours, fits) in [
            (avx, avx, true),
            (avx, amd, true),
            (amd, avx, false),
            (amd, intel, true),
            (intel, amd, false),
            (intel, amx, true),
            (amx, intel, false),
            (SavedRegisters { bytes: 1, ..amx }, intel, false),
        ] {
            assert_eq!(saves_all(&theirs, &ours), fits, "{theirs:?} {ours:?}");
        }
    }
}
