//! Reads whole objects up to a limit, or exactly a range. A body that breaks off is requested again.

use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;

use super::Bucket;
use super::call::{Call, send};
use super::error::{S3Error, deepest};
use crate::store::error::Doing;
use crate::store::{StoreError, Version};

/// Without s3:ListBucket a server answers "denied" for a missing object.
const GET: &str = "s3:GetObject on this key, and s3:ListBucket on the bucket,";
/// How often a body may stall or be cut short before that is an error.
const BODIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

impl Bucket {
    pub(super) async fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        let call = self.call(key, Doing::Read, 0);
        self.again(&call, async || {
            let reply = call.within(0, self.request(&call, None)).await?;
            let size = length(&call, &reply)?;
            if let Some(size) = size.filter(|size| *size > limit) {
                return Err(StoreError::TooLarge { url: self.url.clone(), key: key.to_owned(), size, limit });
            }
            let version = Version(reply.e_tag.ok_or_else(|| call.wrong("it has no ETag"))?);
            let data = call.within(size.unwrap_or(limit), async { Ok(body(reply.body, size, limit).await) }).await?;
            Ok(data.map(|data| (data, version)))
        })
        .await
    }

    pub(super) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let call = self.call(key, Doing::Read, range.end.saturating_sub(range.start));
        if range.is_empty() {
            let size = call.within(0, self.size(&call)).await?;
            let is_inside = range.start == range.end && range.end <= size;
            return if is_inside { Ok(Vec::new()) } else { Err(self.out_of(&call, range, size)) };
        }
        call.within(call.size, self.again(&call, async || self.range(&call, range.clone()).await)).await
    }

    /// One attempt; the inner error is a body that broke off.
    async fn range(&self, call: &Call<'_>, range: Range<u64>) -> Result<Result<Vec<u8>, String>, StoreError> {
        let reply = match self.request(call, Some(format!("bytes={}-{}", range.start, range.end - 1))).await {
            Err(StoreError::S3 { source: S3Error::Refused { status: 416, .. }, .. }) => {
                let size = self.size(call).await?;
                return Err(self.out_of(call, range, size));
            }
            reply => reply?,
        };
        let given = reply.content_range.as_deref().and_then(parse_content_range);
        let Some((first, last, size)) = given else { return Err(call.wrong("it is not the requested range")) };
        if size < range.end {
            return Err(self.out_of(call, range, size));
        }
        if (first, last) != (range.start, range.end - 1) {
            return Err(call.wrong(format!("bytes {first} to {last} are not the requested bytes")));
        }
        Ok(body(reply.body, Some(range.end - range.start), range.end - range.start).await)
    }

    async fn request(&self, call: &Call<'_>, range: Option<String>) -> Result<GetObjectOutput, StoreError> {
        let request = self.client.get_object().bucket(&self.name).key(self.full(call.key)).set_range(range);
        send!(call, GET, 0, request).map_err(|e| self.missing(call, e))
    }

    /// The object's metadata; None if there is no object.
    pub(super) async fn head(&self, call: &Call<'_>) -> Result<Option<HeadObjectOutput>, StoreError> {
        let request = self.client.head_object().bucket(&self.name).key(self.full(call.key));
        match send!(call, GET, 0, request) {
            Err(S3Error::Refused { status: 404, .. }) => Ok(None),
            reply => reply.map(Some).map_err(|e| call.error(e)),
        }
    }

    async fn size(&self, call: &Call<'_>) -> Result<u64, StoreError> {
        let refused = || S3Error::Refused { status: 404, code: String::new(), said: String::new() };
        let head = self.head(call).await?.ok_or_else(|| self.missing(call, refused()))?;
        let size = head.content_length.and_then(|size| u64::try_from(size).ok());
        size.ok_or_else(|| call.wrong("it has no length"))
    }

    /// Repeats `attempt` until its body is complete.
    async fn again<T>(
        &self,
        call: &Call<'_>,
        attempt: impl AsyncFn() -> Result<Result<T, String>, StoreError>,
    ) -> Result<T, StoreError> {
        for pause in (1..BODIES).map(|n| PAUSE * n) {
            if let Ok(whole) = attempt().await? {
                return Ok(whole);
            }
            tokio::time::sleep(pause).await;
        }
        attempt().await?.map_err(|why| call.wrong(format!("its body broke off {BODIES} times ({why})")))
    }

    fn missing(&self, call: &Call<'_>, error: S3Error) -> StoreError {
        match error {
            S3Error::Refused { status: 404, .. } => {
                StoreError::NotFound { url: self.url.clone(), key: call.key.to_owned() }
            }
            error => call.error(error),
        }
    }

    fn out_of(&self, call: &Call<'_>, range: Range<u64>, size: u64) -> StoreError {
        StoreError::OutOfRange { url: self.url.clone(), key: call.key.to_owned(), range, size }
    }
}

fn length(call: &Call<'_>, reply: &GetObjectOutput) -> Result<Option<u64>, StoreError> {
    let length = reply.content_length.map(u64::try_from).transpose();
    length.map_err(|_| call.wrong("its length is negative"))
}

/// Reads a body of `size` bytes, or of at most `limit` if the size is unknown. The error says how it broke
/// off.
async fn body(mut body: ByteStream, size: Option<u64>, limit: u64) -> Result<Vec<u8>, String> {
    let limit = size.unwrap_or(limit);
    let mut data = Vec::with_capacity(size.unwrap_or(0) as usize);
    while let Some(piece) = body.try_next().await.map_err(|e| deepest(&e))? {
        if (data.len() + piece.len()) as u64 > limit {
            return Err(format!("more than {limit} bytes"));
        }
        data.extend_from_slice(&piece);
    }
    match size {
        Some(size) if size > data.len() as u64 => Err(format!("{} of {size} bytes", data.len())),
        _ => Ok(data),
    }
}

/// Parses first byte, last byte and size from `bytes 0-99/1000`.
fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_replies_are_understood() {
        assert_eq!(parse_content_range("bytes 0-99/1000"), Some((0, 99, 1000)));
        for text in ["", "bytes", "bytes */1000", "bytes 0-99", "bytes 0-99/*", "bytes -1-2/3", "0-99/1000"] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }
}
