//! The CPU's features that programs choose their code by.

use std::fs;
use std::io::{BufRead, BufReader};

/// What of the kernel's x86 flags user code can see and use; others (`vmx`, `nopl`, mitigations…) describe the host.
const USED_FEATURES: &[&str] = &[
    "sse3",
    "pni",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "popcnt",
    "aes",
    "pclmulqdq",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "bmi1",
    "bmi2",
    "movbe",
    "rdrand",
    "rdseed",
    "adx",
    "sha_ni",
    "vaes",
    "vpclmulqdq",
    "gfni",
    "avx512f",
    "avx512dq",
    "avx512cd",
    "avx512bw",
    "avx512vl",
    "avx512ifma",
    "avx512vbmi",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_bitalg",
    "avx512_vpopcntdq",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "rtm",
    "fsgsbase",
    "abm",
    "cx16",
    "sse4a",
    "fma4",
    "pku",
    "ospke",
    "xsavec",
    "clwb",
    "serialize",
];

/// What of aarch64's features is the kernel's own affair: its timer, and that it lets registers be read. All others are what programs are told.
const UNUSED_FEATURES: &[&str] = &["evtstrm", "cpuid"];

/// Those of this machine.
pub fn cpu_features() -> Vec<String> {
    let Ok(file) = fs::File::open("/proc/cpuinfo") else { return Vec::new() };
    // All processors have the same, so the first one's are enough; the whole file is long on a large host.
    let line = BufReader::new(file).lines().map_while(Result::ok).find(|line| is_list(line));
    line.as_deref().map(in_use).unwrap_or_default()
}

/// `flags` on x86, `Features` on aarch64.
fn is_list(line: &str) -> bool {
    line.starts_with("flags") || line.starts_with("Features")
}

fn in_use(line: &str) -> Vec<String> {
    let (name, features) = line.split_once(':').unwrap_or_default();
    let used = |feature: &&str| match name.trim_end() {
        "Features" => !UNUSED_FEATURES.contains(feature),
        _ => USED_FEATURES.contains(feature),
    };
    features.split_ascii_whitespace().filter(used).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_both_architectures() {
        assert_eq!(in_use("flags\t\t: fpu vmx avx2"), ["avx2"]);
        assert_eq!(in_use("Features\t: fp asimd evtstrm aes cpuid sve"), ["fp", "asimd", "aes", "sve"]);
        assert!(is_list("Features\t: fp") && !is_list("processor\t: 0"));
    }
}
