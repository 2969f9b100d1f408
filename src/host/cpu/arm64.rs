//! Features of CPUs of arm64 that /proc/cpuinfo does not list: how long vectors are, and how pointers are signed.

use crate::sys::arm64;

/// Those of this machine; empty on other architectures.
pub fn features() -> Vec<String> {
    let lengths = arm64::vector_length().into_iter().flat_map(lengths);
    lengths.chain(arm64::id_registers().into_iter().filter_map(signature).map(str::to_owned)).collect()
}

/// The lengths of SVE's vectors in bits: what a program starts with here, and the powers of two below, which such a CPU
/// has as well.
fn lengths(bytes: u64) -> Vec<String> {
    let bits = bytes.saturating_mul(8);
    let shorter = std::iter::successors(Some(128_u64), |shorter| shorter.checked_mul(2)).take_while(|one| *one < bits);
    shorter.chain([bits]).map(|bits| format!("sve_{bits}_bits")).collect()
}

/// The algorithm of `paca`. A restored service checks pointers that it signed before.
fn signature([isar1, isar2]: [u64; 2]) -> Option<&'static str> {
    let has = |register: u64, bit: u32| register >> bit & 0xf != 0;
    match () {
        () if has(isar1, 4) => Some("pac_qarma5"),
        () if has(isar1, 8) => Some("pac_impdef"),
        () if has(isar2, 12) => Some("pac_qarma3"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_with_longer_vectors_has_the_shorter_ones() {
        assert_eq!(lengths(16), ["sve_128_bits"]);
        assert_eq!(lengths(48), ["sve_128_bits", "sve_256_bits", "sve_384_bits"]);
        assert_eq!(lengths(64), ["sve_128_bits", "sve_256_bits", "sve_512_bits"]);
    }

    #[test]
    fn a_cpu_signs_by_one_algorithm_or_none() {
        let of = |isar1, isar2| signature([isar1, isar2]);
        assert_eq!(
            [of(1 << 4, 0), of(5 << 8, 0), of(0, 1 << 12)],
            ["pac_qarma5", "pac_impdef", "pac_qarma3"].map(Some)
        );
        // Generic codes (GPA, GPI, GPA3) are another feature.
        assert_eq!(of(1 << 24 | 1 << 28, 1 << 8), None);
    }
}
