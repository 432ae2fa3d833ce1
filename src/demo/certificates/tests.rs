use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn contents(set: &DevelopmentCertificates) -> Vec<Vec<u8>> {
    set.paths().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn a_valid_set_is_left_untouched() {
    let world = tempfile::tempdir().unwrap();
    let first = ensure(world.path()).unwrap();
    let written = contents(&first);
    assert_eq!(ensure(world.path()).unwrap(), first);
    assert_eq!(contents(&first), written);
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let world = tempfile::tempdir().unwrap();
    let set = ensure(world.path()).unwrap();
    for pair in [&set.gateway, &set.gateway_rsa, &set.components, &set.client] {
        let mode = fs::metadata(&pair.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", pair.key.display());
    }
}

#[test]
fn the_key_of_the_authority_is_not_kept() {
    let world = tempfile::tempdir().unwrap();
    let set = ensure(world.path()).unwrap();
    assert!(set.ca.exists());
    assert!(!world.path().join("ca.key").exists());
}

#[test]
fn an_incomplete_set_is_replaced() {
    let world = tempfile::tempdir().unwrap();
    let set = ensure(world.path()).unwrap();
    let before = contents(&set);

    fs::remove_file(&set.components.chain).unwrap();
    ensure(world.path()).unwrap();
    assert_ne!(contents(&set)[0], before[0], "a new authority");
    assert!(check::is_good(&set));

    fs::copy(&set.client.key, &set.gateway.key).unwrap();
    assert!(!check::is_good(&set), "a key that is not its certificate's");
    ensure(world.path()).unwrap();
    assert!(check::is_good(&set));

    let chain = fs::read(&set.gateway.chain).unwrap();
    fs::write(&set.gateway.chain, &chain[..chain.len() / 4]).unwrap();
    fs::write(&set.ca, "").unwrap();
    ensure(world.path()).unwrap();
    assert!(check::is_good(&set));
}

#[test]
fn foreign_files_are_not_overwritten() {
    for name in ["gateway.crt", "gateway.key", "ca.crt"] {
        let world = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let foreign = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let foreign = foreign.self_signed(&key).unwrap().pem();
        let text = if name.ends_with("key") { key.serialize_pem() } else { foreign };
        let path = world.path().join(name);
        fs::write(&path, &text).unwrap();

        let refused = ensure(world.path()).unwrap_err();

        assert!(
            matches!(&refused, DevelopmentCertificateError::Foreign { path: named } if *named == path),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let left = fs::read_dir(world.path()).unwrap().count();
        assert_eq!(left, 2, "nothing but the foreign file and the lock");
    }
}

#[test]
fn every_certificate_is_marked_as_a_development_certificate() {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};

    let world = tempfile::tempdir().unwrap();
    let set = ensure(world.path()).unwrap();
    let chains = set.paths().filter(|path| path.extension().is_some_and(|e| e == "crt"));
    for path in chains {
        for der in CertificateDer::pem_file_iter(path).unwrap() {
            let der = der.unwrap();
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            let named: Vec<_> = certificate.subject().iter_organization().collect();
            assert_eq!(named.len(), 1);
            assert_eq!(named[0].as_str().unwrap(), DEVELOPMENT_ORGANIZATION);
        }
    }
}
