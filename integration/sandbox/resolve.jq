# Turns a profile as Docker and containers-common write it, with conditions on each
# rule, into linux.seccomp of an OCI config.json, which knows no conditions.
# Arguments: $caps (held, with CAP_), $machine (uname -m), $arch (Go's name), $kernel (uname -r).

def version: [scan("[0-9]+") | tonumber][:2];

def holds:
  (.includes // {}) as $inc | (.excludes // {}) as $exc
  | (($inc.arches // []) | length == 0 or index($arch) != null)
    and (($exc.arches // []) | index($arch) == null)
    and ((($inc.caps // []) - $caps) == [])
    and ((($exc.caps // []) - (($exc.caps // []) - $caps)) == [])
    and ($inc.minKernel == null or ($kernel | version) >= ($inc.minKernel | version));

{
  defaultAction,
  defaultErrnoRet,
  architectures: [.archMap[] | select(.architecture == "SCMP_ARCH_" + ($machine | ascii_upcase))
                  | .architecture, .subArchitectures[]],
  syscalls: [.syscalls[] | select(holds)
             | {names, action}
               + (if .errnoRet == null then {} else {errnoRet} end)
               + (if (.args // []) == [] then {} else {args} end)]
}
