//! Lists and deletes objects, and removes unfinished ones.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::DateTime;

use super::Bucket;
use super::call::{Call, send};
use super::error::S3Error;
use super::probe::PROBE;
use crate::store::error::Doing;
use crate::store::{ObjectMeta, StoreError, key};

const LIST: &str = "s3:ListBucket on the bucket";
const LIST_UPLOADS: &str = "s3:ListBucketMultipartUploads on the bucket";
const ABORT: &str = "s3:AbortMultipartUpload";
const DELETE: &str = "s3:DeleteObject";

impl Bucket {
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = self.list_all(prefix).await?;
        found.retain(|object| key::check(&object.key).is_ok());
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Includes names that are not keys.
    async fn list_all(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let call = self.call(prefix, Doing::List, 0);
            let request = self.client.list_objects_v2().bucket(&self.name).prefix(self.full(prefix));
            let request = request.set_continuation_token(token.clone());
            let page = call.within(0, async { send!(call, LIST, request).map_err(|e| call.error(e)) }).await?;
            for object in page.contents() {
                found.extend(self.meta(&call, object)?);
            }
            match page.next_continuation_token {
                Some(next) if page.is_truncated == Some(true) && token.as_ref() != Some(&next) => token = Some(next),
                _ if page.is_truncated == Some(true) => {
                    return Err(call.wrong("it says that there are more objects, but not where they begin"));
                }
                _ => return Ok(found),
            }
        }
    }

    /// None for an object that is not below our prefix.
    fn meta(&self, call: &Call<'_>, object: &aws_sdk_s3::types::Object) -> Result<Option<ObjectMeta>, StoreError> {
        let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.prefix)) else { return Ok(None) };
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        match (size, time(object.last_modified())) {
            (Some(size), Some(modified)) => Ok(Some(ObjectMeta { key: key.to_owned(), size, modified })),
            _ => Err(call.wrong(format!("it lists {key:?} without size or time"))),
        }
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let call = self.call(key, Doing::Delete, 0);
        let request = self.client.delete_object().bucket(&self.name).key(self.full(key));
        call.within(0, async {
            match send!(call, DELETE, request) {
                Err(S3Error::Refused { status: 404, .. }) => Ok(()),
                reply => reply.map(drop).map_err(|e| call.error(e)),
            }
        })
        .await
    }

    /// Removes probes and unfinished uploads that began at least `older_than` ago. Returns how many.
    pub(super) async fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        let now = SystemTime::now();
        let is_old = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age >= older_than);
        let mut removed = 0;
        for probe in self.list_all(PROBE).await?.iter().filter(|object| is_old(object.modified)) {
            self.delete(&probe.key).await?;
            removed += 1;
        }
        for (key, id, begun) in self.uploads().await? {
            if begun.is_some_and(is_old) {
                self.abort_old(&key, &id).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Key, upload ID and start of every unfinished upload below our prefix.
    async fn uploads(&self) -> Result<Vec<(String, String, Option<SystemTime>)>, StoreError> {
        let mut found = Vec::new();
        let mut after: Option<(String, String)> = None;
        loop {
            let call = self.call("incomplete uploads", Doing::List, 0);
            let (key, id) = after.clone().unzip();
            let request = self.client.list_multipart_uploads().bucket(&self.name).prefix(&self.prefix);
            let request = request.set_key_marker(key).set_upload_id_marker(id);
            let page = call.within(0, async { send!(call, LIST_UPLOADS, request).map_err(|e| call.error(e)) }).await?;
            for upload in page.uploads() {
                let key = upload.key().and_then(|key| key.strip_prefix(&self.prefix));
                if let (Some(key), Some(id)) = (key, upload.upload_id()) {
                    found.push((key.to_owned(), id.to_owned(), time(upload.initiated())));
                }
            }
            let next = page.next_key_marker.zip(page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next.is_none() || next == after {
                return Ok(found);
            }
            after = next;
        }
    }

    async fn abort_old(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let call = self.call(key, Doing::Delete, 0);
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(self.full(key)).upload_id(id);
        call.within(0, async {
            match send!(call, ABORT, request) {
                Err(S3Error::Refused { status: 404, .. }) => Ok(()),
                reply => reply.map(drop).map_err(|e| call.error(e)),
            }
        })
        .await
    }
}

fn time(time: Option<&DateTime>) -> Option<SystemTime> {
    time.and_then(|time| SystemTime::try_from(*time).ok())
}
