//! Trusted certificates: the system's, or Mozilla's if the image has none, and those that the user names.

use std::path::{Path, PathBuf};

use aws_smithy_http_client::tls::TrustStore;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::store::{Location, StoreError};

/// All trusted certificates. The user's file is checked here, because the SDK would panic.
pub(super) fn roots(location: &Location) -> Result<TrustStore, StoreError> {
    let mut store = match rustls_native_certs::load_native_certs().certs.is_empty() {
        false => TrustStore::empty().with_native_roots(true),
        true => TrustStore::empty().with_pem_certificate(mozilla()),
    };
    if let Some((option, path)) = named(location) {
        let bad = |why: String| StoreError::BadOption { option, value: path.display().to_string(), why };
        let pem = std::fs::read(&path).map_err(|e| bad(e.to_string()))?;
        check(&pem).map_err(bad)?;
        store.add_pem_certificate(pem);
    }
    Ok(store)
}

fn named(location: &Location) -> Option<(&'static str, PathBuf)> {
    let option = location.s3_ca_file.clone().map(|path| ("--s3-ca-file", path));
    let given = option.or_else(|| Some(("AWS_CA_BUNDLE", std::env::var_os("AWS_CA_BUNDLE")?.into())));
    given.filter(|(_, path)| path != Path::new(""))
}

fn check(pem: &[u8]) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    if store.is_empty() { Err("it contains no PEM certificate".to_owned()) } else { Ok(()) }
}

/// Mozilla's built-in roots, in PEM.
fn mozilla() -> Vec<u8> {
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let text = aws_smithy_types::base64::encode(certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for at in (0..text.len()).step_by(64) {
            pem.push_str(&text[at..text.len().min(at + 64)]);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_that_are_built_in_can_be_read() {
        check(&mozilla()).unwrap();
        let count = CertificateDer::pem_slice_iter(&mozilla()).count();
        assert!(count > 100, "{count}");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, expected) in [(None, "No such file"), (Some(""), "no PEM certificate"), (Some(broken), "")] {
            text.into_iter().for_each(|text| std::fs::write(&file, text).unwrap());
            let location = Location { s3_ca_file: Some(file.clone()), ..Location::at("s3://bucket") };
            let error = roots(&location).expect_err("it must be refused");
            assert!(matches!(error, StoreError::BadOption { option: "--s3-ca-file", .. }));
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
