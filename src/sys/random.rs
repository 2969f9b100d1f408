//! Random bytes by getrandom(2), which needs no `/dev`: an empty image may lack it.

/// Fills `bytes`, at most 256: the kernel never fills so few only in part, once it is seeded (getrandom(2)).
pub fn fill(bytes: &mut [u8]) {
    debug_assert!(bytes.len() <= 256);
    loop {
        // SAFETY: writes at most `len` bytes to memory that is ours alone.
        let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if usize::try_from(filled) == Ok(bytes.len()) {
            return;
        }
        // A signal can interrupt the call only until the kernel is seeded, early after boot.
        let error = std::io::Error::last_os_error();
        assert!(error.kind() == std::io::ErrorKind::Interrupted, "Linux has getrandom(2) since 3.17: {error}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_is_filled_and_anew_each_time() {
        let mut twice = [[0; 256]; 2];
        twice.iter_mut().for_each(|bytes| super::fill(bytes));
        assert_ne!(twice[0], twice[1]);
        assert!(twice.iter().all(|bytes| bytes[240..].iter().any(|byte| *byte != 0)));
        super::fill(&mut []);
    }
}
