//! Cases for `crypto.x509.…`: certificates with every extension OPA shows, and chains with one thing wrong each.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SanType, date_time_ymd,
};
use serde_json::{Value, json};

use crate::cases::{Case, Dice, case};

/// Seconds in the middle of what the certificates below last.
const NOON: i64 = 1_750_000_000;

fn base(name: &str, names: &[&str]) -> CertificateParams {
    let mut parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = date_time_ymd(2025, 1, 1);
    parameters.not_after = date_time_ymd(2026, 1, 1);
    parameters
}

fn authority(name: &str, change: impl Fn(&mut CertificateParams)) -> CertificateParams {
    let mut parameters = base(name, &[]);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut parameters);
    parameters
}

fn leaf(change: impl Fn(&mut CertificateParams)) -> CertificateParams {
    let mut parameters = base("leaf", &["a.example.org", "*.b.example.org", "10.0.0.7"]);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut parameters);
    parameters
}

/// Root, one between, leaf.
fn chain(root: CertificateParams, between: CertificateParams, leaf: CertificateParams) -> [String; 3] {
    let key = || KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(root, key()).unwrap();
    let between = CertifiedIssuer::signed_by(between, key(), &root).unwrap();
    let leaf = leaf.signed_by(&key(), &between).unwrap();
    [root.pem(), between.pem(), leaf.pem()].map(|pem| pem.replace("\r\n", "\n"))
}

/// Single certificates as PEM.
fn singles() -> Vec<String> {
    let key = || KeyPair::generate().unwrap();
    let mut all = Vec::new();
    all.push(base("plain", &[]).self_signed(&key()).unwrap().pem());
    let mut many = base("many", &["a.example.org", "::1", "10.0.0.1"]);
    for (kind, value) in [
        (DnType::CountryName, "CH"),
        (DnType::OrganizationName, "Ex Ample"),
        (DnType::OrganizationalUnitName, "Ünit"),
        (DnType::LocalityName, "Bern"),
        (DnType::StateOrProvinceName, "BE"),
        (DnType::CustomDnType(vec![2, 5, 4, 5]), "serial"),
        (DnType::CustomDnType(vec![2, 5, 4, 17]), "3000"),
        (DnType::CustomDnType(vec![1, 2, 3, 4]), "own"),
    ] {
        many.distinguished_name.push(kind, value);
    }
    for uri in [
        "spiffe://example.org/ns/a/sa/b",
        "https://user@example.org:8443/a%2Fb/c%20d?x=1&y#frag",
        "urn:uuid:1-2",
        "http://h?",
        "HTTP://h/a!b",
    ] {
        many.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    many.subject_alt_names.push(SanType::Rfc822Name("a@example.org".try_into().unwrap()));
    many.use_authority_key_identifier_extension = true;
    many.serial_number = Some(vec![0x7f, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].into());
    many.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DecipherOnly];
    many.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::Other(vec![1, 2, 3, 4]),
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::Any,
    ];
    many.crl_distribution_points = vec![rcgen::CrlDistributionPoint { uris: vec!["http://crl.example.org/x".to_owned()] }];
    all.push(many.clone().self_signed(&KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()).unwrap().pem());
    all.push(many.self_signed(&KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap().pem());
    let mut issuing = authority("issuing", |parameters| parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    issuing.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("example.org".to_owned()),
            GeneralSubtree::IpAddress(rcgen::CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0])),
        ],
        excluded_subtrees: vec![GeneralSubtree::Rfc822Name("example.com".to_owned())],
    });
    all.push(issuing.self_signed(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()).unwrap().pem());
    // Policies 1.2.3.4; requireExplicitPolicy 0; inhibitAnyPolicy 2; OCSP http://o; an unknown critical one.
    for (oid, content, critical) in [
        (vec![2, 5, 29, 32], vec![0x30, 7, 0x30, 5, 6, 3, 0x2a, 3, 4], false),
        (vec![2, 5, 29, 36], vec![0x30, 3, 0x80, 1, 0], true),
        (vec![2, 5, 29, 54], vec![2, 1, 2], true),
        (
            vec![1, 3, 6, 1, 5, 5, 7, 1, 1],
            b"\x30\x16\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x30\x01\x86\x08http://o".to_vec(),
            false,
        ),
        (vec![1, 2, 3, 4, 5], vec![5, 0], true),
    ] {
        let mut parameters = base("extension", &[]);
        let mut extension = CustomExtension::from_oid_content(&oid, content);
        extension.set_criticality(critical);
        parameters.custom_extensions = vec![extension];
        all.push(parameters.self_signed(&key()).unwrap().pem());
    }
    all.into_iter().map(|pem| pem.replace("\r\n", "\n")).collect()
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
}

/// The ways a text may hold certificates, and ways that only look like it.
fn forms(pems: &[String]) -> Vec<Value> {
    let (joined, bytes): (String, Vec<u8>) = (pems.concat(), pems.iter().flat_map(|pem| der(pem)).collect());
    let mut cut = bytes.clone();
    cut.truncate(bytes.len() - 1);
    vec![
        json!(joined),
        json!(STANDARD.encode(&bytes)),
        json!(STANDARD.encode(&joined)),
        json!(STANDARD.encode(cut)),
        json!(format!("{joined}garbage")),
        json!(format!(" {joined}")),
        json!(joined.replace("CERTIFICATE", "PUBLIC KEY")),
        json!(format!("{joined}-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n")),
    ]
}

pub(crate) fn certificates() -> Vec<Case> {
    let mut cases = Vec::new();
    let singles = singles();
    for single in &singles {
        for form in forms(std::slice::from_ref(single)) {
            cases.push(case("crypto.x509.parse_certificates", &[form]));
        }
    }
    for form in forms(&singles[..2]) {
        cases.push(case("crypto.x509.parse_certificates", &[form]));
    }
    let mut dice = Dice(17);
    for _ in 0..150 {
        // One byte of DER is another one: mostly no certificate any more. What is signed over is not looked at when it is parsed.
        let mut bytes = der(&singles[dice.below(singles.len())]);
        let place = dice.below(24);
        bytes[place] = u8::try_from(dice.below(256)).unwrap();
        cases.push(case("crypto.x509.parse_certificates", &[json!(STANDARD.encode(bytes))]));
    }
    for value in [json!(null), json!(7), json!([]), json!(""), json!("AA=="), json!("nonsense"), json!("-----BEGIN")] {
        cases.push(case("crypto.x509.parse_certificates", &[value]));
    }
    cases
}

pub(crate) fn chains() -> Vec<Case> {
    const VERIFIED: &str = "crypto.x509.parse_and_verify_certificates_with_options";
    let usual = |_: &mut CertificateParams| {};
    let purposes = |purposes: Vec<ExtendedKeyUsagePurpose>| {
        move |parameters: &mut CertificateParams| parameters.extended_key_usages.clone_from(&purposes)
    };
    let length =
        |length| move |parameters: &mut CertificateParams| parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
    let expired = |parameters: &mut CertificateParams| parameters.not_after = date_time_ymd(2025, 2, 1);
    let named = |parameters: &mut CertificateParams| {
        parameters.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    };
    let good = chain(authority("root", usual), authority("between", usual), leaf(usual));
    let other = chain(authority("root", usual), authority("between", usual), leaf(usual));
    let [root, between, last] = &good;
    let mut texts: Vec<Vec<String>> = vec![
        good.to_vec(),
        vec![root.clone(), last.clone()],
        vec![between.clone(), last.clone()],
        vec![last.clone(), between.clone(), root.clone()],
        vec![root.clone(), between.clone(), between.clone(), other[1].clone(), last.clone()],
        vec![other[0].clone(), between.clone(), last.clone()],
        vec![root.clone(), other[1].clone(), last.clone()],
        vec![root.clone(), between.clone(), other[2].clone()],
        vec![root.clone()],
        vec![],
    ];
    let chains = [
        chain(authority("root", expired), authority("between", usual), leaf(usual)),
        chain(authority("root", usual), authority("between", expired), leaf(usual)),
        chain(authority("root", usual), authority("between", usual), leaf(expired)),
        chain(authority("root", length(0)), authority("between", usual), leaf(usual)),
        chain(authority("root", length(1)), authority("between", length(0)), leaf(usual)),
        chain(authority("root", named), authority("between", usual), leaf(usual)),
        chain(authority("root", usual), authority("between", named), leaf(usual)),
        chain(authority("root", usual), authority("between", |parameters| parameters.is_ca = IsCa::ExplicitNoCa), leaf(usual)),
        chain(authority("root", |parameters| parameters.is_ca = IsCa::ExplicitNoCa), authority("between", usual), leaf(usual)),
        chain(
            authority("root", |parameters| parameters.key_usages = vec![KeyUsagePurpose::CrlSign]),
            authority("between", usual),
            leaf(usual),
        ),
        chain(
            authority("root", usual),
            authority("between", |parameters| parameters.key_usages = vec![KeyUsagePurpose::CrlSign]),
            leaf(usual),
        ),
        chain(authority("root", usual), authority("between", usual), leaf(purposes(vec![ExtendedKeyUsagePurpose::ClientAuth]))),
        chain(authority("root", usual), authority("between", usual), leaf(purposes(vec![]))),
        chain(authority("root", usual), authority("between", usual), leaf(purposes(vec![ExtendedKeyUsagePurpose::Any]))),
        chain(authority("root", usual), authority("between", purposes(vec![ExtendedKeyUsagePurpose::ClientAuth])), leaf(usual)),
        chain(authority("root", purposes(vec![ExtendedKeyUsagePurpose::CodeSigning])), authority("between", usual), leaf(usual)),
    ];
    texts.extend(chains.into_iter().map(|chain| chain.to_vec()));
    let at = |seconds: i64| json!({"CurrentTime": seconds * 1_000_000_000});
    let with = |more: Value| {
        let mut options = at(NOON);
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        options
    };
    let end = 1_767_225_600;
    let options = [
        at(NOON),
        at(0),
        at(-1),
        at(1_735_689_600),
        at(1_735_689_599),
        at(end),
        json!({"CurrentTime": end * 1_000_000_000 + 1}),
        json!({"CurrentTime": "now"}),
        json!({"CurrentTime": 1.5}),
        with(json!({"DNSName": "a.example.org"})),
        with(json!({"DNSName": "A.Example.Org"})),
        with(json!({"DNSName": "x.b.example.org"})),
        with(json!({"DNSName": "x.y.b.example.org"})),
        with(json!({"DNSName": "10.0.0.7"})),
        with(json!({"DNSName": "10.0.0.8"})),
        with(json!({"DNSName": "other.example.org"})),
        with(json!({"DNSName": "\"a.example.org\""})),
        with(json!({"DNSName": 7})),
        with(json!({"KeyUsages": ["KeyUsageAny"]})),
        with(json!({"KeyUsages": ["KeyUsageClientAuth"]})),
        with(json!({"KeyUsages": ["KeyUsageCodeSigning", "KeyUsageServerAuth"]})),
        with(json!({"KeyUsages": ["KeyUsageCodeSigning"]})),
        with(json!({"KeyUsages": ["KeyUsageNonsense"]})),
        with(json!({"KeyUsages": []})),
        with(json!({"KeyUsages": [7]})),
        with(json!({"KeyUsages": "KeyUsageAny"})),
        with(json!({"MaxConstraintComparisons": 100})),
        with(json!({"MaxConstraintComparisons": "100"})),
        with(json!({"Unknown": 1})),
    ];
    let mut cases = Vec::new();
    for (which, text) in texts.iter().enumerate() {
        for (place, options) in options.iter().enumerate() {
            if which == 0 || place == 0 || (which > 9 && (18..21).contains(&place)) {
                cases.push(case(VERIFIED, &[json!(text.concat()), options.clone()]));
            }
        }
        // Today all of these are over; nobody's clock is that wrong.
        cases.push(case("crypto.x509.parse_and_verify_certificates", &[json!(text.concat())]));
    }
    for form in forms(&good) {
        cases.push(case(VERIFIED, &[form, at(NOON)]));
    }
    for (one, other) in [(json!(7), at(NOON)), (json!(good.concat()), json!([])), (json!("nonsense"), json!({"Unknown": 1}))] {
        cases.push(case(VERIFIED, &[one, other]));
    }
    // These last: what OPA verifies today is verified by the clock here too.
    let lasting = |parameters: &mut CertificateParams| parameters.not_after = date_time_ymd(2999, 1, 1);
    let lasting = chain(authority("root", lasting), authority("between", lasting), leaf(lasting));
    cases.push(case("crypto.x509.parse_and_verify_certificates", &[json!(lasting.concat())]));
    cases.push(case(VERIFIED, &[json!(lasting.concat()), json!({})]));
    cases
}
