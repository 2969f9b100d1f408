//! Parses `s3://BUCKET/PREFIX` and checks a server's URL. Never touches the network.

use crate::store::{StoreError, key};

/// Longest prefix in bytes: S3 allows keys of 1024 bytes, and ours take up to 512 of them.
const MAX_PREFIX: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Address {
    pub bucket: String,
    /// Empty, or ends with a slash.
    pub prefix: String,
}

impl Address {
    /// Accepts `s3://BUCKET`, `s3://BUCKET/` or `s3://BUCKET/PREFIX`.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let bad = |why| StoreError::BadUrl { url: url.to_owned(), why };
        let rest = url.strip_prefix("s3://").ok_or_else(|| bad("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket(bucket).map_err(bad)?;
        let prefix = prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return Ok(Self { bucket: bucket.to_owned(), prefix: String::new() });
        }
        if prefix.len() > MAX_PREFIX {
            return Err(bad("its prefix is too long"));
        }
        key::check(prefix).map_err(|_| {
            bad("its prefix may contain only letters, digits, dots, underscores and hyphens, and no part may begin with a dot")
        })?;
        Ok(Self { bucket: bucket.to_owned(), prefix: format!("{prefix}/") })
    }

    /// The URL in messages.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix).trim_end_matches('/').to_owned()
    }
}

/// Checks a server's URL, which `option` has given.
pub(in crate::store) fn check_server(option: &'static str, url: &str) -> Result<(), StoreError> {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let good = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}?#".contains(c);
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') && host.chars().all(good) => Ok(()),
        _ => {
            let why = "it does not have the form http://HOST:PORT or https://HOST:PORT".to_owned();
            Err(StoreError::BadOption { option, value: url.to_owned(), why })
        }
    }
}

/// Accepts the characters that any S3 server allows: AWS forbids capitals and underscores, others allow them.
fn check_bucket(bucket: &str) -> Result<(), &'static str> {
    if !(3..=255).contains(&bucket.len()) {
        return Err("a bucket's name needs at least 3 characters");
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !bucket.bytes().all(good) || bucket.starts_with('.') || bucket.contains("..") {
        return Err("a bucket's name may contain only letters, digits, dots and hyphens");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parts = |url| Address::parse(url).map(|a| (a.url(), a.bucket, a.prefix)).unwrap();
        let expect = |url: &str, bucket: &str, prefix: &str| (url.to_owned(), bucket.to_owned(), prefix.to_owned());
        assert_eq!(parts("s3://bucket"), expect("s3://bucket", "bucket", ""));
        assert_eq!(parts("s3://bucket/"), expect("s3://bucket", "bucket", ""));
        assert_eq!(parts("s3://a.b-1/apps/one/"), expect("s3://a.b-1/apps/one", "a.b-1", "apps/one/"));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        let long = format!("s3://bucket/{}", "abcdefghi/".repeat(51));
        for url in [
            "s3:",
            "s3:bucket",
            "s3:///a",
            "s3://ab",
            "s3://a b",
            "s3://bucket//a",
            "s3://bucket/../a",
            "s3://bucket/a b",
            "s3://a..b/c",
            "s3://.ab/c",
            "s3://user@host/b",
            &long,
        ] {
            assert!(matches!(Address::parse(url), Err(StoreError::BadUrl { .. })), "{url}");
        }
    }
}
