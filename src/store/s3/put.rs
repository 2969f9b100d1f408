//! Conditional writes. A lost reply never makes a writer's own object look like another writer's.

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::Bucket;
use super::call::{Call, send};
use super::error::S3Error;
use crate::store::error::Doing;
use crate::store::{PutMode, StoreError};
use crate::sys::random;

/// Larger objects are written in parts, so that a broken connection costs little.
const LARGEST_WHOLE: usize = 16 << 20;
/// Metadata of every object: a random value by which a writer recognises its own.
pub(super) const WRITTEN_BY: &str = "freeze-write";
pub(super) const PUT: &str = "s3:PutObject";

/// A put's condition on the existing object, as the headers If-None-Match and If-Match.
pub(super) struct Condition {
    pub none_match: Option<String>,
    pub matches: Option<String>,
}

impl From<&PutMode> for Condition {
    fn from(mode: &PutMode) -> Self {
        match mode {
            PutMode::Overwrite => Self { none_match: None, matches: None },
            PutMode::Create => Self { none_match: Some("*".to_owned()), matches: None },
            PutMode::Update(version) => Self { none_match: None, matches: Some(version.0.clone()) },
        }
    }
}

impl Bucket {
    pub(super) async fn put(&self, key: &str, data: Bytes, mode: &PutMode) -> Result<(), StoreError> {
        let call = self.call(key, Doing::Write, data.len() as u64);
        let writer = random_name();
        let result = if data.len() > LARGEST_WHOLE {
            self.put_parts(&call, &data, mode, &writer).await?
        } else {
            call.within(call.size, async { Ok(self.put_whole(&call, data.clone(), mode, &writer).await) }).await?
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.explain(&call, error, mode, &writer).await,
        }
    }

    async fn put_whole(&self, call: &Call<'_>, data: Bytes, mode: &PutMode, writer: &str) -> Result<(), S3Error> {
        let condition = Condition::from(mode);
        let request = self.client.put_object().bucket(&self.name).key(self.full(call.key));
        let request = request.set_if_none_match(condition.none_match).set_if_match(condition.matches);
        let request = request.metadata(WRITTEN_BY, writer).body(ByteStream::from(data));
        send!(call, PUT, request).map(drop)
    }

    /// If a condition fails after several attempts, the first may have succeeded and its reply was lost.
    async fn explain(&self, call: &Call<'_>, error: S3Error, mode: &PutMode, writer: &str) -> Result<(), StoreError> {
        let (url, key) = (self.url.clone(), call.key.to_owned());
        let S3Error::Refused { status: 412 | 404, .. } = &error else { return Err(call.error(error)) };
        if call.attempts.count() > 1 && self.is_by(call.key, writer).await? {
            return Ok(());
        }
        match (mode, &error) {
            (PutMode::Create, S3Error::Refused { status: 412, .. }) => Err(StoreError::Exists { url, key }),
            (PutMode::Update(_), _) => Err(StoreError::Changed { url, key }),
            _ => Err(call.error(error)),
        }
    }

    /// Whether `writer` wrote the object.
    pub(super) async fn is_by(&self, key: &str, writer: &str) -> Result<bool, StoreError> {
        let call = self.call(key, Doing::Read, 0);
        let head = self.head(&call).await?;
        Ok(head.is_some_and(|head| head.metadata().and_then(|m| m.get(WRITTEN_BY)).is_some_and(|by| by == writer)))
    }
}

fn random_name() -> String {
    let mut name = [0; 16];
    random::fill(&mut name);
    format!("{:032x}", u128::from_ne_bytes(name))
}
