//! The SDK's client: server, credentials, trust and retries. Never touches the network.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::{
    Builder, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{self, TlsContext, rustls_provider::CryptoMode};
use aws_types::service_config::ServiceConfigKey;

use super::address;
use super::call::Retries;
use super::credentials::Remembered;
use super::resolver::Resolver;
use super::trust;
use crate::store::{Location, StoreError};

const ATTEMPTS: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A transfer that stalls this long is aborted and retried.
const STALL: Duration = Duration::from_secs(10);
/// The region in signatures if none is set; servers other than AWS accept any.
const REGION: &str = "us-east-1";

/// Builds the client from options, environment and profile.
pub(super) async fn connect(location: &Location) -> Result<(Client, Remembered), StoreError> {
    let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(REGION);
    let config = aws_config::defaults(BehaviorVersion::latest()).region(region).http_client(http(location)?);
    let config = config.load().await;
    let endpoint = endpoint(location, &config)?;
    let chain = config.credentials_provider().expect("the defaults have a chain of providers");
    let credentials = Remembered::new(chain);
    let stalled = StalledStreamProtectionConfig::enabled().grace_period(STALL).build();
    let retries = RetryConfig::standard()
        .with_max_attempts(ATTEMPTS)
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(MAX_BACKOFF);
    let mut builder = Builder::from(&config)
        .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
        .force_path_style(location.s3_path_style || endpoint.is_some())
        .retry_config(retries)
        // The timeout of each operation bounds its retries; a shared quota would end them at random.
        .retry_partition(RetryPartition::custom("freeze").token_bucket(TokenBucket::unlimited()).build())
        .retry_classifier(Retries)
        .stalled_stream_protection(stalled)
        // Chunks, manifests and head carry our own hashes, and not all servers know S3's checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    builder.set_endpoint_url(endpoint);
    Ok((Client::from_conf(builder.build()), credentials))
}

fn http(location: &Location) -> Result<SharedHttpClient, StoreError> {
    let unusable = |why: String| StoreError::BadOption { option: "--store", value: location.url.clone(), why };
    let resolver = Resolver::new().map_err(unusable)?;
    let context = TlsContext::builder().with_trust_store(trust::roots(location)?).build();
    let context = context.map_err(|e| unusable(e.to_string()))?;
    let builder = aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::rustls(CryptoMode::Ring));
    Ok(builder.tls_context(context).build_with_resolver(resolver))
}

/// The server's URL if it is not AWS: the option, else AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the
/// profile's.
fn endpoint(location: &Location, config: &SdkConfig) -> Result<Option<String>, StoreError> {
    let option = location.server().map(|url| ("--s3-endpoint", url.to_owned()));
    let found = option.or_else(|| {
        let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url");
        let of_s3 = config.service_config().and_then(|service| service.load_config(key.build().ok()?));
        of_s3.or_else(|| config.endpoint_url().map(str::to_owned)).map(|url| ("AWS_ENDPOINT_URL", url))
    });
    let Some((option, url)) = found else { return Ok(None) };
    address::check_server(option, &url).map(|()| Some(url))
}
