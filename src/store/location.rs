//! Where a store is and how it is reached, as every command takes it.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use serde::{Deserialize, Serialize};

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
    /// URL of the S3 server, where it is not AWS; also AWS_ENDPOINT_URL_S3
    #[arg(long, env = "FREEZE_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Name the bucket in the path, not in the host; the default where an endpoint is given
    #[arg(long, env = "FREEZE_S3_PATH_STYLE", value_parser = FalseyValueParser::new())]
    pub s3_path_style: bool,
    /// Certificates to trust for https, in PEM, beside the system's; also AWS_CA_BUNDLE
    #[arg(long, env = "FREEZE_S3_CA_FILE", value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
}

impl Location {
    /// A store of which nothing but its URL needs to be said.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }
}
