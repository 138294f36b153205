//! The extensions of a certificate, under Go's names for what they say.
//!
//! In: one extension. Out: its members added to the certificate's, nothing where it cannot be read. What must stay true: an
//! extension that is not read here counts as unhandled, and one that holds nothing leaves the null Go has for an empty list.

use regorus::Value;
use x509_parser::asn1_rs::Oid;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Extension};

use super::super::uri;
use super::{Members, bytes, identifier, list, object};

/// Go's numbers of the purposes it knows, by their place.
const PURPOSES: [&str; 14] = [
    "2.5.29.37.0",
    "1.3.6.1.5.5.7.3.1",
    "1.3.6.1.5.5.7.3.2",
    "1.3.6.1.5.5.7.3.3",
    "1.3.6.1.5.5.7.3.4",
    "1.3.6.1.5.5.7.3.5",
    "1.3.6.1.5.5.7.3.6",
    "1.3.6.1.5.5.7.3.7",
    "1.3.6.1.5.5.7.3.8",
    "1.3.6.1.5.5.7.3.9",
    "1.3.6.1.4.1.311.10.3.3",
    "2.16.840.1.113730.4.1",
    "1.3.6.1.4.1.311.2.1.22",
    "1.3.6.1.4.1.311.61.1.1",
];

/// What a certificate without extensions has.
pub(super) fn defaults(members: &mut Members, uri_texts: bool) {
    let nothing = [
        "ExtraExtensions",
        "ExtKeyUsage",
        "UnknownExtKeyUsage",
        "SubjectKeyId",
        "AuthorityKeyId",
        "OCSPServer",
        "IssuingCertificateURL",
        "DNSNames",
        "EmailAddresses",
        "IPAddresses",
        "URIs",
        "PermittedDNSDomains",
        "ExcludedDNSDomains",
        "PermittedIPRanges",
        "ExcludedIPRanges",
        "PermittedEmailAddresses",
        "ExcludedEmailAddresses",
        "PermittedURIDomains",
        "ExcludedURIDomains",
        "CRLDistributionPoints",
        "PolicyIdentifiers",
        "Policies",
        "PolicyMappings",
    ];
    members.all(&nothing, &Value::Null);
    members
        .all(&["KeyUsage", "MaxPathLen", "InhibitAnyPolicy", "InhibitPolicyMapping", "RequireExplicitPolicy"], &Value::from(0_u64));
    members.all(
        &[
            "BasicConstraintsValid",
            "IsCA",
            "MaxPathLenZero",
            "PermittedDNSDomainsCritical",
            "InhibitAnyPolicyZero",
            "InhibitPolicyMappingZero",
            "RequireExplicitPolicyZero",
        ],
        &Value::from(false),
    );
    if uri_texts {
        members.put("URIStrings", Value::Null);
    }
}

/// Adds what an extension says; false for one Go does not know.
pub(super) fn read(extension: &X509Extension<'_>, members: &mut Members, uri_texts: bool) -> Option<bool> {
    match extension.parsed_extension() {
        ParsedExtension::ParseError { .. } => return None,
        ParsedExtension::KeyUsage(usage) => members.put("KeyUsage", u64::from(usage.flags)),
        ParsedExtension::BasicConstraints(basic) => {
            members.put("BasicConstraintsValid", true);
            members.put("IsCA", basic.ca);
            members.put("MaxPathLen", basic.path_len_constraint.map_or(-1, i64::from));
            members.put("MaxPathLenZero", basic.path_len_constraint == Some(0));
        }
        ParsedExtension::SubjectAlternativeName(names) => alternatives(&names.general_names, members, uri_texts)?,
        ParsedExtension::NameConstraints(constraints) => {
            members.put("PermittedDNSDomainsCritical", extension.critical);
            for (side, trees) in [("Permitted", &constraints.permitted_subtrees), ("Excluded", &constraints.excluded_subtrees)] {
                let bases = trees.iter().flatten().map(|tree| &tree.base);
                subtrees(side, bases, members)?;
            }
        }
        ParsedExtension::ExtendedKeyUsage(_) => purposes(extension.value, members)?,
        ParsedExtension::SubjectKeyIdentifier(id) => members.put("SubjectKeyId", bytes(id.0)),
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            members.put("AuthorityKeyId", authority.key_identifier.as_ref().map_or(Value::Null, |id| bytes(id.0)));
        }
        ParsedExtension::AuthorityInfoAccess(access) => {
            for (method, member) in [("1.3.6.1.5.5.7.48.1", "OCSPServer"), ("1.3.6.1.5.5.7.48.2", "IssuingCertificateURL")] {
                let places = access.accessdescs.iter().filter(|one| one.access_method.to_id_string() == method);
                members.put(member, list(places.filter_map(|one| locator(&one.access_location)).collect()));
            }
        }
        ParsedExtension::CRLDistributionPoints(points) => {
            let names = points.iter().filter_map(|point| match &point.distribution_point {
                Some(DistributionPointName::FullName(names)) => Some(names),
                Some(DistributionPointName::NameRelativeToCRLIssuer(_)) | None => None,
            });
            members.put("CRLDistributionPoints", list(names.flatten().filter_map(locator).collect()));
        }
        ParsedExtension::CertificatePolicies(policies) => {
            members.put("Policies", list(policies.iter().map(|policy| policy.policy_id.to_id_string().into()).collect()));
            let identifiers = policies.iter().map(|policy| identifier(&policy.policy_id)).collect::<Option<Vec<_>>>()?;
            members.put("PolicyIdentifiers", list(identifiers));
        }
        ParsedExtension::PolicyConstraints(constraints) => {
            for (name, value) in [
                ("RequireExplicitPolicy", constraints.require_explicit_policy),
                ("InhibitPolicyMapping", constraints.inhibit_policy_mapping),
            ] {
                members.put(name, u64::from(value.unwrap_or(0)));
                members.put(&format!("{name}Zero"), value == Some(0));
            }
        }
        ParsedExtension::InhibitAnyPolicy(inhibit) => {
            members.put("InhibitAnyPolicy", u64::from(inhibit.skip_certs));
            members.put("InhibitAnyPolicyZero", inhibit.skip_certs == 0);
        }
        ParsedExtension::PolicyMappings(mappings) => {
            let shown = mappings.mappings.iter().map(|mapping| {
                let (issuer, subject) = (mapping.issuer_domain_policy.to_id_string(), mapping.subject_domain_policy.to_id_string());
                object([("IssuerDomainPolicy", issuer.into()), ("SubjectDomainPolicy", subject.into())])
            });
            members.put("PolicyMappings", list(shown.collect()));
        }
        _ => return Some(false),
    }
    Some(true)
}

fn locator(name: &GeneralName<'_>) -> Option<Value> {
    match name {
        GeneralName::URI(uri) => Some((*uri).into()),
        _ => None,
    }
}

fn address(octets: &[u8]) -> Option<Value> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(std::net::Ipv4Addr::from(octets).to_string().into());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(std::net::Ipv6Addr::from(octets).to_canonical().to_string().into())
}

fn alternatives(names: &[GeneralName<'_>], members: &mut Members, uri_texts: bool) -> Option<()> {
    let (mut dns, mut mail, mut addresses, mut uris, mut texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).into()),
            GeneralName::RFC822Name(name) => mail.push((*name).into()),
            GeneralName::IPAddress(octets) => addresses.push(address(octets)?),
            GeneralName::URI(name) => {
                uris.push(uri::shown(name)?);
                texts.push(uri::written(name).into());
            }
            GeneralName::Invalid(..) => return None,
            _ => {}
        }
    }
    for (name, values) in [("DNSNames", dns), ("EmailAddresses", mail), ("IPAddresses", addresses), ("URIs", uris)] {
        members.put(name, list(values));
    }
    if uri_texts {
        members.put("URIStrings", list(texts));
    }
    Some(())
}

fn subtrees<'n>(side: &str, bases: impl Iterator<Item = &'n GeneralName<'n>>, members: &mut Members) -> Option<()> {
    let (mut dns, mut addresses, mut mail, mut uris) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for base in bases {
        match base {
            GeneralName::DNSName(name) => dns.push((*name).into()),
            GeneralName::RFC822Name(name) => mail.push((*name).into()),
            GeneralName::URI(name) => uris.push((*name).into()),
            GeneralName::IPAddress(octets) => {
                let (network, mask) = octets.split_at_checked(octets.len() / 2)?;
                addresses.push(object([("IP", address(network)?), ("Mask", bytes(mask))]));
            }
            _ => return None,
        }
    }
    for (kind, values) in [("DNSDomains", dns), ("IPRanges", addresses), ("EmailAddresses", mail), ("URIDomains", uris)] {
        members.put(&format!("{side}{kind}"), list(values));
    }
    Some(())
}

/// The purposes in the value of such an extension, in their order.
pub(in crate::policy::builtins) fn listed_purposes(value: &[u8]) -> Option<Vec<Oid<'_>>> {
    let (_, purposes) = <Vec<Oid<'_>>>::from_der(value).ok()?;
    Some(purposes)
}

fn purposes(value: &[u8], members: &mut Members) -> Option<()> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for purpose in &listed_purposes(value)? {
        let id = purpose.to_id_string();
        match PURPOSES.iter().position(|known| *known == id) {
            Some(place) => known.push(Value::from(place)),
            None => unknown.push(identifier(purpose)?),
        }
    }
    members.put("ExtKeyUsage", list(known));
    members.put("UnknownExtKeyUsage", list(unknown));
    Some(())
}
