//! Shell patterns, by fnmatch(3): of bytes, as the process has the locale C.

use std::ffi::CStr;

/// Whether `text` matches `pattern`. No wildcard matches a slash.
pub fn matches(pattern: &CStr, text: &CStr) -> bool {
    // SAFETY: two strings that end in NUL, which the call only reads.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), libc::FNM_PATHNAME) == 0 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_wildcard_stays_in_its_folder() {
        for (pattern, text, matches) in [
            (c"/tmp/*.log", c"/tmp/a.log", true),
            (c"/tmp/*.log", c"/tmp/a/b.log", false),
            (c"/tmp/*/[ab].log", c"/tmp/x/b.log", true),
            (c"*.log", c".log", true),
            (c"/tmp/?", c"/tmp/\xff", true),
        ] {
            assert_eq!(super::matches(pattern, text), matches, "{pattern:?} {text:?}");
        }
    }
}
