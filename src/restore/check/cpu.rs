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

/// Those of this machine.
pub fn cpu_features() -> Vec<String> {
    let Ok(file) = fs::File::open("/proc/cpuinfo") else { return Vec::new() };
    // All processors have the same, so the first one's are enough; the whole file is long on a large host.
    let line = BufReader::new(file).lines().map_while(Result::ok).find(|line| line.starts_with("flags"));
    let flags = line.as_deref().and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    flags.split_ascii_whitespace().filter(|flag| USED_FEATURES.contains(flag)).map(str::to_owned).collect()
}
