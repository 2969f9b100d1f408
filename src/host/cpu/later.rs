//! x86 instructions of CPUID leaf 7, subleaf 1. /proc/cpuinfo does not list them, as most need no support by
//! the kernel.

use crate::sys::cpuid;

/// Names of the bits of EAX and EDX (arch/x86/include/asm/cpufeatures.h, arch/x86/kvm/reverse_cpuid.h).
/// Checkpoints contain the names, so a bit that is not listed here must keep the name that [`name`] makes.
#[rustfmt::skip]
const NAMES: [&[(u32, &str)]; 2] = [
    &[
        (0, "sha512"), (1, "sm3"), (2, "sm4"), (3, "rao_int"), (7, "cmpccxadd"), (21, "amx_fp16"), (23, "avx_ifma"), (31, "movrs"),
    ],
    &[
        (4, "avx_vnni_int8"), (5, "avx_ne_convert"), (8, "amx_complex"), (10, "avx_vnni_int16"), (15, "user_msr"), (19, "avx10"),
        (21, "apx_f"),
    ],
];

/// Bits that no program depends on, or that are compared as flags of /proc/cpuinfo.
const LEFT_OUT: [u32; 2] = [
    bits(&[
        4, 5, 26, // avx_vnni, avx512_bf16 and lam are flags.
        6, 17, 18, 19, 20, 22, 27,
        30, // lass, fred, lkgs, wrmsrns, nmi_src, hreset, msrlist, invd_disable: ring 0.
        8,  // arch_perfmon_ext: profiling.
        10, 11, 12, // fzrm, fsrs, fsrc: the same instructions, faster.
    ]),
    bits(&[
        13, 17, 18, // utmr, uiret_uif, cet_sss: ring 0.
        14, // prefetchi: a hint.
    ]),
];

const fn bits(list: &[u32]) -> u32 {
    let (mut bits, mut at) = (0, 0);
    while at < list.len() {
        bits |= 1 << list[at];
        at += 1;
    }
    bits
}

/// The instructions of this machine; empty on other architectures.
pub fn features() -> Vec<String> {
    named(cpuid::later_instructions())
}

fn named(registers: [u32; 2]) -> Vec<String> {
    let set = |register: usize| {
        let bits = registers[register] & !LEFT_OUT[register];
        (0..32).filter(move |bit| bits & 1 << bit != 0).map(move |bit| name(register, bit))
    };
    (0..2).flat_map(set).collect()
}

fn name(register: usize, bit: u32) -> String {
    let known = NAMES[register].iter().find(|(known, _)| *known == bit);
    known.map_or_else(|| format!("cpuid_7_1_{}_{bit}", ["eax", "edx"][register]), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_names_and_the_kernels_own_are_left_out() {
        assert_eq!(
            named([1 << 7 | 1 << 23 | 1 << 17 | 1 << 4, 1 << 4 | 1 << 14]),
            ["cmpccxadd", "avx_ifma", "avx_vnni_int8"]
        );
        assert_eq!(named([1 << 16, 1 << 31]), ["cpuid_7_1_eax_16", "cpuid_7_1_edx_31"]);
    }

    #[test]
    fn no_bit_is_both_named_and_left_out() {
        for (names, left_out) in NAMES.iter().zip(LEFT_OUT) {
            assert!(names.iter().all(|(bit, _)| left_out & 1 << bit == 0));
        }
    }
}
