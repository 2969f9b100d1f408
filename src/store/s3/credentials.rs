//! Credentials from the SDK's chain, which may run a program to get them. During an unprivileged restore that
//! program would take a PID that CRIU needs, so [`Remembered::close`] stops asking the chain.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

/// Credentials that expire sooner than this are renewed before a restore. Most restores take less.
const RESTORE: Duration = Duration::from_secs(300);

const NONE_BEFORE: &str = "none were found before the restore, and no credential program may start during it";

/// Asks the chain until it is closed, and then returns the last credentials. Without any it refuses.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    chain: SharedCredentialsProvider,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Credentials>,
    /// The chain must not be asked.
    closed: bool,
}

impl Remembered {
    /// Does not ask the chain yet.
    pub fn new(chain: SharedCredentialsProvider) -> Self {
        Self { chain, state: Arc::default() }
    }

    /// Renews credentials that expire soon, and never asks the chain again. When this returns, nothing that
    /// the chain started still runs.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        if state.last.as_ref().is_none_or(ends_soon)
            && let Ok(new) = self.chain.provide_credentials().await
        {
            state.last = Some(new);
        }
        state.closed = true;
    }

    async fn provide(&self) -> provider::Result {
        let mut state = self.state.lock().await;
        match &state.last {
            Some(last) if state.closed => Ok(last.clone()),
            None if state.closed => Err(CredentialsError::not_loaded(NONE_BEFORE)),
            _ => Ok(state.last.insert(self.chain.provide_credentials().await?).clone()),
        }
    }
}

impl ProvideCredentials for Remembered {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.provide())
    }
}

fn ends_soon(credentials: &Credentials) -> bool {
    credentials.expiry().is_some_and(|end| end < SystemTime::now() + RESTORE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[derive(Debug)]
    struct Empty;

    impl ProvideCredentials for Empty {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("the chain was asked")))
        }
    }

    #[test]
    fn a_chain_without_credentials_is_closed_too() {
        let remembered = Remembered::new(SharedCredentialsProvider::new(Empty));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let said = || {
            let error = runtime.block_on(remembered.provide_credentials()).unwrap_err();
            std::error::Error::source(&error).unwrap().to_string()
        };
        assert_eq!(said(), "the chain was asked");
        runtime.block_on(remembered.close());
        assert_eq!(said(), "none were found before the restore, and no credential program may start during it");
    }

    /// Gives credentials that expire in this number of seconds, if at all, and counts the calls.
    #[derive(Debug)]
    struct Chain(Option<u64>, Arc<AtomicU64>);

    impl ProvideCredentials for Chain {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let number = self.1.fetch_add(1, Relaxed);
            let end = self.0.map(|seconds| SystemTime::now() + Duration::from_secs(seconds));
            future::ProvideCredentials::ready(Ok(Credentials::new(number.to_string(), "secret", None, end, "test")))
        }
    }

    /// How often the chain was asked, and the credentials returned, after these calls: `p` provides, `c`
    /// closes.
    fn asked(ends: Option<u64>, calls: &str) -> (u64, Vec<String>) {
        let count = Arc::new(AtomicU64::new(0));
        let remembered = Remembered::new(SharedCredentialsProvider::new(Chain(ends, count.clone())));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut given = Vec::new();
        for call in calls.chars() {
            match call {
                'p' => {
                    given.push(runtime.block_on(remembered.provide_credentials()).unwrap().access_key_id().to_owned())
                }
                _ => runtime.block_on(remembered.close()),
            }
        }
        (count.load(Relaxed), given)
    }

    #[test]
    fn the_chain_is_asked_until_it_must_not_be() {
        let given = |numbers: &[&str]| numbers.iter().map(ToString::to_string).collect();
        assert_eq!(asked(Some(5), "ppp"), (3, given(&["0", "1", "2"])));
        // Credentials that last are kept; the others are renewed while there is time.
        assert_eq!(asked(Some(3600), "pcpp"), (1, given(&["0", "0", "0"])));
        assert_eq!(asked(None, "pcpp"), (1, given(&["0", "0", "0"])));
        assert_eq!(asked(Some(5), "pcpp"), (2, given(&["0", "1", "1"])));
        assert_eq!(asked(Some(5), "cp"), (1, given(&["0"])));
    }
}
