//! What CPUID and XGETBV report about the CPU. They exist on x86-64 only.

/// The state of a thread that XSAVE saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedRegisters {
    /// XCR0: one bit for each component that the kernel has enabled.
    pub components: u64,
    /// Size of the save area in bytes, in the standard format.
    pub bytes: u32,
}

/// EAX and EDX of leaf 7, subleaf 1; zeros if the CPU lacks them.
pub fn later_instructions() -> [u32; 2] {
    imp::later_instructions().unwrap_or_default()
}

/// None if there is no XSAVE, or the kernel has not enabled it.
pub fn saved_registers() -> Option<SavedRegisters> {
    imp::saved_registers()
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::{__cpuid_count, _xgetbv, CpuidResult};

    use super::SavedRegisters;

    const OSXSAVE: u32 = 1 << 27;

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

    pub fn saved_registers() -> Option<SavedRegisters> {
        if !has_leaf(0xd) || cpuid(1, 0).ecx & OSXSAVE == 0 {
            return None;
        }
        // SAFETY: OSXSAVE says that XGETBV exists, and register 0 always does.
        let components = unsafe { _xgetbv(0) };
        Some(SavedRegisters { components, bytes: cpuid(0xd, 0).ebx })
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    pub fn later_instructions() -> Option<[u32; 2]> {
        None
    }

    pub fn saved_registers() -> Option<super::SavedRegisters> {
        None
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    #[test]
    fn the_area_has_room_for_what_is_enabled() {
        let Some(saved) = saved_registers() else { return };
        // x87 and SSE are always enabled: 512 bytes, and 64 for the header.
        assert_eq!(saved.components & 0b11, 0b11);
        assert!(saved.bytes >= 512 + 64);
        assert_eq!(saved.components & 0b100 != 0, std::arch::is_x86_feature_detected!("avx"));
    }
}
