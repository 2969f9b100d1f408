//! CPU features that no program depends on. All others are compared, including those that are unknown here.

/// Whether a program of that architecture may depend on the feature.
pub fn matters(arch: &str, feature: &str) -> bool {
    let unused = if arch == "aarch64" { AARCH64 } else { X86_64 };
    !unused.iter().any(|group| group.contains(&feature))
}

/// Flags of /proc/cpuinfo (arch/x86/include/asm/cpufeatures.h, Linux 5.4 to 6.12), grouped by reason.
#[rustfmt::skip]
const X86_64: &[&[&str]] = &[
    // Every x86-64 CPU has these.
    &["fpu", "tsc", "cx8", "cmov", "clflush", "mmx", "fxsr", "sse", "sse2", "sep", "syscall", "lm", "nopl", "cpuid"],
    // Paging. A mapping that is impossible here fails the restore anyway.
    &["pse", "pse36", "pae", "pge", "pat", "nx", "pdpe1gb", "la57", "pcid", "invpcid", "invpcid_single"],
    // Instructions and registers of ring 0.
    &[
        "vme", "de", "msr", "mtrr", "apic", "x2apic", "extapic", "cr8_legacy", "acpi", "pn", "ss", "pbe", "cid", "tce", "osvw",
        "monitor", "smx", "skinit", "fxsr_opt", "xsaves", "xsaveerptr", "wbnoinvd", "pconfig", "fred", "split_lock_detect",
        "bus_lock_detect", "cpuid_fault", "wdt", "dca", "xtpr",
    ],
    // Protection of the kernel from programs. Shadow stacks protect programs: CRIU enables them again by a
    // system call.
    &["smep", "smap", "umip", "ibt", "user_shstk"],
    // CPU flaws and their mitigations.
    &[
        "pti", "ssbd", "virt_ssbd", "ibrs", "ibrs_enhanced", "ibpb", "stibp", "md_clear", "flush_l1d", "arch_capabilities",
    ],
    // Hypervisors, their guests, and encrypted memory.
    &[
        "hypervisor", "vmx", "svm", "tpr_shadow", "vnmi", "flexpriority", "ept", "ept_ad", "vpid", "vmmcall", "tdx_guest",
        "tdx_host_platform", "npt", "lbrv", "svm_lock", "nrip_save", "tsc_scale", "vmcb_clean", "flushbyasid", "decodeassists",
        "pausefilter", "pfthreshold", "avic", "v_vmsave_vmload", "vgif", "x2avic", "v_spec_ctrl", "sme", "sev", "sev_es", "sev_snp",
        "debug_swap", "svsm", "tme",
    ],
    // Power, heat and clock rates.
    &[
        "tm", "tm2", "est", "cpb", "epb", "hw_pstate", "proc_feedback", "acc_power", "aperfmperf", "rapl", "cppc", "dtherm", "ida",
        "arat", "pln", "pts", "hwp", "hwp_notify", "hwp_act_window", "hwp_epp", "hwp_pkg_req", "hfi",
    ],
    // Properties of the cycle counter. Its rate and value are the new host's after every restore.
    &["constant_tsc", "nonstop_tsc", "nonstop_tsc_s3", "tsc_reliable", "tsc_known_freq", "tsc_adjust", "tsc_deadline_timer", "art", "ptsc"],
    // Machine checks.
    &["mce", "mca", "overflow_recov", "succor", "smca"],
    // Profiling and debugging through the kernel.
    &[
        "dts", "dtes64", "ds_cpl", "sdbg", "pdcm", "pebs", "bts", "arch_perfmon", "arch_lbr", "intel_pt", "perfctr_core", "perfctr_nb",
        "perfctr_llc", "perfmon_v2", "amd_lbr_v2", "amd_lbr_pmc_freeze", "ibs", "brs", "bpext", "irperf",
    ],
    // Monitoring and allocation of caches and memory bandwidth.
    &[
        "cqm", "cqm_llc", "cqm_occup_llc", "cqm_mbm_total", "cqm_mbm_local", "rdt_a", "cat_l3", "cat_l2", "cdp_l3", "cdp_l2", "mba",
    ],
    // Topology and identity of processors.
    &["ht", "up", "cmp_legacy", "xtopology", "topoext", "extd_apicid", "nodeid_msr", "amd_dcm", "intel_ppin", "amd_ppin"],
    // The same instructions, faster.
    &["rep_good", "erms", "fsrm"],
    // Hints, which other CPUs ignore.
    &["hle", "cldemote"],
    // Used through a device, which a checkpoint cannot contain.
    &["sgx", "sgx_lc", "enqcmd"],
    // Not offered since Linux 5.6. Without MPX its instructions do nothing.
    &["mpx"],
];

/// Names of AT_HWCAP and AT_HWCAP2 bits (arch/arm64/kernel/cpuinfo.c).
const AARCH64: &[&[&str]] = &[
    // The timer's event stream, and emulated reads of ID registers.
    &["evtstrm", "cpuid"],
    // Hints, which other CPUs ignore.
    &["dgh", "rprfm"],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_matters() {
        for arch in ["x86_64", "aarch64"] {
            assert!(matters(arch, "of_next_year"));
        }
    }

    #[test]
    fn a_name_may_mean_different_things_on_different_architectures() {
        // Secure memory encryption, and the scalable matrix extension.
        assert!(!matters("x86_64", "sme") && matters("aarch64", "sme"));
        assert!(!matters("aarch64", "evtstrm") && matters("aarch64", "sve2"));
    }

    #[test]
    fn no_flag_is_listed_twice() {
        let mut flags: Vec<&str> = X86_64.concat();
        flags.sort_unstable();
        assert!(flags.windows(2).all(|two| two[0] != two[1]));
    }
}
