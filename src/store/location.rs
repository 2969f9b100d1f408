//! Where a store is and how to reach it, as every command accepts it.

use std::path::{Path, PathBuf};

use clap::builder::FalseyValueParser;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::s3::address::{Address, check_server};

/// Where a store is. `region`, keys and the rest of S3 come from the AWS SDK's usual chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct Location {
    /// Where checkpoints are kept: file:/FOLDER or s3://BUCKET/PREFIX
    #[arg(
        long = "store",
        alias = "image-url",
        env = "FREEZE_STORE",
        value_name = "URL",
        default_value = "file:/var/lib/freeze"
    )]
    pub url: String,
    /// URL of the S3 server [default: AWS]; also AWS_ENDPOINT_URL_S3
    #[arg(long, env = "FREEZE_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Put the bucket's name into the path, not into the host name; the default if an endpoint is given
    #[arg(long, env = "FREEZE_S3_PATH_STYLE", value_parser = FalseyValueParser::new())]
    pub s3_path_style: bool,
    /// Certificates to trust for https, in PEM, besides the system's; also AWS_CA_BUNDLE
    #[arg(long, env = "FREEZE_S3_CA_FILE", value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
}

impl Location {
    /// A store that its URL alone describes.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    /// Whether it is in a bucket; otherwise it is in a folder.
    pub(super) fn is_bucket(&self) -> bool {
        self.url.starts_with("s3:")
    }

    /// Checks the location without any I/O. Init may not open a store, because that starts threads and reads
    /// files.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`], [`StoreError::BadOption`].
    pub fn check(&self) -> Result<(), StoreError> {
        if !self.is_bucket() {
            return self.folder().map(drop);
        }
        Address::parse(&self.url)?;
        self.server().map_or(Ok(()), |url| check_server("--s3-endpoint", url))
    }

    /// The S3 server's URL, if an option gives one.
    pub(super) fn server(&self) -> Option<&str> {
        self.s3_endpoint.as_deref().filter(|url| !url.is_empty())
    }

    /// The folder in `file:/path` or `file:///path`.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`], also for a bucket.
    pub fn folder(&self) -> Result<PathBuf, StoreError> {
        let bad = |why| StoreError::BadUrl { url: self.url.clone(), why };
        let rest = self.url.strip_prefix("file:").ok_or_else(|| bad("it does not begin with file:"))?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if !path.starts_with('/') {
            return Err(bad("its path is not absolute"));
        }
        if path.contains('\0') {
            return Err(bad("its path holds a zero byte"));
        }
        Ok(Path::new(path).components().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_store_is_refused_and_nothing_is_opened() {
        let bucket = Location { s3_ca_file: Some("/nonexistent/ca.pem".into()), ..Location::at("s3://bucket/app") };
        for right in [Location::at("file:/nonexistent"), Location::at("file:///a//b/"), bucket.clone()] {
            right.check().unwrap();
        }
        for url in
            ["", "/a", "file:", "file:a", "file://a", "http://a", "file:/a\0b", "s3:", "s3://b", "s3://bucket//a"]
        {
            assert!(matches!(Location::at(url).check(), Err(StoreError::BadUrl { .. })), "{url:?}");
        }
        let at = |server: &str| Location { s3_endpoint: Some(server.to_owned()), ..bucket.clone() }.check();
        at("https://server:9000").unwrap();
        // Empty means not given.
        at("").unwrap();
        assert!(matches!(at("server:9000"), Err(StoreError::BadOption { option: "--s3-endpoint", .. })));
    }
}
