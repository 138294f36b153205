//! Answers of every kind: which SVID is ours, whose bundles count, what is taken and what is not.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use spiffe::{X509Bundle, X509BundleSet, X509Context, X509Svid};
use std::sync::Arc;

use super::*;
use crate::demo::authority::{Authority, Issued, Lifetime};

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn now() -> u64 {
    UnixTime::now().as_secs()
}

fn authority_of(name: &str) -> Authority {
    Authority::new(&domain(name)).unwrap()
}

fn der(pem: &str) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|certificate| certificate.unwrap().to_vec()).collect()
}

fn issued(authority: &Authority, id_text: &str, seconds: u64) -> Issued {
    authority.issue(&id(id_text), Lifetime::starting(now() - 5, seconds)).unwrap()
}

fn svid_of(issued: &Issued, key: &Issued, hint: Option<&str>) -> X509Svid {
    let key = PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).unwrap();
    X509Svid::parse_from_der_with_hint(&der(&issued.certificate_pem).concat(), key.secret_der(), hint.map(Arc::from)).unwrap()
}

fn bundle_of(name: &str, authorities: &[&[u8]]) -> X509Bundle {
    X509Bundle::from_x509_authorities(domain(name), authorities).unwrap()
}

fn root(authority: &Authority) -> Vec<u8> {
    der(authority.ca_pem()).remove(0)
}

fn answer(svids: Vec<X509Svid>, bundles: Vec<X509Bundle>) -> X509Context {
    let mut set = X509BundleSet::new();
    bundles.into_iter().for_each(|bundle| set.add_bundle(bundle));
    X509Context::new(svids.into_iter().map(Arc::new), set)
}

fn wanted() -> Wanted {
    Wanted { trust_domain: domain("example.org"), spiffe_id: None, hint: None }
}

/// An answer with one SVID for each path and hint, and our bundle.
fn several(authority: &Authority, svids: &[(&str, &str)]) -> X509Context {
    let svid = |(path, hint): &(&str, &str)| {
        let issued = issued(authority, &format!("spiffe://example.org/{path}"), 3600);
        svid_of(&issued, &issued, Some(hint))
    };
    answer(svids.iter().map(svid).collect(), vec![bundle_of("example.org", &[&root(authority)])])
}

fn taken(answer: &X509Context, wanted: &Wanted) -> (Identity, Option<Missing>) {
    given(answer, wanted, UnixTime::now()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(answer: &X509Context) -> String {
    given(answer, &wanted(), UnixTime::now()).expect_err("it is refused").to_string()
}

#[test]
fn our_svid_is_the_first_that_fits() {
    let authority = authority_of("example.org");
    let answer = several(&authority, &[("gate", "internal"), ("edge", "external"), ("gate", "external")]);
    let chosen = |spiffe_id: Option<&str>, hint: Option<&str>| {
        let wanted = Wanted { spiffe_id: spiffe_id.map(id), hint: hint.map(str::to_owned), ..wanted() };
        taken(&answer, &wanted).0.certificates().first().map(|certificate| certificate.to_vec())
    };
    let nth = |place: usize| Some(answer.svids()[place].leaf().as_bytes().to_vec());
    assert_eq!(chosen(None, None), nth(0));
    assert_eq!(chosen(Some("spiffe://example.org/edge"), None), nth(1));
    assert_eq!(chosen(None, Some("external")), nth(1));
    assert_eq!(chosen(Some("spiffe://example.org/gate"), Some("external")), nth(2));
    assert_eq!(chosen(Some("spiffe://example.org/edge"), Some("internal")), None);
}

#[test]
fn an_answer_without_our_svid_leaves_us_without_one_and_with_its_bundles() {
    let authority = authority_of("example.org");
    let named = Wanted { spiffe_id: Some(id("spiffe://example.org/other")), ..wanted() };
    let (identity, missing) = taken(&several(&authority, &[("gate", "")]), &named);
    assert!(identity.spiffe_id().is_none() && identity.not_after() == 0 && identity.certificates().is_empty());
    assert!(!identity.is_presentable(UnixTime::now()));
    assert_eq!(identity.trust_domains().collect::<Vec<_>>(), [&domain("example.org")]);
    assert!(missing.unwrap().to_string().contains("the first it gives is spiffe://example.org/gate"));

    let elsewhere = Wanted { trust_domain: domain("example.com"), ..wanted() };
    let (identity, missing) = taken(&several(&authority, &[("gate", "")]), &elsewhere);
    assert!(identity.spiffe_id().is_none());
    let (found, wanted) = (domain("example.org"), domain("example.com"));
    assert_eq!(missing, Some(Missing::TrustDomain { found, wanted }));
}

#[test]
fn federated_bundles_count_for_their_own_domain_and_an_empty_or_broken_one_for_nobody() {
    let (ours, partner) = (authority_of("example.org"), authority_of("partner.test"));
    let gate = issued(&ours, "spiffe://example.org/gate", 3600);
    let workload = der(&issued(&partner, "spiffe://partner.test/agent", 3600).certificate_pem).remove(0);
    let with = |federated: X509Bundle| {
        answer(vec![svid_of(&gate, &gate, None)], vec![bundle_of("example.org", &[&root(&ours)]), federated])
    };
    let vouches = |identity: &Identity| {
        let terms = Terms { trust_domains: None, max_lifetime: None };
        examine(identity.bundles(), &terms, &CertificateDer::from(workload.clone()), &[], UnixTime::now()).is_ok()
    };
    let (identity, missing) = taken(&with(bundle_of("partner.test", &[&root(&partner)])), &wanted());
    assert!(missing.is_none() && vouches(&identity) && identity.warnings().is_empty());

    let (identity, _) = taken(&with(bundle_of("partner.test", &[])), &wanted());
    assert!(!vouches(&identity) && identity.spiffe_id().is_some());

    // A workload's own certificate as a root: that domain is refused, and we are renewed all the same.
    let (identity, _) = taken(&with(bundle_of("partner.test", &[&root(&partner), &workload])), &wanted());
    assert!(!vouches(&identity) && identity.spiffe_id().is_some());
    assert_eq!(identity.warnings(), [IdentityWarning::FaultyBundle { trust_domain: domain("partner.test") }]);

    let (identity, _) = taken(&with(bundle_of("partner.test", &[&root(&ours)])), &wanted());
    assert!(matches!(identity.warnings(), [IdentityWarning::SharedAuthority { .. }]), "{:?}", identity.warnings());
}

#[test]
fn an_answer_that_contradicts_itself_is_refused_whole() {
    let (ours, other) = (authority_of("example.org"), authority_of("example.org"));
    let (gate, stranger) = (issued(&ours, "spiffe://example.org/gate", 3600), issued(&ours, "spiffe://example.org/x", 3600));
    let good = || bundle_of("example.org", &[&root(&ours)]);
    let svid = || svid_of(&gate, &gate, None);
    taken(&answer(vec![svid()], vec![good()]), &wanted());
    assert!(refused(&answer(vec![svid_of(&gate, &stranger, None)], vec![good()])).contains("is not its key"));
    assert!(refused(&answer(vec![svid()], vec![bundle_of("example.org", &[&root(&other)])])).contains("peers would refuse"));
    assert!(refused(&answer(vec![svid()], vec![bundle_of("example.org", &[])])).contains("holds no CA certificate"));
    let leaf = der(&gate.certificate_pem).remove(0);
    assert!(
        refused(&answer(vec![svid()], vec![bundle_of("example.org", &[&root(&ours), &leaf])])).contains("or something besides")
    );
    let expired = ours.issue(&id("spiffe://example.org/gate"), Lifetime::starting(now() - 100, 50)).unwrap();
    assert!(refused(&answer(vec![svid_of(&expired, &expired, None)], vec![good()])).contains("expired"));
}

#[test]
fn a_new_svid_is_another_snapshot_and_asks_nobody_again() {
    let ours = authority_of("example.org");
    let of = |authority: &Authority| taken(&several(authority, &[("gate", "")]), &wanted()).0;
    let first = of(&ours);
    let same = first.clone();
    let holder = crate::tls::Holder::new(first);
    assert!(same.is_same(&holder.current()));
    let renewed = of(&ours);
    assert!(!renewed.is_same(&holder.current()));
    let renewed = holder.replace(renewed);
    assert_eq!((renewed.revision(), renewed.bundle_revision()), (2, 1));
    let moved = holder.replace(of(&authority_of("example.org")));
    assert_eq!((moved.revision(), moved.bundle_revision()), (3, 3));
    let denied = holder.replace(Identity::none());
    assert_eq!((denied.revision(), denied.bundle_revision()), (4, 4));
    assert!(!format!("{denied:?}").contains("key"));
}
