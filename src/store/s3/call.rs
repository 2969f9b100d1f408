//! One operation: its timeouts, its attempts, and its error.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef, InterceptorContext,
};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::retries::classifiers::RetryClassifierPriority;

use super::error::{S3Error, deepest};
use crate::store::StoreError;
use crate::store::error::Doing;

/// Connect timeout of an attempt.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of an attempt, plus [`PER_MIB`] for each MiB that it moves.
const ATTEMPT: Duration = Duration::from_secs(20);
/// 256 KiB/s: a stream that is slower fails.
const PER_MIB: Duration = Duration::from_secs(4);
/// Timeout of an operation with all its attempts, in timeouts of one attempt.
const ATTEMPTS_IN_TOTAL: u32 = 3;

/// An operation on an object, or on the objects below a prefix.
pub(super) struct Call<'a> {
    pub url: &'a str,
    pub key: &'a str,
    pub doing: Doing,
    /// Bytes that are sent or received.
    pub size: u64,
    pub attempts: Attempts,
}

impl Call<'_> {
    /// Adds which operation failed.
    pub fn error(&self, source: S3Error) -> StoreError {
        StoreError::S3 { url: self.url.to_owned(), key: self.key.to_owned(), doing: self.doing, source }
    }

    pub fn wrong(&self, what: impl Into<String>) -> StoreError {
        self.error(S3Error::Reply { what: what.into() })
    }

    /// Fails if all attempts to move `size` bytes together take too long.
    pub async fn within<T>(
        &self,
        size: u64,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = ATTEMPTS_IN_TOTAL * attempt(size);
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let (attempts, last) = (self.attempts.count(), self.attempts.last());
            Err(self.error(S3Error::TimedOut { seconds: limit.as_secs(), attempts, last }))
        })
    }

    /// The SDK's timeouts for one attempt.
    pub fn limits(&self, size: u64) -> Builder {
        let limits = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(attempt(size)).build();
        Builder::new().timeout_config(limits)
    }
}

fn attempt(size: u64) -> Duration {
    ATTEMPT + PER_MIB * u32::try_from(size >> 20).unwrap_or(u32::MAX / 64)
}

/// Sends a request of the SDK. An error names `$action`, the permission that the request needs.
macro_rules! send {
    ($call:expr, $action:expr, $request:expr) => {
        send!($call, $action, $call.size, $request)
    };
    ($call:expr, $action:expr, $size:expr, $request:expr) => {
        $request
            .customize()
            .interceptor($call.attempts.clone())
            .config_override($call.limits($size))
            .send()
            .await
            .map_err(|e| $crate::store::s3::error::S3Error::new(&e, $action, $call.attempts.count()))
    };
}
pub(super) use send;

/// Counts the attempts of an operation and keeps the cause of the last failure.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempts(Arc<(AtomicU32, Mutex<Option<String>>)>);

impl Attempts {
    pub fn count(&self) -> u32 {
        self.0.0.load(Relaxed)
    }

    fn last(&self) -> Option<String> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "Attempts"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.0.fetch_add(1, Relaxed);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error() {
            let why = match (context.response(), error.as_connector_error()) {
                (Some(response), _) => format!("the last one was answered with {}", response.status()),
                (None, Some(error)) => deepest(error),
                (None, None) => "the last one was not answered".to_owned(),
            };
            *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        Ok(())
    }
}

/// Retry rules beside the SDK's own.
#[derive(Debug)]
pub(super) struct Retries;

impl ClassifyRetry for Retries {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let status = context.response().map(|response| response.status().as_u16());
        let error = context.output_or_error().and_then(Result::err);
        match (status, error) {
            (Some(429), _) => RetryAction::throttling_error(),
            // ConditionalRequestConflict, OperationAborted: a concurrent request on the same object.
            (Some(409), _) => RetryAction::transient_error(),
            (None, Some(error)) if error.as_connector_error().is_some_and(|e| super::error::is_tls(e)) => {
                RetryAction::RetryForbidden
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Retries"
    }

    /// Runs first, because a forbidden retry is final.
    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_before(RetryClassifierPriority::http_status_code_classifier())
    }
}
