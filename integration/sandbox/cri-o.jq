# Makes CRI-O's profile from containers-common's, as CRI-O does (internal/config/seccomp/seccomp.go): only a process with
# CAP_SYS_ADMIN may make namespaces.

["clone", "clone3", "unshare"] as $calls
| {caps: ["CAP_SYS_ADMIN"]} as $privileged
| [131072, 67108864, 134217728, 268435456, 536870912, 1073741824, 33554432] as $namespaces
| def clone_where(mask; two): {names: ["clone"], args: [{index: 0, value: mask, valueTwo: two, op: "SCMP_CMP_MASKED_EQ"}]};
  .syscalls |= map(if .action == "SCMP_ACT_ALLOW" then .names -= $calls | select(.names != []) else . end)
| .syscalls += [{names: $calls, action: "SCMP_ACT_ALLOW", includes: $privileged}]
| .syscalls += [clone_where($namespaces | add; 0) + {action: "SCMP_ACT_ALLOW", excludes: $privileged}]
| .syscalls += [$namespaces[] as $one | clone_where($one; $one) + {action: "SCMP_ACT_ERRNO", errnoRet: 1, excludes: $privileged}]
| .syscalls += [{names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: 38, excludes: $privileged}]
