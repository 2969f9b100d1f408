//! The properties of a CPU that programs choose their code by: features, and what is saved of the registers.

mod arm64;
mod later;
mod unused;

use std::collections::BTreeMap;
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
    shown.into_iter().chain(later::features()).chain(arm64::features()).collect()
}

/// Bounds registers of MPX, which Linux no longer enables since 5.6.
const MPX: [u32; 2] = [3, 4];

/// This machine's XSAVE area: for each component that is saved, the byte at which it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterArea(BTreeMap<u32, u32>);

impl RegisterArea {
    /// None if the kernel does not use XSAVE.
    pub fn here() -> Option<Self> {
        let saved = cpuid::saved_components().into_iter().filter(|(component, _)| !MPX.contains(component));
        Some(Self(saved.collect())).filter(|area| !area.0.is_empty())
    }

    #[cfg(test)]
    pub fn of(components: &[(u32, u32)]) -> Self {
        Self(components.iter().copied().collect())
    }

    /// What a checkpoint records.
    pub fn saved(&self) -> SavedRegisters {
        let components = self.0.keys().fold(0, |all, component| all | 1 << component);
        SavedRegisters { components, bytes: self.0.values().max().copied().unwrap_or_default().into() }
    }

    /// Whether this machine saves everything that the other one saved, at the same places. Otherwise a signal frame on a
    /// stack of the service may contain registers that this kernel cannot load, or would load from the wrong place: AMD and
    /// Intel place AVX-512 differently.
    pub fn fits(&self, theirs: &SavedRegisters) -> bool {
        let theirs_here = self.0.iter().filter(|(component, _)| theirs.components & 1 << **component != 0);
        let same = Self(theirs_here.map(|(component, end)| (*component, *end)).collect());
        same.saved() == *theirs
    }
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
    fn registers_that_are_not_saved_here_or_elsewhere_are_missed() {
        let legacy = [(0, 576), (1, 576), (2, 832)];
        let area = |more: &[(u32, u32)]| RegisterArea::of(&[&legacy[..], more].concat());
        let avx = area(&[]);
        let amd = area(&[(5, 840), (6, 1408), (7, 2432), (9, 2440)]);
        let intel = area(&[(5, 1152), (6, 1664), (7, 2688), (9, 2696)]);
        let amx = area(&[(5, 1152), (6, 1664), (7, 2688), (9, 2696), (17, 2816), (18, 11_008)]);
        for (theirs, ours, fits) in [
            (&avx, &avx, true),
            (&avx, &amd, true),
            (&avx, &intel, true),
            (&amd, &avx, false),
            (&amd, &intel, false),
            (&intel, &amd, false),
            (&amd, &amx, false),
            (&intel, &amx, true),
            (&amx, &intel, false),
        ] {
            assert_eq!(ours.fits(&theirs.saved()), fits, "{theirs:?} {ours:?}");
        }
        assert_eq!(amd.saved(), SavedRegisters { components: 0x2e7, bytes: 2440 });
    }
}
