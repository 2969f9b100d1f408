# Removes system calls from the rules of a filter, and lets them fail. NAME:N lets only calls with that second argument
# fail. It takes two rules, because a rule with an argument does not outrank one without.
# Arguments: $errno (a name), $calls ("NAME" or "NAME:N", separated by commas).

{"EPERM": 1, "ENOSYS": 38, "EINVAL": 22}[$errno] as $errnoRet
| [$calls | split(",")[] | split(":")] as $denied
| def on(op): {args: [{index: 1, value: (.[1] | tonumber), op: op}]};
  .syscalls = [(.syscalls // [])[] | .names -= [$denied[][0]] | select(.names != [])]
    + [$denied[]
       | {names: [.[0]], action: "SCMP_ACT_ERRNO", errnoRet: $errnoRet}
         + (if .[1] then on("SCMP_CMP_EQ") else {} end)]
    + [$denied[] | select(.[1]) | {names: [.[0]], action: "SCMP_ACT_ALLOW"} + on("SCMP_CMP_NE")]
