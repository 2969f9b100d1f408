//! Tests with a small hidden object whether objects can be written and whether conditions are honoured.

use bytes::Bytes;

use super::Bucket;
use crate::store::{Fencing, PutMode, StoreError, Version};
use crate::sys::random;

/// Prefix of a probe's name. The dot hides it from [`list`](crate::store::Store::list).
pub(super) const PROBE: &str = ".probe-";
/// An ETag that no object has.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";

impl Bucket {
    /// Every caller has a probe of its own. One that others could remove would prove nothing.
    pub(super) async fn prepare(&self) -> Result<Fencing, StoreError> {
        let mut name = [0; 8];
        random::fill(&mut name);
        let key = format!("{PROBE}{:016x}", u64::from_ne_bytes(name));
        self.put(&key, Bytes::from_static(b"freeze"), &PutMode::Create).await?;
        let enforced = self.conditions_hold(&key).await;
        // A writer may lack the right to delete. The small object then stays until prune removes it.
        let _ = self.delete(&key).await;
        Ok(if enforced? { Fencing::Enforced } else { Fencing::Ignored })
    }

    async fn conditions_hold(&self, key: &str) -> Result<bool, StoreError> {
        let put = async |bucket: Bucket, key: String, mode: PutMode| match bucket
            .put(&key, Bytes::from_static(b"again"), &mode)
            .await
        {
            Ok(()) => Ok(false),
            Err(StoreError::Exists { .. } | StoreError::Changed { .. }) => Ok(true),
            Err(e) => Err(e),
        };
        let create = tokio::spawn(put(self.clone(), key.to_owned(), PutMode::Create));
        let update = put(self.clone(), key.to_owned(), PutMode::Update(Version(NO_VERSION.to_owned()))).await?;
        let create = create.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        Ok(create && update)
    }
}
