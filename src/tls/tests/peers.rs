//! Which certificate makes a peer, and which does not.

use super::*;

#[test]
fn a_peer_is_known_by_its_svid() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let issued = authority.issue_local(&agent(), hour()).unwrap();
    let peer = meet(&own_gate(&authority), rules(), &issued).unwrap();
    assert_eq!(peer.spiffe_id, agent());
    assert_eq!(peer.lifetime_seconds, HOUR);
    assert!(peer.not_before <= now() && now() < peer.not_after);
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    assert_eq!(*peer.chain, *std::slice::from_ref(&der));
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(peer.serial.trim_start_matches('0'), parsed.tbs_certificate.serial.to_str_radix(16));
    assert_eq!(peer.sha256.len(), 64);
    assert!(!peer.sha256.contains(|c: char| !c.is_ascii_digit() && !('a'..='f').contains(&c)));
}

#[test]
fn every_wrong_leaf_is_refused_with_its_own_reason() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let one_uri = |text: &'static str| move |leaf: &mut CertificateParams| leaf.subject_alt_names = vec![uri(text)];
    let extension = |oid: &[u64], critical: bool, content: &[u8]| {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        extension
    };
    let key_usage = [2, 5, 29, 15];
    let subject_alt_name = [2, 5, 29, 17];
    type Break<'a> = Box<dyn Fn(&mut CertificateParams) + 'a>;
    let table: Vec<(&str, Break<'_>, SvidFault)> = vec![
        ("no SAN at all", Box::new(|leaf| leaf.subject_alt_names.clear()), SvidFault::UriNames(0)),
        (
            "a DNS name only",
            Box::new(|leaf| leaf.subject_alt_names = vec![SanType::DnsName("a.b".try_into().unwrap())]),
            SvidFault::UriNames(0),
        ),
        (
            "two SPIFFE IDs",
            Box::new(|leaf| leaf.subject_alt_names.push(uri("spiffe://example.org/ops/bob"))),
            SvidFault::UriNames(2),
        ),
        (
            "a second URI of another scheme",
            Box::new(|leaf| leaf.subject_alt_names.push(uri("https://example.org"))),
            SvidFault::UriNames(2),
        ),
        ("another scheme", Box::new(one_uri("https://example.org/a")), SvidFault::SpiffeId),
        ("no path", Box::new(one_uri("spiffe://example.org")), SvidFault::NoPath),
        ("a root path", Box::new(one_uri("spiffe://example.org/")), SvidFault::SpiffeId),
        ("an upper-case scheme", Box::new(one_uri("SPIFFE://example.org/a")), SvidFault::SpiffeId),
        ("an upper-case trust domain", Box::new(one_uri("spiffe://Example.org/a")), SvidFault::SpiffeId),
        ("an escape", Box::new(one_uri("spiffe://example.org/%61")), SvidFault::SpiffeId),
        ("a dot segment", Box::new(one_uri("spiffe://example.org/a/../b")), SvidFault::SpiffeId),
        ("a query", Box::new(one_uri("spiffe://example.org/a?b")), SvidFault::SpiffeId),
        ("a port", Box::new(one_uri("spiffe://example.org:443/a")), SvidFault::SpiffeId),
        ("user information", Box::new(one_uri("spiffe://u@example.org/a")), SvidFault::SpiffeId),
        ("a NUL", Box::new(one_uri("spiffe://example.org/a\0.evil.test")), SvidFault::SpiffeId),
        ("a line end", Box::new(one_uri("spiffe://example.org/a\n")), SvidFault::SpiffeId),
        (
            "bytes that are no UTF-8",
            Box::new(|leaf| {
                leaf.subject_alt_names.clear();
                leaf.custom_extensions.push(extension(&subject_alt_name, false, b"\x30\x04\x86\x02\xff\xfe"));
            }),
            SvidFault::SpiffeId,
        ),
        (
            "more than 2048 bytes",
            Box::new(|leaf| leaf.subject_alt_names = vec![uri(&format!("spiffe://example.org/{}", "a".repeat(2048)))]),
            SvidFault::SpiffeId,
        ),
        (
            "no subject and a SAN that is not critical",
            Box::new(|leaf| {
                leaf.distinguished_name = DistinguishedName::new();
                leaf.subject_alt_names.clear();
                leaf.custom_extensions.push(extension(&subject_alt_name, false, b"\x30\x18\x86\x16spiffe://example.org/a"));
            }),
            SvidFault::NamelessNotCritical,
        ),
        ("no basicConstraints", Box::new(|leaf| leaf.is_ca = IsCa::NoCa), SvidFault::NoBasicConstraints),
        ("a CA", Box::new(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), SvidFault::Authority),
        ("no keyUsage", Box::new(|leaf| leaf.key_usages.clear()), SvidFault::NoKeyUsage),
        (
            "a keyUsage that is not critical",
            Box::new(|leaf| {
                leaf.key_usages.clear();
                leaf.custom_extensions.push(extension(&key_usage, false, b"\x03\x02\x07\x80"));
            }),
            SvidFault::KeyUsageNotCritical,
        ),
        (
            "no digitalSignature",
            Box::new(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            SvidFault::NoDigitalSignature,
        ),
        ("keyCertSign", Box::new(|leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)), SvidFault::MaySign),
        ("cRLSign", Box::new(|leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)), SvidFault::MaySign),
        (
            "an extendedKeyUsage without clientAuth",
            Box::new(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            SvidFault::ExtendedKeyUsage,
        ),
        (
            "an extendedKeyUsage without serverAuth",
            Box::new(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            SvidFault::ExtendedKeyUsage,
        ),
        (
            "a repeated extension",
            Box::new(|leaf| leaf.custom_extensions.push(extension(&key_usage, true, b"\x03\x02\x07\x80"))),
            SvidFault::Encoding,
        ),
        (
            "an end before its beginning",
            Box::new(|leaf| std::mem::swap(&mut leaf.not_before, &mut leaf.not_after)),
            SvidFault::Validity,
        ),
    ];
    for (what, spoil, fault) in table {
        let mut leaf = svid(&agent(), hour()).unwrap();
        spoil(&mut leaf);
        let refusal = meet(&holder, rules(), &authority.sign(&leaf).unwrap()).unwrap_err();
        assert_eq!(refusal, PeerError::NotX509Svid(fault), "{what}");
        assert_eq!(refusal.code(), "not_x509_svid");
    }
}

#[test]
fn a_leaf_without_subject_or_purposes_is_right() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let mut leaf = svid(&agent(), hour()).unwrap();
    leaf.distinguished_name = DistinguishedName::new(); // rcgen then makes the SAN critical
    leaf.extended_key_usages.clear();
    leaf.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    assert_eq!(meet(&own_gate(&authority), rules(), &authority.sign(&leaf).unwrap()).unwrap().spiffe_id, agent());
}

#[test]
fn time_and_lifetime_are_held_to_the_second() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let span = |not_before, not_after| Lifetime { not_before, not_after };
    let now = now();
    for (lifetime, code) in [
        (span(now - HOUR, now - 1), Some("expired")),
        (span(now + 2 * 60, now + HOUR), Some("not_yet_valid")),
        (span(now + 20, now + 30), None), // a clock 20 s behind, and a certificate that lives for ten
        (span(now - 5, now + 24 * HOUR), Some("lifetime")),
        (span(now - 5, now - 5 + 24 * HOUR), None),
    ] {
        let met = meet(&holder, rules(), &authority.issue(&agent(), lifetime).unwrap());
        assert_eq!(met.as_ref().err().map(PeerError::code), code, "{lifetime:?}");
    }
    let unlimited = ListenerRules { max_svid_lifetime: None, ..rules() };
    assert!(meet(&holder, unlimited, &authority.issue(&agent(), span(now - 5, now + 300 * 24 * HOUR)).unwrap()).is_ok());
}

#[test]
fn a_bundle_vouches_for_its_own_trust_domain_only() {
    let ours = Authority::new(&domain("example.org")).unwrap();
    let theirs = Authority::new(&domain("partner.test")).unwrap();
    let partner = id("spiffe://partner.test/agents/buyer");
    let holder = Arc::new(Holder::new(gate(&ours, &[("example.org", ours.ca_pem()), ("partner.test", theirs.ca_pem())])));
    let federated = ListenerRules { trust_domains: vec![domain("example.org"), domain("partner.test")], ..rules() };

    assert_eq!(meet(&holder, federated.clone(), &theirs.issue(&partner, hour()).unwrap()).unwrap().spiffe_id, partner);
    assert_eq!(meet(&holder, federated.clone(), &ours.issue(&agent(), hour()).unwrap()).unwrap().spiffe_id, agent());
    for (issuer, name) in [(&theirs, agent()), (&ours, partner.clone())] {
        let refusal = meet(&holder, federated.clone(), &issuer.issue(&name, hour()).unwrap()).unwrap_err();
        assert_eq!(refusal.code(), "chain", "{name}");
    }
    let refusal = meet(&holder, rules(), &theirs.issue(&partner, hour()).unwrap()).unwrap_err();
    assert_eq!(refusal, PeerError::TrustDomain(domain("partner.test")));
    let refusal = meet(&own_gate(&ours), federated, &theirs.issue(&partner, hour()).unwrap()).unwrap_err();
    assert_eq!(refusal, PeerError::NoBundle(domain("partner.test")));
}

#[test]
fn an_intermediate_is_followed_if_it_may_sign_and_only_then() {
    let root = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&root);
    let below = |change: &dyn Fn(&mut CertificateParams)| {
        let mut parameters = authority(root.trust_domain(), hour()).unwrap();
        change(&mut parameters);
        meet(&holder, rules(), &root.intermediate(parameters).unwrap().issue(&agent(), hour()).unwrap())
    };
    let code = |met: Result<Peer, PeerError>| met.unwrap_err().code();

    let peer = below(&|_| {}).unwrap();
    assert_eq!(peer.chain.len(), 2);
    let deep = authority(root.trust_domain(), hour()).unwrap();
    let deep = root.intermediate(deep.clone()).unwrap().intermediate(authority(root.trust_domain(), hour()).unwrap()).unwrap();
    assert_eq!(meet(&holder, rules(), &deep.issue(&agent(), hour()).unwrap()).unwrap().chain.len(), 3);

    assert_eq!(code(below(&|ca| ca.is_ca = IsCa::ExplicitNoCa)), "chain");
    assert_eq!(code(below(&|ca| ca.key_usages = vec![KeyUsagePurpose::DigitalSignature])), "chain");
    assert_eq!(code(below(&|ca| ca.not_after = ca.not_before + Duration::from_secs(1))), "expired");
    assert_eq!(code(below(&|ca| ca.custom_extensions.push(uri_name_constraint("example.org")))), "name_constraints");

    // One look-alike CA more than is looked at, although the right one is among them.
    let mut crowd = deep.issue(&agent(), hour()).unwrap();
    for _ in 0..7 {
        let parameters = authority(root.trust_domain(), hour()).unwrap();
        let other = root.intermediate(parameters).unwrap().issue(&agent(), hour()).unwrap().certificate_pem;
        crowd
            .certificate_pem
            .push_str(other.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap_or_else(|| panic!("{other}")));
    }
    let refusal = meet(&holder, rules(), &crowd).unwrap_err();
    assert!(matches!(refusal, PeerError::Chain { why: webpki::Error::MaximumPathDepthExceeded, .. }), "{refusal}");

    let mut alone = deep.issue(&agent(), hour()).unwrap();
    let leaf_end = alone.certificate_pem.find("-----END CERTIFICATE-----").unwrap() + 25;
    alone.certificate_pem.truncate(leaf_end);
    assert_eq!(code(meet(&holder, rules(), &alone)), "chain");
}

#[test]
fn a_root_with_uri_name_constraints_fails_closed_and_says_so() {
    let plain = Authority::new(&domain("example.org")).unwrap();
    let mut parameters = authority(&domain("example.org"), hour()).unwrap();
    parameters.custom_extensions.push(uri_name_constraint("example.org"));
    let constrained = Authority::self_signed(&domain("example.org"), parameters).unwrap();
    let both = format!("{}{}", plain.ca_pem(), constrained.ca_pem());
    let holder = Arc::new(Holder::new(gate(&plain, &[("example.org", &both)])));
    let refusal = meet(&holder, rules(), &constrained.issue(&agent(), hour()).unwrap()).unwrap_err();
    assert_eq!(refusal, PeerError::NameConstraints);
    assert!(refusal.to_string().contains("URI name constraints"));
}

#[test]
fn a_root_that_has_expired_vouches_for_nobody() {
    let fresh = Authority::new(&domain("example.org")).unwrap();
    let old = authority(&domain("example.org"), Lifetime { not_before: now() - HOUR, not_after: now() - 1 }).unwrap();
    let old = Authority::self_signed(&domain("example.org"), old).unwrap();
    let both = format!("{}{}", fresh.ca_pem(), old.ca_pem());
    let identity = gate(&fresh, &[("example.org", &both)]);
    assert!(matches!(identity.warnings(), [IdentityWarning::ExpiredAuthority { position: 2, .. }]));
    let holder = Arc::new(Holder::new(identity));
    assert_eq!(meet(&holder, rules(), &old.issue(&agent(), hour()).unwrap()).unwrap_err().code(), "expired");
    assert!(meet(&holder, rules(), &fresh.issue(&agent(), hour()).unwrap()).is_ok());
}
