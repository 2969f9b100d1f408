//! What CPUs of arm64 tell beside their list of features. None on other architectures.

/// Bytes of a vector of SVE, as this thread has them.
pub fn vector_length() -> Option<u64> {
    const PR_SVE_GET_VL: i32 = 51;
    const LENGTH: i32 = 0xffff;
    // SAFETY: reads a number of this thread. Other architectures answer EINVAL.
    let answer = unsafe { libc::prctl(PR_SVE_GET_VL) };
    u64::try_from(answer & LENGTH).ok().filter(|_| answer >= 0)
}

/// ID_AA64ISAR1_EL1 and ID_AA64ISAR2_EL1.
#[cfg(target_arch = "aarch64")]
pub fn id_registers() -> Option<[u64; 2]> {
    const HWCAP_CPUID: u64 = 1 << 11;
    // SAFETY: reads a constant of the process.
    if unsafe { libc::getauxval(libc::AT_HWCAP) } & HWCAP_CPUID == 0 {
        return None;
    }
    let (one, two): (u64, u64);
    // SAFETY: the kernel lets programs read these registers, as it says above.
    unsafe {
        std::arch::asm!("mrs {}, s3_0_c0_c6_1", out(reg) one, options(nomem, nostack, preserves_flags));
        std::arch::asm!("mrs {}, s3_0_c0_c6_2", out(reg) two, options(nomem, nostack, preserves_flags));
    }
    Some([one, two])
}

#[cfg(not(target_arch = "aarch64"))]
pub fn id_registers() -> Option<[u64; 2]> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn other_architectures_have_neither() {
        let has = super::vector_length().is_some() || super::id_registers().is_some();
        assert!(cfg!(target_arch = "aarch64") || !has);
    }
}
