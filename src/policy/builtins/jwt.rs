//! `io.jwt.*`: JSON Web Tokens, taken apart and verified (RFC 7515, 7518, 7519).
//!
//! In: tokens, keys, constraints. Out: what OPA says, in its order: a token nobody can read is undefined, one that fails a check is
//! false or `[false, {}, {}]`. What must stay true: where a key set names the token's `kid`, only that key counts; a header
//! parameter marked critical that nobody knows fails the token; `exp` is over at its very second. A token names its own
//! algorithm, so a key's kind, and never the token, says what the key may be used for.

use std::rc::Rc;

use regorus::Value;
use regorus::value::Object;

use super::keys::{self, Algorithm, Bits, Family, Key};
use super::{encoding, now, text};

/// The three parts of a token.
struct Token<'t> {
    header: &'t str,
    payload: &'t str,
    signature: &'t str,
}

/// What a header says, as far as anybody acts on it.
#[derive(Default)]
struct Header {
    alg: String,
    kid: String,
    cty: String,
    /// It marks as critical what is not known here.
    unknown_critical: bool,
}

impl<'t> Token<'t> {
    fn split(text: &'t str) -> Option<Self> {
        let mut parts = text.split('.');
        let token = Self { header: parts.next()?, payload: parts.next()?, signature: parts.next()? };
        parts.next().is_none().then_some(token)
    }

    /// The header's object; one with `enc` is an encrypted token, which nobody reads here.
    fn header(&self) -> Option<Value> {
        let header = encoding::json_object(&encoding::url(self.header)?)?;
        member(&header, "enc").is_none().then_some(header)
    }

    fn signature(&self) -> Option<Vec<u8>> {
        encoding::url(self.signature)
    }

    /// What is signed.
    fn signed(&self) -> String {
        format!("{}.{}", self.header, self.payload)
    }
}

fn member<'v>(object: &'v Value, name: &str) -> Option<&'v Value> {
    let Value::Object(object) = object else { return None };
    object.get(&Value::from(name))
}

impl Header {
    /// Reads the parameters that have a meaning; nothing where one of them has another type than it must have.
    fn of(header: &Value) -> Option<Self> {
        let string = |name: &str| member(header, name).map_or(Some(""), text).map(str::to_owned);
        let mut read = Self { alg: string("alg")?, kid: string("kid")?, cty: string("cty")?, unknown_critical: false };
        string("typ")?;
        if let Some(critical) = member(header, "crit") {
            let Value::Array(critical) = critical else { return None };
            // Whatever follows the first that is no text is not looked at.
            let names: Vec<&str> = critical.iter().map_while(text).collect();
            if names.is_empty() {
                return None;
            }
            let known = ["alg", "kid", "typ", "cty", "crit"];
            read.unknown_critical = names.iter().any(|name| !known.contains(name) && member(header, name).is_some());
        }
        Some(read)
    }
}

/// `io.jwt.decode(token)`: `[header, payload, signature]`, nothing verified.
pub(super) fn decode(arguments: &[Value]) -> Option<Value> {
    let [token] = arguments else { return None };
    let mut current = text(token)?.to_owned();
    loop {
        let token = Token::split(&current)?;
        let header = token.header()?;
        let payload = encoding::url(token.payload)?;
        if let Some(content) = member(&header, "cty")
            && text(content)? == "JWT"
        {
            // A token in a token, with or without quotes.
            current = String::from_utf8(payload).ok()?.trim_matches(['"', '\'']).to_owned();
            continue;
        }
        let payload = encoding::json_object(&payload)?;
        let signature = encoding::hex(&token.signature()?);
        return Some(vec![header, payload, signature.into()].into());
    }
}

/// Checks a signature with the key the token names, else with any that may have made it.
fn verified(keys: &[Key], header: &Header, signed: impl Fn(&Key) -> bool) -> bool {
    if !header.kid.is_empty()
        && let Some(key) = keys.iter().find(|key| key.kid == header.kid)
    {
        return signed(key);
    }
    keys.iter().any(|key| (key.alg.is_empty() || key.alg == header.alg) && signed(key))
}

fn verify(algorithm: Algorithm, arguments: &[Value]) -> Option<Value> {
    let [token, key] = arguments else { return None };
    let token = Token::split(text(token)?)?;
    let keys = keys::read(text(key)?)?;
    let signature = token.signature()?;
    let header = Header::of(&token.header()?)?;
    let signed = token.signed();
    Some(verified(&keys, &header, |key| !key.private && key.signed(algorithm, signed.as_bytes(), &signature)).into())
}

fn verify_hmac(bits: Bits, arguments: &[Value]) -> Option<Value> {
    let [token, secret] = arguments else { return None };
    let (token, secret) = (text(token)?, text(secret)?);
    let token = Token::split(token)?;
    let signature = token.signature()?;
    Some(Key::secret(secret).signed(Algorithm(Family::Hmac, bits), token.signed().as_bytes(), &signature).into())
}

/// `io.jwt.verify_rs256(token, key)`
pub(super) fn verify_rs256(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::Rsa, Bits::B256), arguments)
}

/// `io.jwt.verify_rs384(token, key)`
pub(super) fn verify_rs384(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::Rsa, Bits::B384), arguments)
}

/// `io.jwt.verify_rs512(token, key)`
pub(super) fn verify_rs512(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::Rsa, Bits::B512), arguments)
}

/// `io.jwt.verify_ps256(token, key)`
pub(super) fn verify_ps256(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::RsaPss, Bits::B256), arguments)
}

/// `io.jwt.verify_ps384(token, key)`
pub(super) fn verify_ps384(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::RsaPss, Bits::B384), arguments)
}

/// `io.jwt.verify_ps512(token, key)`
pub(super) fn verify_ps512(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::RsaPss, Bits::B512), arguments)
}

/// `io.jwt.verify_es256(token, key)`
pub(super) fn verify_es256(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::Ecdsa, Bits::B256), arguments)
}

/// `io.jwt.verify_es384(token, key)`
pub(super) fn verify_es384(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::Ecdsa, Bits::B384), arguments)
}

/// `io.jwt.verify_es512(token, key)`
pub(super) fn verify_es512(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::Ecdsa, Bits::B512), arguments)
}

/// `io.jwt.verify_eddsa(token, key)`
pub(super) fn verify_eddsa(arguments: &[Value]) -> Option<Value> {
    verify(Algorithm(Family::EdDsa, Bits::B512), arguments)
}

/// `io.jwt.verify_hs256(token, secret)`
pub(super) fn verify_hs256(arguments: &[Value]) -> Option<Value> {
    verify_hmac(Bits::B256, arguments)
}

/// `io.jwt.verify_hs384(token, secret)`
pub(super) fn verify_hs384(arguments: &[Value]) -> Option<Value> {
    verify_hmac(Bits::B384, arguments)
}

/// `io.jwt.verify_hs512(token, secret)`
pub(super) fn verify_hs512(arguments: &[Value]) -> Option<Value> {
    verify_hmac(Bits::B512, arguments)
}

/// What a token must be like.
struct Constraints {
    keys: Rc<[Key]>,
    /// Empty: any.
    alg: String,
    /// Empty: any.
    iss: String,
    /// Empty: a token may have none.
    aud: String,
    /// Seconds since 1970.
    time: Value,
}

impl Constraints {
    /// Nothing where a constraint is unknown, of the wrong type, or where there is not exactly one kind of key.
    fn of(object: &Object) -> Option<Self> {
        let (mut certificate, mut secret, mut time) = (None, "", None);
        let (mut alg, mut iss, mut aud) = (String::new(), String::new(), String::new());
        for (name, value) in object.iter() {
            match text(name)? {
                "cert" => certificate = Some(keys::read(text(value)?)?),
                "secret" => secret = text(value)?,
                "alg" => text(value)?.clone_into(&mut alg),
                "iss" => text(value)?.clone_into(&mut iss),
                "aud" => text(value)?.clone_into(&mut aud),
                "time" => {
                    let Value::Number(number) = value else { return None };
                    // `as_f64` gives only what is exact, up to 2⁵³, and nanoseconds of today are beyond; Go rounds.
                    let rounded: f64 = number.format_decimal().parse().ok()?;
                    time = Some(rounded).filter(|time| *time >= 0.0 && time.is_finite());
                    time?;
                }
                _ => return None,
            }
        }
        let keys = match (certificate, secret) {
            (Some(keys), "") => keys,
            (None, secret) if !secret.is_empty() => Rc::new([Key::secret(secret)]),
            _ => return None,
        };
        let time = time.unwrap_or_else(nanoseconds);
        Some(Self { keys, alg, iss, aud, time: (time / 1e9).into() })
    }

    fn issued(&self, payload: &Value) -> bool {
        self.iss.is_empty() || member(payload, "iss").and_then(text) == Some(&self.iss)
    }

    fn audience(&self, payload: &Value) -> bool {
        match member(payload, "aud") {
            None => self.aud.is_empty(),
            Some(Value::String(audience)) => audience.as_ref() == self.aud,
            Some(Value::Array(audiences)) => audiences.iter().any(|audience| text(audience) == Some(&self.aud)),
            Some(_) => false,
        }
    }

    /// True between `nbf` and `exp`; nothing where one of them is no number.
    fn in_time(&self, payload: &Value) -> Option<bool> {
        let number = |name: &str| match member(payload, name) {
            None => Some(None),
            Some(value @ Value::Number(_)) => Some(Some(value)),
            Some(_) => None,
        };
        if number("exp")?.is_some_and(|end| self.time >= *end) {
            return Some(false);
        }
        Some(number("nbf")?.is_none_or(|begin| self.time >= *begin))
    }
}

#[expect(clippy::cast_precision_loss, reason = "OPA reckons this time as a float as well")]
fn nanoseconds() -> f64 {
    now() as f64
}

/// `io.jwt.decode_verify(token, constraints)`: `[true, header, payload]` or `[false, {}, {}]`.
pub(super) fn decode_verify(arguments: &[Value]) -> Option<Value> {
    let [token, Value::Object(constraints)] = arguments else { return None };
    let constraints = Constraints::of(constraints)?;
    let unverified = || Some(vec![false.into(), Value::new_object(), Value::new_object()].into());
    let mut current = text(token)?.to_owned();
    let (header, payload) = loop {
        let token = Token::split(&current)?;
        let object = token.header()?;
        let header = Header::of(&object)?;
        if header.alg.is_empty() || header.unknown_critical || (!constraints.alg.is_empty() && constraints.alg != header.alg) {
            return unverified();
        }
        let signature = token.signature()?;
        let signed = token.signed();
        let made =
            |key: &Key| Algorithm::named(&header.alg).is_some_and(|algorithm| key.signed(algorithm, signed.as_bytes(), &signature));
        if !verified(&constraints.keys, &header, made) {
            return unverified();
        }
        let payload = encoding::url(token.payload)?;
        if !header.cty.eq_ignore_ascii_case("JWT") {
            break (object, encoding::json_object(&payload)?);
        }
        // A token in a token: its own signature, with the same keys.
        current = String::from_utf8(payload).ok()?;
    };
    if !constraints.issued(&payload) || !constraints.audience(&payload) || !constraints.in_time(&payload)? {
        return unverified();
    }
    Some(vec![true.into(), header, payload].into())
}
