//! Errors of an S3 server, or of the connection to it. Each message continues "cannot write KEY in URL: ".

use std::error::Error;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::dns::ResolveDnsError;

#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages explain the fields.
pub enum S3Error {
    #[error(
        "there are no credentials ({why}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with \
         AWS_PROFILE, or give the container a role"
    )]
    NoCredentials { why: String },
    #[error(
        "the server does not accept the credentials ({code}). Check that they are complete, valid for this server, and not expired"
    )]
    BadCredentials { code: String },
    #[error("access is denied. Allow {action} to the user or role whose credentials are used")]
    Denied { action: &'static str },
    #[error("the server has no such bucket. Create it, or correct --store or the endpoint")]
    NoBucket,
    #[error("the bucket is in another region. Set AWS_REGION{}", region.as_ref().map(|r| format!("={r}")).unwrap_or_default())]
    WrongRegion { region: Option<String> },
    #[error(
        "the server's certificate is not trusted ({why}). Name the file of its CA with --s3-ca-file or AWS_CA_BUNDLE, \
         or correct the host name of the endpoint"
    )]
    Untrusted { why: String },
    /// Any TLS error that is not about the certificate.
    #[error("TLS with the server failed ({why}). Check whether the endpoint must begin with http:// or https://")]
    Tls { why: String },
    #[error(
        "the server's name cannot be resolved ({why}). Check the endpoint, AWS_REGION, and /etc/resolv.conf in this \
         container"
    )]
    Unresolved { why: String },
    #[error(
        "the server cannot be reached ({why}; attempts: {attempts}). Check that it runs, that the endpoint is right, \
         and that the network permits the connection"
    )]
    Unreachable { why: String, attempts: u32 },
    #[error(
        "the request exceeded its time limit of {seconds} s (attempts: {attempts}{}). Check the server's load and the network to it",
        last.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
    )]
    TimedOut { seconds: u64, attempts: u32, last: Option<String> },
    #[error("the clocks of this machine and of the server differ too much. Synchronize them with NTP")]
    ClockSkew,
    /// 429, 500, or 502 and above, after all attempts.
    #[error("the server failed with {} (attempts: {attempts}). See the server's log, and try again later", answer(*status, code))]
    Failed { status: u16, code: String, attempts: u32 },
    /// Any other refusal.
    #[error("the server refused the request with {}: {said}. See the server's documentation of this code", answer(*status, code))]
    Refused { status: u16, code: String, said: String },
    #[error(
        "the server's reply is invalid: {what}. Check that the endpoint is an S3 server, and check proxies on the way to it"
    )]
    Reply { what: String },
}

impl S3Error {
    /// Derives the cause from the SDK's error; `action` is the permission that the request needs.
    pub(super) fn new<E>(error: &SdkError<E, HttpResponse>, action: &'static str, attempts: u32) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(reply) => {
                let raw = reply.raw();
                let region = raw.headers().get("x-amz-bucket-region").map(clean);
                let (code, said) = (reply.err().code(), reply.err().message());
                Self::refused(raw.status().as_u16(), code.unwrap_or_default(), said, action, attempts, region)
            }
            SdkError::ResponseError(_) => Self::Reply { what: deepest(error) },
            other => Self::no_reply(other, attempts),
        }
    }

    fn refused(
        status: u16,
        code: &str,
        said: Option<&str>,
        action: &'static str,
        attempts: u32,
        region: Option<String>,
    ) -> Self {
        match (status, code) {
            (_, "NoSuchBucket") => Self::NoBucket,
            (_, "RequestTimeTooSkewed" | "RequestExpired") => Self::ClockSkew,
            (301 | 307, _) | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed") => Self::WrongRegion { region },
            (
                _,
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "InvalidClientTokenId",
            ) => Self::BadCredentials { code: clean(code) },
            (401 | 403, _) => Self::Denied { action },
            (429 | 500 | 502.., _) => Self::Failed { status, code: clean(code), attempts },
            _ => Self::Refused { status, code: clean(code), said: clean(said.unwrap_or("it gave no reason")) },
        }
    }

    fn no_reply(error: &(dyn Error + 'static), attempts: u32) -> Self {
        for cause in causes(error) {
            if cause.is::<CredentialsError>() {
                return Self::NoCredentials { why: deepest(cause) };
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                let why = tls.to_string();
                return match tls {
                    rustls::Error::InvalidCertificate(_) => Self::Untrusted { why },
                    _ => Self::Tls { why },
                };
            }
            if cause.is::<ResolveDnsError>() {
                return Self::Unresolved { why: deepest(cause) };
            }
        }
        Self::Unreachable { why: deepest(error), attempts }
    }
}

/// An error and its chain of sources, including what [`io::Error`] wraps.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Whether TLS failed; a retry does not help then.
pub(super) fn is_tls(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<rustls::Error>())
}

/// The text of the root cause.
pub(super) fn deepest(error: &(dyn Error + 'static)) -> String {
    clean(&causes(error).last().unwrap_or(error).to_string())
}

fn answer(status: u16, code: &str) -> String {
    if code.is_empty() { status.to_string() } else { format!("{status} {code}") }
}

/// Reduces a server's text to one short line, because it can be anything.
fn clean(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> S3Error {
        S3Error::refused(status, code, Some("some\nwords"), "s3:PutObject", 10, None)
    }

    #[test]
    fn what_the_server_says_is_explained() {
        let codes = [
            (403, "AccessDenied"),
            (403, "InvalidAccessKeyId"),
            (404, "NoSuchBucket"),
            (301, "PermanentRedirect"),
            (403, "RequestTimeTooSkewed"),
            (500, "InternalError"),
            (503, "SlowDown"),
            (501, "NotImplemented"),
            (412, "PreconditionFailed"),
            (400, ""),
        ];
        let texts = codes.map(|(status, code)| refused(status, code).to_string()).join("\n");
        insta::assert_snapshot!(texts, @r"
    access is denied. Allow s3:PutObject to the user or role whose credentials are used
    the server does not accept the credentials (InvalidAccessKeyId). Check that they are complete, valid for this server, and not expired
    the server has no such bucket. Create it, or correct --store or the endpoint
    the bucket is in another region. Set AWS_REGION
    the clocks of this machine and of the server differ too much. Synchronize them with NTP
    the server failed with 500 InternalError (attempts: 10). See the server's log, and try again later
    the server failed with 503 SlowDown (attempts: 10). See the server's log, and try again later
    the server refused the request with 501 NotImplemented: some words. See the server's documentation of this code
    the server refused the request with 412 PreconditionFailed: some words. See the server's documentation of this code
    the server refused the request with 400: some words. See the server's documentation of this code
    ");
        let region = Some("eu-central-1".to_owned());
        let error = S3Error::refused(301, "", None, "s3:GetObject", 1, region);
        assert!(error.to_string().ends_with("Set AWS_REGION=eu-central-1"), "{error}");
    }

    #[test]
    fn the_way_there_is_explained() {
        let io = |e: rustls::Error| io::Error::other(e);
        let texts = [
            S3Error::no_reply(&io(rustls::CertificateError::UnknownIssuer.into()), 1),
            S3Error::no_reply(&io(rustls::Error::HandshakeNotComplete), 1),
            S3Error::no_reply(&CredentialsError::not_loaded("no provider has any"), 1),
            S3Error::no_reply(&ResolveDnsError::new("minio.example has no address"), 4),
            S3Error::no_reply(&io::Error::from_raw_os_error(libc::ECONNREFUSED), 10),
            S3Error::TimedOut { seconds: 60, attempts: 3, last: Some("connection reset".into()) },
            S3Error::TimedOut { seconds: 60, attempts: 1, last: None },
            S3Error::Reply { what: "it has no ETag".into() },
        ];
        insta::assert_snapshot!(texts.map(|e| e.to_string()).join("\n"), @r"
    the server's certificate is not trusted (invalid peer certificate: UnknownIssuer). Name the file of its CA with --s3-ca-file or AWS_CA_BUNDLE, or correct the host name of the endpoint
    TLS with the server failed (handshake not complete). Check whether the endpoint must begin with http:// or https://
    there are no credentials (no provider has any). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with AWS_PROFILE, or give the container a role
    the server's name cannot be resolved (minio.example has no address). Check the endpoint, AWS_REGION, and /etc/resolv.conf in this container
    the server cannot be reached (Connection refused (os error 111); attempts: 10). Check that it runs, that the endpoint is right, and that the network permits the connection
    the request exceeded its time limit of 60 s (attempts: 3; connection reset). Check the server's load and the network to it
    the request exceeded its time limit of 60 s (attempts: 1). Check the server's load and the network to it
    the server's reply is invalid: it has no ETag. Check that the endpoint is an S3 server, and check proxies on the way to it
    ");
    }
}
