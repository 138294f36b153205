//! Mistakes in the files.

use super::*;

#[test]
fn every_mistake_in_the_files_is_reported_at_once() {
    let ours = Authority::new(&domain("example.org")).unwrap();
    let theirs = Authority::new(&domain("partner.test")).unwrap();
    let issued = ours.issue(&id("spiffe://example.org/gate"), hour()).unwrap();
    let other = ours.issue(&id("spiffe://example.org/gate"), hour()).unwrap();
    let mixed = Issued { certificate_pem: issued.certificate_pem.clone(), key_pem: other.key_pem };
    let bundle = ours.ca_pem();

    let mut files = Files::new("Example.org", &mixed, &[("B", bundle), ("b.test", ""), ("c.test", &issued.certificate_pem)]);
    let Source::Files(paths) = &mut files.config.source else { panic!("it reads files") };
    paths.bundles.insert("a.test".to_owned(), "/nonexistent/bundle.pem".into());
    let errors = files.errors();
    for (error, words) in errors.iter().zip([
        "`Example.org` is not a trust domain",
        "/svid.key: is not the key of /svid.pem",
        "`B` is not a trust domain",
        "/nonexistent/bundle.pem: cannot be read",
        "/b.test.pem: holds no CA certificate",
        "/c.test.pem: certificate 1 is not a CA",
    ]) {
        assert!(error.starts_with(words), "{error}");
    }
    assert_eq!(errors.len(), 6, "{errors:?}");

    let expired =
        ours.issue(&id("spiffe://example.org/gate"), Lifetime { not_before: now() - HOUR, not_after: now() - 1 }).unwrap();
    let broken = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n".to_owned();
    let cut_off = Issued { certificate_pem: issued.certificate_pem.clone(), key_pem: broken };
    let empty = Issued { certificate_pem: String::new(), key_pem: String::new() };
    for (files, words) in [
        (Files::new("example.org", &issued, &[]), vec!["there is no bundle for our own trust domain example.org"]),
        (
            Files::new("example.org", &issued, &[("example.org", theirs.ca_pem())]),
            vec!["/svid.pem: peers would refuse our own SVID: no CA"],
        ),
        (
            Files::new("example.org", &expired, &[("example.org", bundle)]),
            vec!["/svid.pem: peers would refuse our own SVID: the certificate"],
        ),
        (
            Files::new("partner.test", &issued, &[("partner.test", bundle)]),
            vec!["/svid.pem: is an SVID of trust domain example.org"],
        ),
        (Files::new("example.org", &cut_off, &[("example.org", bundle)]), vec!["/svid.key: is not PEM"]),
        (
            Files::new("example.org", &empty, &[("example.org", bundle)]),
            vec!["/svid.pem: holds no certificate", "/svid.key: holds no private key"],
        ),
    ] {
        let errors = files.errors();
        assert_eq!(errors.len(), words.len(), "{errors:?}");
        assert!(errors.iter().zip(&words).all(|(error, words)| error.starts_with(words)), "{errors:?}");
        assert!(!errors.concat().contains("c2VjcmV0"));
    }
}

#[test]
fn unwise_files_are_warned_about_and_no_key_is_ever_printed() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new(&domain("example.org")).unwrap();
    let issued = authority.issue(&id("spiffe://example.org/gate"), hour()).unwrap();
    let files = Files::new("example.org", &issued, &[("example.org", authority.ca_pem()), ("partner.test", authority.ca_pem())]);
    let key = files.directory.path().join("svid.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let identity = files.load();
    let shared = IdentityWarning::SharedAuthority { first: domain("example.org"), second: domain("partner.test") };
    assert_eq!(identity.warnings(), [IdentityWarning::ReadableKey { file: key, mode: 0o640 }, shared]);
    let printed = format!("{identity:?} {:?}", Holder::new(identity.clone()));
    assert!(printed.contains("spiffe_id") && !printed.contains("key"), "{printed}");
}
