//! What CPUID and XGETBV report about the CPU. They exist on x86-64 only.

/// EAX and EDX of leaf 7, subleaf 1; zeros if the CPU lacks them.
pub fn later_instructions() -> [u32; 2] {
    imp::later_instructions().unwrap_or_default()
}

/// The components that XSAVE saves of a thread, by their bit in XCR0, each with the byte of the save area (standard format)
/// at which it ends: Intel SDM volume 1, section 13.4. Empty if there is no XSAVE, or the kernel has not enabled it.
pub fn saved_components() -> Vec<(u32, u32)> {
    imp::saved_components().unwrap_or_default()
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::{__cpuid_count, _xgetbv, CpuidResult};

    const OSXSAVE: u32 = 1 << 27;
    /// x87 and SSE are in the first 512 bytes, and the header follows in 64.
    const LEGACY: u32 = 512 + 64;

    #[allow(unused_unsafe, reason = "CPUID is safe in releases of Rust after 1.90")]
    fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
        // SAFETY: every x86-64 CPU has CPUID, which changes nothing but registers.
        unsafe { __cpuid_count(leaf, subleaf) }
    }

    fn has_leaf(leaf: u32) -> bool {
        cpuid(0, 0).eax >= leaf
    }

    pub fn later_instructions() -> Option<[u32; 2]> {
        let has_subleaf = has_leaf(7) && cpuid(7, 0).eax >= 1;
        has_subleaf.then(|| cpuid(7, 1)).map(|found| [found.eax, found.edx])
    }

    pub fn saved_components() -> Option<Vec<(u32, u32)>> {
        if !has_leaf(0xd) || cpuid(1, 0).ecx & OSXSAVE == 0 {
            return None;
        }
        // SAFETY: OSXSAVE says that XGETBV exists, and register 0 always does.
        let enabled = unsafe { _xgetbv(0) };
        let end = |component| match component {
            0 | 1 => LEGACY,
            component => {
                let place = cpuid(0xd, component);
                place.ebx + place.eax
            }
        };
        Some((0..u64::BITS).filter(|bit| enabled & 1 << bit != 0).map(|bit| (bit, end(bit))).collect())
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    pub fn later_instructions() -> Option<[u32; 2]> {
        None
    }

    pub fn saved_components() -> Option<Vec<(u32, u32)>> {
        None
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    #[test]
    fn what_is_enabled_is_saved() {
        let saved = saved_components();
        let end = |component| saved.iter().find(|(found, _)| *found == component).map(|(_, end)| *end);
        if !saved.is_empty() {
            assert_eq!((end(0), end(1)), (Some(576), Some(576)));
            assert_eq!(end(2), std::arch::is_x86_feature_detected!("avx").then_some(576 + 256));
        }
    }
}
