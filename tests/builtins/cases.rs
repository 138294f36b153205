//! The cases: written by hand, crossed with each other, and damaged at random from a fixed seed.

use serde_json::{Value, json};

use crate::material::{Pair, SECRET, sealed, url};

pub(crate) struct Case {
    pub(crate) function: &'static str,
    pub(crate) arguments: Vec<Value>,
}

pub(crate) fn case(function: &'static str, arguments: &[Value]) -> Case {
    Case { function, arguments: arguments.to_vec() }
}

/// Numbers that are the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        &list[self.below(list.len())]
    }

    /// A text with one thing wrong.
    fn damaged(&mut self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        let place = self.below(characters.len().max(1));
        let other = *self.one(&['A', '_', '-', '.', '=', '\n', ' ', '+', 'é', '9']);
        match self.below(4) {
            0 if !characters.is_empty() => characters[place] = other,
            1 => characters.insert(place, other),
            2 if !characters.is_empty() => drop(characters.remove(place)),
            _ => characters.truncate(place),
        }
        characters.into_iter().collect()
    }
}

/// Values no text builtin takes.
fn odd() -> Vec<Value> {
    vec![json!(null), json!(7), json!(true), json!([]), json!(["a"]), json!({"a": 1})]
}

const CLAIMS: &str =
    r#"{"sub":"spiffe://example.org/a","aud":["gate","other"],"iss":"issuer","exp":2000,"nbf":1000,"n":1.5,"ü":"😀"}"#;

/// Headers and payloads for `io.jwt.decode`, right and wrong.
fn parts() -> Vec<(Vec<u8>, Vec<u8>)> {
    let texts: [(&str, &str); 26] = [
        (r#"{"alg":"RS256"}"#, CLAIMS),
        (r#"{"alg":"none"}"#, "{}"),
        ("{}", "{}"),
        (r#"{"alg":"RS256","enc":"A128GCM"}"#, "{}"),
        (r#"{"alg":"RS256","enc":null}"#, "{}"),
        ("[]", "{}"),
        ("{}", "[]"),
        ("{}", "1"),
        ("{}", "null"),
        ("", "{}"),
        ("{}", ""),
        ("{", "{}"),
        ("{} {}", "{}"),
        ("{}", "{} x"),
        (" {\n} ", "\t{}\r\n"),
        (r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"b":2},"a":{"c":3}}"#),
        (r#"{"cty":"jwt"}"#, "{}"),
        (r#"{"cty":"JWT"}"#, "{}"),
        (r#"{"cty":"JWT"}"#, "a.b.c"),
        (r#"{"cty":""}"#, "{}"),
        (r#"{"alg":7}"#, r#"{"n":9007199254740993,"f":1e3,"g":-0.0,"h":1.10}"#),
        (r#"{"x":"\u00e9\ud83d\ude00"}"#, r#"{"x":"\u0000"}"#),
        (r#"{"x":'a'}"#, "{}"),
        (r#"{"x":01}"#, "{}"),
        (r#"{"x":NaN}"#, "{}"),
        ("{\"x\":\"a\nb\"}", "{}"),
    ];
    let mut parts: Vec<(Vec<u8>, Vec<u8>)> =
        texts.iter().map(|(header, payload)| (header.as_bytes().to_vec(), payload.as_bytes().to_vec())).collect();
    parts.push((b"{\"x\":\"\xff\"}".to_vec(), b"{}".to_vec()));
    parts.push((b"{}".to_vec(), b"{\"x\":\"a\xffb\"}".to_vec()));
    let inner = format!("{}.{}.{}", url("{}"), url(CLAIMS), url("sig"));
    for quoted in [inner.clone(), format!("\"{inner}\""), format!("'{inner}"), format!("{inner} ")] {
        parts.push((br#"{"cty":"JWT"}"#.to_vec(), quoted.into_bytes()));
    }
    parts
}

/// Tokens nobody signed.
fn malformed() -> Vec<String> {
    let whole = format!("{}.{}.{}", url(r#"{"alg":"RS256"}"#), url("{}"), url("sig"));
    [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "e30.e30.",
        "e30.e30.=",
        "e30=.e30.YQ==",
        "e30.e30.YQ",
        "e30.e30.Y",
        "é.é.é",
    ]
    .iter()
    .map(|text| (*text).to_owned())
    .chain([format!(" {whole}"), format!("{whole}\n"), format!("{whole}="), whole.replace('.', ".\n"), whole.replace('.', "..")])
    .chain(["e30.e30.YR", "e30.e30.a+b/", "e30.e30.a-b_"].map(str::to_owned))
    .collect()
}

/// Every form of key, of which only some fit.
fn keys(own: &Pair, other: &Pair, name: &str) -> Vec<Value> {
    let jwk = |more: Value| own.jwk(&more);
    let set = |keys: Vec<Value>| json!(json!({"keys": keys}).to_string());
    let mut keys = vec![
        json!(own.public_pem()),
        json!(own.certificate_pem()),
        json!(format!("{}\n", own.public_pem())),
        json!(format!("before\n{}", own.public_pem())),
        json!(own.public_pem().trim_end()),
        json!(own.public_pem().replace('\n', "\r\n")),
        json!(format!("{}{}", own.public_pem(), other.public_pem())),
        json!(own.public_pem().replace("PUBLIC KEY", "RSA PUBLIC KEY")),
        json!(own.public_pem().replace("-----END", "----END")),
        json!(own.public_pem().replace("MI", "MA")),
        json!(other.public_pem()),
        json!(other.certificate_pem()),
        json!(jwk(json!({})).to_string()),
        json!(jwk(json!({"alg": name, "kid": "k1", "use": "sig"})).to_string()),
        json!(jwk(json!({"alg": "HS256"})).to_string()),
        json!(jwk(json!({"alg": "RSA-OAEP"})).to_string()),
        json!(jwk(json!({"alg": "nonsense"})).to_string()),
        json!(jwk(json!({"kid": 7})).to_string()),
        json!(jwk(json!({"kty": "XX"})).to_string()),
        set(vec![]),
        set(vec![jwk(json!({"kid": "k1"}))]),
        set(vec![other.jwk(&json!({"kid": "k1"})), jwk(json!({"kid": "k2"}))]),
        set(vec![other.jwk(&json!({"kid": "k2"})), jwk(json!({"kid": "k3"}))]),
        set(vec![other.jwk(&json!({"alg": "RS512"})), jwk(json!({"alg": name}))]),
        set(vec![jwk(json!({"alg": if name == "RS256" { "RS384" } else { "RS256" }}))]),
        set(vec![json!({"kty": "oct", "k": url(SECRET)}), jwk(json!({}))]),
        set(vec![json!({"kty": "XX"}), jwk(json!({}))]),
        set(vec![json!({"kty": "RSA"}), jwk(json!({}))]),
        set(vec![json!({}), jwk(json!({}))]),
        json!(json!({"kty": "oct", "k": url(SECRET)}).to_string()),
        json!(r#"{"keys": {}}"#),
        json!(r#"{"keys": null}"#),
        json!("{}"),
        json!("[]"),
        json!(""),
        json!("nonsense"),
        json!(own.private_jwk().to_string()),
    ];
    keys.extend(odd());
    keys
}

/// Tokens of one key and algorithm, good ones and such that only look so.
fn signed(own: &Pair, other: &Pair, name: &str) -> Vec<String> {
    let with = |members: &str| format!("{{\"alg\":\"{name}\"{members}}}");
    let good = own.token(name, &with(""), CLAIMS);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    vec![
        good.clone(),
        own.token(name, &with(r#","kid":"k1""#), CLAIMS),
        own.token(name, &with(r#","kid":"k2""#), CLAIMS),
        own.token(name, &with(r#","kid":7"#), CLAIMS),
        own.token(name, &with(r#","typ":null"#), CLAIMS),
        own.token(name, &with(r#","crit":["kid"]"#), CLAIMS),
        own.token(name, &with(r#","crit":["b64"],"b64":false"#), CLAIMS),
        own.token(name, &with(r#","crit":[]"#), CLAIMS),
        own.token(name, &with(r#","crit":"b64""#), CLAIMS),
        own.token(name, &with(r#","crit":[7,"b64"],"b64":false"#), CLAIMS),
        own.token(name, r#"{"alg":"none"}"#, CLAIMS),
        own.token(name, r#"{"alg":"HS256"}"#, CLAIMS),
        own.token(name, "{}", CLAIMS),
        own.token(name, &with(""), "no json"),
        other.token(other.algorithms[0], &with(""), CLAIMS),
        format!("{header}.{}.{signature}", url(r#"{"sub":"somebody else"}"#)),
        format!("{head}."),
        format!("{head}.{}", url(vec![0_u8; 64])),
        format!("{good}="),
        format!("{head}.{}", &signature[..signature.len() - 3]),
    ]
}

const VERIFY: [(&str, &str); 10] = [
    ("RS256", "io.jwt.verify_rs256"),
    ("RS384", "io.jwt.verify_rs384"),
    ("RS512", "io.jwt.verify_rs512"),
    ("PS256", "io.jwt.verify_ps256"),
    ("PS384", "io.jwt.verify_ps384"),
    ("PS512", "io.jwt.verify_ps512"),
    ("ES256", "io.jwt.verify_es256"),
    ("ES384", "io.jwt.verify_es384"),
    ("ES512", "io.jwt.verify_es512"),
    ("EdDSA", "io.jwt.verify_eddsa"),
];
const VERIFY_SECRET: [(&str, &str); 3] =
    [("HS256", "io.jwt.verify_hs256"), ("HS384", "io.jwt.verify_hs384"), ("HS512", "io.jwt.verify_hs512")];

/// `io.jwt.decode` and `io.jwt.verify_…`
pub(crate) fn tokens() -> Vec<Case> {
    let mut dice = Dice(7);
    let mut cases = Vec::new();
    let decode = |token: Value| case("io.jwt.decode", &[token]);
    for (header, payload) in parts() {
        cases.push(decode(json!(format!("{}.{}.{}", url(&header), url(&payload), url("sig")))));
    }
    cases.extend(malformed().into_iter().map(|token| decode(json!(token))));
    cases.extend(odd().into_iter().map(decode));
    let whole = format!("{}.{}.{}", url(r#"{"alg":"RS256","kid":"k"}"#), url(CLAIMS), url("sig"));
    cases.extend((0..200).map(|_| decode(json!(dice.damaged(&whole)))));

    let (pairs, others) = (Pair::all(), Pair::all());
    for (place, pair) in pairs.iter().enumerate() {
        let other = &others[if dice.below(2) == 0 { place } else { (place + 1) % others.len() }];
        for name in pair.algorithms {
            let (tokens, keys) = (signed(pair, other, name), keys(pair, other, name));
            let function = VERIFY.iter().find(|(known, _)| known == name).unwrap().1;
            for (at, token) in tokens.iter().enumerate() {
                for (which, key) in keys.iter().enumerate() {
                    // Every key with the first tokens, every token with the first key, and some of the rest.
                    if at < 2 || which == 0 || which == 20 || which == 36 || dice.below(6) == 0 {
                        cases.push(case(function, &[json!(token), key.clone()]));
                    }
                }
            }
            for (_, function) in VERIFY {
                cases.push(case(function, &[json!(tokens[0]), json!(pair.public_pem())]));
            }
            for _ in 0..8 {
                cases.push(case(function, &[json!(dice.damaged(&tokens[0])), json!(pair.public_pem())]));
                cases.push(case(function, &[json!(tokens[0]), json!(dice.damaged(&pair.jwk(&json!({})).to_string()))]));
            }
        }
    }
    for (name, function) in VERIFY_SECRET {
        let good = sealed(name, SECRET, &format!("{{\"alg\":\"{name}\"}}"), CLAIMS);
        let mut tokens = vec![good.clone(), sealed(name, "", "{}", "{}"), sealed("HS256", SECRET, "no json", "{}")];
        tokens.extend(malformed());
        tokens.extend((0..20).map(|_| dice.damaged(&good)));
        for token in tokens {
            for secret in [SECRET, "", "other"] {
                cases.push(case(function, &[json!(token), json!(secret)]));
            }
        }
        for value in odd() {
            cases.push(case(function, &[json!(good), value.clone()]));
            cases.push(case(function, &[value, json!(SECRET)]));
        }
    }
    cases
}

/// `io.jwt.decode_verify`
pub(crate) fn constraints() -> Vec<Case> {
    const VERIFIED: &str = "io.jwt.decode_verify";
    let mut dice = Dice(11);
    let mut cases = Vec::new();
    let payloads = [
        CLAIMS.to_owned(),
        "{}".to_owned(),
        json!({"exp": 2000}).to_string(),
        json!({"exp": "2000"}).to_string(),
        r#"{"exp":1500.0000005,"nbf":1499.5}"#.to_owned(),
        json!({"nbf": 1500}).to_string(),
        json!({"nbf": null}).to_string(),
        json!({"aud": "gate"}).to_string(),
        json!({"aud": ["other", 7, "gate"]}).to_string(),
        json!({"aud": []}).to_string(),
        json!({"exp": 1_589_385_770.123_4}).to_string(),
        json!({"nbf": 1_589_385_770.123_5}).to_string(),
        json!({"aud": 7}).to_string(),
        json!({"aud": ""}).to_string(),
        json!({"aud": {"gate": 1}}).to_string(),
        json!({"iss": "issuer", "aud": "gate"}).to_string(),
        json!({"iss": "", "sub": "x"}).to_string(),
        "[]".to_owned(),
        "no json".to_owned(),
    ];
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let demands = [
        json!({}),
        json!({"time": 1_500_000_000_000_u64}),
        json!({"time": 1_999_999_999_999_u64}),
        json!({"time": 2_000_000_000_000_u64}),
        json!({"time": 999_999_999_999_u64}),
        json!({"time": 1_000_000_000_000_u64}),
        json!({"time": 1_589_385_770_123_400_001_u64}),
        json!({"time": 18_000_000_000_000_000_000_000_f64}),
        json!({"time": 1_500_000_000_000_u64, "aud": "gate"}),
        json!({"time": 1_500_000_000_000_u64, "aud": "nobody"}),
        json!({"time": 1_500_000_000_000_u64, "aud": ""}),
        json!({"time": 1_500_000_000_000_u64, "iss": "issuer", "aud": "gate"}),
        json!({"time": 1_500_000_000_000_u64, "iss": "nobody", "aud": "gate"}),
        json!({"time": 1_500_000_000_000_u64, "alg": "HS256", "aud": "gate"}),
        json!({"time": 1_500_000_000_000_u64, "alg": "HS384", "aud": "gate"}),
        json!({"time": 1_500_000_000_000_u64, "alg": "", "aud": "gate"}),
        json!({"time": -1}),
        json!({"time": "1500"}),
        json!({"time": null}),
        json!({"time": 0}),
        json!({"aud": 7}),
        json!({"iss": null}),
        json!({"alg": ["HS256"]}),
        json!({"unknown": 1}),
        json!({"cert": "nonsense"}),
        json!({"cert": ""}),
        json!({"cert": r#"{"keys":[]}"#}),
    ];
    for payload in &payloads {
        let token = sealed("HS256", SECRET, header, payload);
        for demand in &demands {
            let mut with = demand.clone();
            with["secret"] = json!(SECRET);
            cases.push(case(VERIFIED, &[json!(token), with]));
        }
    }
    let token = sealed("HS256", SECRET, header, "{}");
    let time = 1_500_000_000_000_u64;
    for constraints in [
        json!({}),
        json!({"time": time}),
        json!({"secret": "", "time": time}),
        json!({"secret": 7}),
        json!({"secret": "other"}),
        json!({"cert": r#"{"keys":[]}"#}),
        json!({"cert": json!({"kty": "oct", "k": url(SECRET)}).to_string()}),
        json!({"cert": json!({"keys": [{"kty": "oct", "k": url(SECRET), "alg": "HS256"}]}).to_string()}),
        json!({"cert": json!({"keys": [{"kty": "oct", "k": url(SECRET), "alg": "HS384"}]}).to_string()}),
        json!([]),
        json!(null),
        json!("secret"),
    ] {
        cases.push(case(VERIFIED, &[json!(token), constraints]));
    }
    for token in malformed().into_iter().chain((0..60).map(|_| dice.damaged(&token))) {
        cases.push(case(VERIFIED, &[json!(token), json!({"secret": SECRET, "time": time})]));
    }
    // A token in a token, each with its own signature; the second time with somebody else's.
    for (secret, header) in
        [(SECRET, r#"{"alg":"HS256","cty":"JWT"}"#), (SECRET, r#"{"alg":"HS512","cty":"jwt"}"#), ("other", header)]
    {
        let algorithm = if header.contains("512") { "HS512" } else { "HS256" };
        let inner = sealed(algorithm, secret, r#"{"alg":"HS256"}"#, r#"{"sub":"inner"}"#);
        for inner in [inner.clone(), sealed("HS256", SECRET, r#"{"alg":"HS256"}"#, r#"{"sub":"inner"}"#), format!("\"{inner}\"")] {
            let outer = sealed(algorithm, SECRET, header, &inner);
            cases.push(case(VERIFIED, &[json!(outer), json!({"secret": SECRET, "time": time})]));
        }
    }
    let (pairs, others) = (Pair::all(), Pair::all());
    for (pair, other) in pairs.iter().zip(&others) {
        for name in pair.algorithms {
            let tokens = signed(pair, other, name);
            for (at, token) in tokens.iter().enumerate() {
                for (which, key) in keys(pair, other, name).into_iter().enumerate() {
                    if (at == 0 || which < 2 || dice.below(12) == 0) && key.is_string() {
                        // An RSA public key as a secret: the oldest way in.
                        let constraints = json!({"cert": key, "aud": "gate", "time": time});
                        cases.push(case(VERIFIED, &[json!(token), constraints]));
                        cases.push(case(VERIFIED, &[json!(token), key, json!(time)]));
                    }
                }
            }
            let confused = sealed("HS256", &pair.public_pem(), r#"{"alg":"HS256"}"#, "{}");
            cases.push(case(VERIFIED, &[json!(confused), json!({"cert": pair.public_pem(), "time": time})]));
            cases.push(case(VERIFIED, &[json!(tokens[0]), json!({"cert": pair.public_pem(), "secret": SECRET, "time": time})]));
            for demanded in ["RS256", "ES256", name] {
                let constraints = json!({"cert": pair.public_pem(), "alg": demanded, "aud": "other", "time": time});
                cases.push(case(VERIFIED, &[json!(tokens[0]), constraints]));
            }
        }
    }
    cases
}

/// `crypto.…`
pub(crate) fn digests() -> Vec<Case> {
    let long = "x".repeat(200);
    let texts = ["", "a", "message", "é😀", "\u{0}\n", &long, &long[..64], &long[..65]];
    let values: Vec<Value> = texts.iter().map(|text| json!(text)).chain(odd()).collect();
    let mut cases = Vec::new();
    for one in &values {
        for function in ["crypto.md5", "crypto.sha1", "crypto.sha256"] {
            cases.push(case(function, std::slice::from_ref(one)));
        }
        for other in &values {
            for function in ["crypto.hmac.md5", "crypto.hmac.sha1", "crypto.hmac.sha256", "crypto.hmac.sha512", "crypto.hmac.equal"]
            {
                cases.push(case(function, &[one.clone(), other.clone()]));
            }
        }
    }
    cases
}

/// `net.cidr_…`
pub(crate) fn networks() -> Vec<Case> {
    let plain = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/16",
        "10.1.2.3/32",
        "0.0.0.0/0",
        "192.168.0.0/24",
        "192.168.1.0/24",
        "255.255.255.255/32",
        "127.0.0.0/8",
        "::/0",
        "::1/128",
        "2001:db8::/32",
        "2001:db8:1::/48",
        "2001:db8::1/64",
        "fe80::/10",
        "ffff::/16",
        "::/80",
        "::/96",
    ];
    let mapped = ["::ffff:10.0.0.0/104", "::ffff:10.1.2.3/128", "::ffff:0:0/96", "::ffff:0:0/90", "::10.0.0.0/104"];
    let addresses =
        ["10.1.2.3", "0.0.0.0", "255.255.255.255", "::1", "::", "2001:db8::1", "::ffff:10.1.2.3", "::10.1.2.3", "fe80::1"];
    let wrong = [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/ 8",
        "10.0.0/8",
        "010.0.0.0/8",
        "::/129",
        "10.0.0.0/8/8",
        "fe80::1%eth0",
        "fe80::1%eth0/64",
        "a.b.c.d",
        "10.0.0.256",
        "1:2",
        "::g/8",
        "10.0.0.0/255.0.0.0",
        "٣.0.0.0/8",
        "10.0.0.0/0000000008",
        "10.0.0.0/99999999999",
    ];
    let all: Vec<Value> =
        plain.iter().chain(&mapped).chain(&addresses).chain(&wrong).map(|text| json!(text)).chain(odd()).collect();
    let mut cases = Vec::new();
    for one in &all {
        cases.push(case("net.cidr_is_valid", std::slice::from_ref(one)));
        for other in &all {
            cases.push(case("net.cidr_contains", &[one.clone(), other.clone()]));
            cases.push(case("net.cidr_intersects", &[one.clone(), other.clone()]));
        }
    }
    let mut dice = Dice(13);
    for _ in 0..400 {
        let many = |dice: &mut Dice| {
            let some: Vec<Value> = (0..dice.below(5))
                .map(|_| match dice.below(12) {
                    0 => json!([dice.one(&plain), "more"]),
                    1 if dice.below(4) == 0 => dice.one(&all).clone(),
                    2..6 => json!(dice.one(&addresses)),
                    _ => json!(dice.one(&plain)),
                })
                .collect();
            match dice.below(3) {
                0 => some.iter().enumerate().map(|(place, value)| (format!("k{place}"), value.clone())).collect(),
                1 => some.first().cloned().unwrap_or(json!("10.0.0.0/8")),
                _ => Value::from(some),
            }
        };
        cases.push(case("net.cidr_contains_matches", &[many(&mut dice), many(&mut dice)]));
    }
    for _ in 0..600 {
        // Neighbours, so that there is something to merge.
        let some: Vec<Value> = (0..dice.below(8))
            .map(|_| match dice.below(12) {
                0 => json!(dice.one(&plain)),
                1 => json!(format!("10.{}.{}.{}", dice.below(3), dice.below(2), dice.below(4))),
                2 if dice.below(8) == 0 => json!(dice.one(&wrong)),
                3 => json!(format!("2001:db8:{:x}::/{}", dice.below(8), 45 + dice.below(4))),
                4 => json!(format!("255.255.255.{}/{}", 248 + dice.below(8), 30 + dice.below(3))),
                5 => json!(format!("0.0.0.{}/{}", dice.below(8), 29 + dice.below(4))),
                _ => json!(format!("10.0.{}.0/{}", dice.below(8), 20 + dice.below(7))),
            })
            .collect();
        cases.push(case("net.cidr_merge", &[json!(some)]));
    }
    cases.extend(odd().into_iter().map(|value| case("net.cidr_merge", &[value])));
    cases
}

/// `array.flatten`, `strings.split_n`
pub(crate) fn lists() -> Vec<Case> {
    let mut cases = Vec::new();
    let nested = [json!([1, [2, [3]], [], {"a": [4]}]), json!([[]]), json!([null, ["a"], "b"]), json!("text")];
    cases.extend(nested.into_iter().chain(odd()).map(|value| case("array.flatten", &[value])));
    let texts = ["", "a", "a.b", "a.b.c.d", "..", "é.ü", "aXbXc"].map(|text| json!(text));
    let counts = [json!(0), json!(1), json!(2), json!(-1), json!(-2), json!(99), json!(-99), json!(1.5), json!("1"), json!(null)];
    for text in texts.iter().chain(&odd()) {
        for delimiter in [json!("."), json!(""), json!("X"), json!("bXc"), json!(7)] {
            for count in &counts {
                cases.push(case("strings.split_n", &[text.clone(), delimiter.clone(), count.clone()]));
            }
        }
    }
    cases
}

/// `uri.parse`, `uri.is_valid`
pub(crate) fn uris() -> Vec<Case> {
    let texts = [
        "",
        "*",
        "?",
        "#",
        "/",
        "//",
        "///",
        "////a",
        "a",
        "a/b",
        "a:b",
        "/a:b",
        ":a",
        "1a:b",
        "a+b.c-d:e",
        "A:b",
        "é:a",
        "http:",
        "http://",
        "http:///a",
        "http:/a",
        "http:a/b?c#d",
        "https://Example.org",
        "https://example.org:8443/a/b?x=1&y=%20#f%20g",
        "https://u:p@example.org/",
        "https://u%41@h",
        "https://u@v@h",
        "https://u v@h",
        "https://u%zz@h",
        "https://@h",
        "https://h:",
        "https://h:80a",
        "https://h:a",
        "https://h:1:2",
        "x://h:1:2",
        "x://h:1:a",
        "https://[::1]",
        "https://[::1]:80/a",
        "https://[::1]a",
        "https://[::1",
        "https://a[::1]",
        "https://[1.2.3.4]",
        "https://[fe80::1%25eth0]:1",
        "https://[fe80::1%25]",
        "https://[fe80::1%eth0]",
        "https://[fe80::1%25a%20b]",
        "https://[::1%2541]",
        "https://[v1.a]",
        "https://h%41",
        "https://h%C3%A9",
        "https://h%25",
        "https://h%e9",
        "https://h ",
        "https://h\\a",
        "https://h^",
        "https://h<>\"",
        "https://é.ch/é",
        "https://h/%2F",
        "https://h/%2f",
        "https://h/%",
        "https://h/%4",
        "https://h/%zz",
        "https://h/a b",
        "https://h/a%20b",
        "https://h/a!b",
        "https://h/a+b",
        "https://h/[a]",
        "https://h/..//a/./",
        "https://h?",
        "https://h?a?",
        "https://h?a?b",
        "https://h??",
        "https://h?%zz",
        "https://h#%zz",
        "https://h#a#b",
        "https://h#a!b",
        "https://h/\t",
        "https://h/\u{7f}",
        "https://h#\t",
        "mailto:a@b",
        "urn:uuid:1",
        "spiffe://example.org/ns/a",
        "//h/a",
        "//h:80",
        "h:80/a",
        "127.0.0.1:80",
        "./a:b",
        "?a:b",
        "https://h/%ff",
        "javascript:alert(1)",
    ];
    let mut dice = Dice(19);
    let mut values: Vec<Value> = texts.iter().map(|text| json!(text)).chain(odd()).collect();
    values.extend((0..400).map(|_| {
        let whole = *dice.one(&texts);
        let once = dice.damaged(whole);
        json!(dice.damaged(&once))
    }));
    for _ in 0..300 {
        let signs = [
            ":", "/", "//", "?", "#", "@", "[", "]", "%", "%25", "%41", "a", "B", "1", "::1", ".", "http", "é", " ", "*", "+",
            "\"", "|",
        ];
        let count = dice.below(9);
        values.push(json!((0..count).map(|_| *dice.one(&signs)).collect::<String>()));
    }
    values
        .iter()
        .flat_map(|value| ["uri.parse", "uri.is_valid"].map(|function| case(function, std::slice::from_ref(value))))
        .collect()
}
