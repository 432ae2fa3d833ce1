//! Issues the set: an authority and four certificates under it, and then discards the authority's
//! key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SignatureAlgorithm, date_time_ymd,
};

use super::files::{self, FileReaders};
use super::{
    CertificateFiles, DEVELOPMENT_ORGANIZATION, DevelopmentCertificateError,
    DevelopmentCertificates,
};

/// Names of the gateway on a development machine. Browsers reject a wildcard directly below
/// `localhost`, hence the name beside it.
pub(super) const GATEWAY_NAMES: &[&str] =
    &["hybrid-chat.localhost", "localhost", "*.localhost", "127.0.0.1", "::1"];

/// Names of the components: two sites on loopback, and the name that the gateway verifies.
pub(super) const COMPONENT_NAMES: &[&str] =
    &["hybrid-chat.internal", "localhost", "127.0.0.2", "127.0.0.3"];

const CLIENT_NAMES: &[&str] = &["client.localhost"];

/// Backdated, for machines whose clocks disagree by minutes.
const BACKDATED: Duration = Duration::from_hours(1);
const LIFETIME: Duration = Duration::from_hours(30 * 24);

/// Writes a new set, and replaces existing files.
pub(super) fn issue(set: &DevelopmentCertificates) -> Result<(), DevelopmentCertificateError> {
    let authority = authority()?;
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let identities = [
        (&set.gateway, GATEWAY_NAMES, &PKCS_ECDSA_P256_SHA256, server.clone()),
        (&set.gateway_rsa, GATEWAY_NAMES, &PKCS_RSA_SHA256, server.clone()),
        (&set.components, COMPONENT_NAMES, &PKCS_ECDSA_P256_SHA256, server),
        (&set.client, CLIENT_NAMES, &PKCS_ECDSA_P256_SHA256, client),
    ];
    for (pair, names, algorithm, purpose) in identities {
        let mut params = leaf(names, purpose)?;
        if std::ptr::eq(algorithm, &raw const PKCS_RSA_SHA256) {
            // Suites without ephemeral keys are disabled, but some old clients check for this bit.
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        write_pair(pair, &params, algorithm, &authority)?;
    }
    files::write(&set.ca, &authority.pem(), FileReaders::Anyone)
}

fn write_pair(
    pair: &CertificateFiles,
    params: &CertificateParams,
    algorithm: &'static SignatureAlgorithm,
    authority: &CertifiedIssuer<'_, KeyPair>,
) -> Result<(), DevelopmentCertificateError> {
    let key = KeyPair::generate_for(algorithm)?;
    let certificate = params.signed_by(&key, authority)?;
    let chain = format!("{}{}", certificate.pem(), authority.pem());
    files::write(&pair.key, &key.serialize_pem(), FileReaders::Owner)?;
    files::write(&pair.chain, &chain, FileReaders::Anyone)
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, DevelopmentCertificateError> {
    let mut params = dated();
    params.distinguished_name = subject("app-gateway development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn leaf(
    names: &[&str],
    purpose: ExtendedKeyUsagePurpose,
) -> Result<CertificateParams, DevelopmentCertificateError> {
    let alternatives: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = dated();
    params.subject_alt_names = CertificateParams::new(alternatives)?.subject_alt_names;
    params.distinguished_name = subject(names.first().copied().unwrap_or_default());
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    Ok(params)
}

fn dated() -> CertificateParams {
    // The epoch plus a duration, which avoids a dependency on a date library.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + LIFETIME;
    params
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, DEVELOPMENT_ORGANIZATION);
    name.push(DnType::CommonName, common_name);
    name
}
