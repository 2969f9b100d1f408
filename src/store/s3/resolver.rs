//! Name resolution without getaddrinfo(3), which would load NSS modules into a static executable and needs a
//! thread for each call.

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// Resolves by `/etc/hosts` and `/etc/resolv.conf`, as they were at its creation.
#[derive(Clone)]
pub(super) struct Resolver(TokioResolver);

impl Resolver {
    /// Without a usable `/etc/resolv.conf` only `/etc/hosts` counts, as in an empty image whose endpoint is
    /// an address.
    pub fn new() -> Result<Self, String> {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
            let none = ResolverConfig::from_name_servers(Vec::new());
            TokioResolver::builder_with_config(none, TokioRuntimeProvider::default())
        });
        builder.build().map(Self).map_err(|e| e.to_string())
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            match self.0.lookup_ip(name).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(e) if e.is_no_records_found() => Err(ResolveDnsError::new(format!("{name} has no address"))),
                Err(e) => Err(ResolveDnsError::new(format!("{name}: {e}"))),
            }
        })
    }
}
