//! Large objects, in parts. A failed upload is aborted, so that its parts cost nothing.

use std::time::Duration;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::Bucket;
use super::call::{Call, send};
use super::error::S3Error;
use super::put::{Condition, PUT, WRITTEN_BY};
use crate::store::error::Doing;
use crate::store::{PutMode, StoreError};

const PART: usize = 8 << 20;
/// S3's limit of parts in an object.
const MAX_PARTS: usize = 10_000;
const AT_ONCE: usize = 4;
/// How often an upload is started if the server forgets it.
const UPLOADS: usize = 3;
const ABORT: Duration = Duration::from_secs(10);

impl Bucket {
    /// The outer error is final. The inner one is the server's answer to the conditional end of the upload.
    pub(super) async fn put_parts(
        &self,
        call: &Call<'_>,
        data: &Bytes,
        mode: &PutMode,
        writer: &str,
    ) -> Result<Result<(), S3Error>, StoreError> {
        let mut uploads = 1;
        loop {
            let id = call.within(0, self.begin(call, writer)).await?;
            let result = call.within(call.size, self.upload(call, &id, data, mode)).await;
            if !matches!(result, Ok(Ok(()))) {
                self.abort(call, &id).await;
            }
            match result {
                // The upload is gone, and its completion is not the reason. AWS asks for a new one after a
                // conflict with another request.
                Ok(Err(S3Error::Refused { status: 404 | 409, .. }))
                    if uploads < UPLOADS && !self.is_by(call.key, writer).await? =>
                {
                    uploads += 1;
                }
                result => return result,
            }
        }
    }

    async fn begin(&self, call: &Call<'_>, writer: &str) -> Result<String, StoreError> {
        let request = self.client.create_multipart_upload().bucket(&self.name).key(self.full(call.key));
        let reply = send!(call, PUT, 0, request.metadata(WRITTEN_BY, writer)).map_err(|e| call.error(e))?;
        reply.upload_id.ok_or_else(|| call.wrong("it names no upload"))
    }

    async fn upload(
        &self,
        call: &Call<'_>,
        id: &str,
        data: &Bytes,
        mode: &PutMode,
    ) -> Result<Result<(), S3Error>, StoreError> {
        let parts = self.parts(call, id, data).await?;
        let condition = Condition::from(mode);
        let request = self.client.complete_multipart_upload().bucket(&self.name).key(self.full(call.key)).upload_id(id);
        let request = request.set_if_none_match(condition.none_match).set_if_match(condition.matches);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        Ok(send!(call, PUT, request.multipart_upload(parts)).map(drop))
    }

    async fn parts(&self, call: &Call<'_>, id: &str, data: &Bytes) -> Result<Vec<CompletedPart>, StoreError> {
        let size = PART.max(data.len().div_ceil(MAX_PARTS));
        let mut rest = (1..).zip((0..data.len()).step_by(size));
        let mut running = JoinSet::new();
        let mut parts = Vec::new();
        loop {
            while running.len() < AT_ONCE
                && let Some((number, at)) = rest.next()
            {
                let piece = data.slice(at..data.len().min(at + size));
                running.spawn(self.clone().part(call.key.to_owned(), id.to_owned(), number, piece));
            }
            match running.join_next().await {
                None => break,
                Some(Ok(part)) => parts.push(part?),
                Some(Err(e)) => std::panic::resume_unwind(e.into_panic()),
            }
        }
        parts.sort_by_key(|part: &CompletedPart| part.part_number);
        Ok(parts)
    }

    async fn part(self, key: String, id: String, number: i32, data: Bytes) -> Result<CompletedPart, StoreError> {
        let call = self.call(&key, Doing::Write, data.len() as u64);
        let request = self.client.upload_part().bucket(&self.name).key(self.full(&key)).upload_id(id);
        let request = request.part_number(number).body(data.into());
        let reply = send!(call, PUT, request).map_err(|e| call.error(e))?;
        let tag = reply.e_tag.ok_or_else(|| call.wrong("it has no ETag"))?;
        Ok(CompletedPart::builder().part_number(number).e_tag(tag).build())
    }

    /// If this fails too, [`clean`](crate::store::Store::clean) removes the parts later.
    async fn abort(&self, call: &Call<'_>, id: &str) {
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(self.full(call.key)).upload_id(id);
        let _ = tokio::time::timeout(ABORT, request.send()).await;
    }
}
