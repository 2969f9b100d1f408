//! Which keys are valid. A valid key never leads out of the store.

/// Longest key in bytes; S3 allows 1024 including the prefix.
const MAX_KEY: usize = 512;
/// Longest part between two slashes in bytes; file systems allow 255.
const MAX_PART: usize = 200;

/// Returns why `key` is invalid. No part may begin with a dot: `..` leads out, and a folder store's own files
/// begin so.
pub(super) fn check(key: &str) -> Result<(), &'static str> {
    if key.len() > MAX_KEY {
        return Err("it is too long");
    }
    key.split('/').try_for_each(check_part)
}

fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("it is empty, absolute or has an empty part");
    }
    if part.starts_with('.') {
        return Err("a part of it begins with a dot");
    }
    if part.len() > MAX_PART {
        return Err("a part of it is too long");
    }
    if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err("only letters, digits, dots, underscores and hyphens are allowed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn ordinary_keys_are_allowed() {
        for key in ["head", "packs/0a1b", "generations/12.manifest", "a/b/c-d_e.f"] {
            assert_eq!(check(key), Ok(()), "{key}");
        }
    }

    #[test]
    fn others_are_not() {
        let long = "x".repeat(MAX_PART + 1);
        for key in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/..", ".tmp", "a/.b", "a b", "ä", "a\0", "a\\b", &long]
        {
            assert!(check(key).is_err(), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_an_allowed_key_stays_below_the_root(key in "[a./_\\-\\\\ ]{0,12}") {
            if check(&key).is_ok() {
                prop_assert!(Path::new(&key).components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(Path::new(&key).components().count(), key.split('/').count());
            }
        }
    }
}
