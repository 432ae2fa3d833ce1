//! Checks that the certificates on disk are complete: readable, matching, ours, and valid tomorrow.
//!
//! Uses the verifiers of a TLS client with their clock one day ahead, so that a set that passes
//! here also passes a handshake.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::{CertificateFiles, DevelopmentCertificates, files, issue};

/// Remaining validity below which a set is replaced.
const HEADROOM: Duration = Duration::from_hours(24);

pub(super) fn is_good(set: &DevelopmentCertificates) -> bool {
    set.paths().all(|path| path.exists() && files::refuse_foreign(path).is_ok())
        && every_pair_verifies(set).is_some()
}

/// Returns `None` at the first fault. Its kind does not matter, because every fault leads to a new
/// set.
fn every_pair_verifies(set: &DevelopmentCertificates) -> Option<()> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&set.ca).ok()?).ok()?;
    let roots = Arc::new(roots);
    let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .ok()?;
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let tomorrow = UnixTime::since_unix_epoch(now + HEADROOM);

    let served = [
        (&set.gateway, issue::GATEWAY_NAMES),
        (&set.gateway_rsa, issue::GATEWAY_NAMES),
        (&set.components, issue::COMPONENT_NAMES),
    ];
    for (pair, names) in served {
        let chain = load(pair, &provider)?;
        let (leaf, issuers) = chain.split_first()?;
        // A wildcard is not a server name, and the other names cover it.
        for name in names.iter().filter(|name| !name.starts_with('*')) {
            let name = ServerName::try_from(*name).ok()?;
            servers.verify_server_cert(leaf, issuers, &name, &[], tomorrow).ok()?;
        }
    }
    let chain = load(&set.client, &provider)?;
    let (leaf, issuers) = chain.split_first()?;
    clients.verify_client_cert(leaf, issuers, tomorrow).ok()?;
    Some(())
}

/// The chain of a pair whose key is the key of its first certificate.
fn load(
    pair: &CertificateFiles,
    provider: &CryptoProvider,
) -> Option<Vec<CertificateDer<'static>>> {
    let chain = read_chain(&pair.chain)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).ok()?;
    let identity = CertifiedKey::from_der(chain, key, provider).ok()?;
    identity.keys_match().ok()?;
    Some(identity.cert)
}

fn read_chain(path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).ok()?.collect::<Result<_, _>>().ok()
}
