//! Signed bundles between this program and the real `opa`, in both directions, and everything that must break a signature.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, and says where")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::policy::bundle::sign::{Contents, Statement};
use portcullis::policy::bundle::signature::{Algorithm, Key, Signatures, Signing};
use portcullis::policy::bundle::{self, Bounds, Bundle};
use portcullis::policy::{BundleSource, Config, Entry, Policy};
use portcullis::units::Secret;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");
const REGO: &str = "package portcullis\n\ndecision := data.odd.allowed\n";
/// Numbers as they are written, words as they are escaped, keys that sort by their bytes.
const ODD: &str = "{\"odd\": {\"allowed\": true, \"n\": [1e2, 1.0, -0, 1E+2, 12345678901234567890123, 0.1], \"é\": \"z\", \"Z\": {\"b\": null, \"a\": []},\
 \"text\": \"\u{2028}\\u2029<&>\\u0041\\b\\f\\u0001\\/\u{7f}\", \"\": {}}}";
const YAML: &str = "n: [1.0, 1.5, 123456789012, 1e-7, -3]\ntext: \"a\\u2028b\"\nnested: {z: ~, a: {}}\n";

fn opa() -> &'static Path {
    static OPA: OnceLock<PathBuf> = OnceLock::new();
    OPA.get_or_init(|| {
        let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts");
        let output = Command::new(parts).arg("opa").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("opa")
    })
}

fn run(program: impl AsRef<std::ffi::OsStr>, home: &Path, arguments: &[&str]) -> Output {
    Command::new(program).current_dir(home).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(program: impl AsRef<std::ffi::OsStr>, home: &Path, arguments: &[&str]) -> String {
    let output = run(program, home, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with a policy in `policy/` and keys beside it.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    for (name, content) in [("policy.rego", REGO), ("data.json", ODD), ("y/data.yaml", YAML), (".manifest", MANIFEST)] {
        std::fs::create_dir_all(at("policy").join(name).parent().unwrap()).unwrap();
        std::fs::write(at("policy").join(name), content).unwrap();
    }
    for script in [
        "openssl genrsa -out rsa.pem 2048",
        "openssl rsa -in rsa.pem -pubout -out rsa.pub",
        "openssl genrsa -out other.pem 2048",
        "openssl rsa -in other.pem -pubout -out other.pub",
        "openssl ecparam -name prime256v1 -genkey -noout -out ec.pem",
        "openssl ec -in ec.pem -pubout -out ec.pub",
    ] {
        let words: Vec<&str> = script.split(' ').collect();
        done(words[0], home.path(), &words[1..]);
    }
    std::fs::write(at("secret"), "a-secret-of-both").unwrap();
    home
}

const MANIFEST: &str = "{\"revision\": \"r1\", \"roots\": [\"portcullis\", \"odd\", \"y\"], \"metadata\": {\"n\": 1.0}}";

fn signing(home: &Path, key: &str, algorithm: Algorithm, scope: &str) -> Signing {
    let key = Key { key: Secret::File(home.join(key)), algorithm, scope: String::new() };
    Signing {
        keyid: Some("default".to_owned()),
        scope: Some(scope.to_owned()),
        keys: Arc::new(BTreeMap::from([("default".to_owned(), key)])),
        ..Signing::default()
    }
}

fn read(path: &Path, signing: &Signing) -> Result<Bundle, String> {
    bundle::read("authz", path, &Bounds::default(), Signatures::Verify(signing))
        .map_err(|findings| findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

const PAIRS: [(&str, &str, &str, Algorithm); 4] = [
    ("RS256", "rsa.pem", "rsa.pub", Algorithm::RS256),
    ("PS256", "rsa.pem", "rsa.pub", Algorithm::PS256),
    ("ES256", "ec.pem", "ec.pub", Algorithm::ES256),
    ("HS256", "secret", "secret", Algorithm::HS256),
];

#[test]
fn what_opa_builds_and_signs_verifies_and_judges_here() {
    let home = home();
    let home = home.path();
    std::fs::write(home.join("claims.json"), "{\"scope\": \"write\", \"iat\": 1700000000}").unwrap();
    for (name, private, public, algorithm) in PAIRS {
        let archive = format!("{name}.tar.gz");
        let line = ["build", "-b", "policy", "--signing-key", private, "--signing-alg", name, "--claims-file", "claims.json", "-o"];
        done(opa(), home, &[&line[..], &[&archive]].concat());
        let signing = signing(home, public, algorithm, "write");
        let bundle = read(&home.join(&archive), &signing).unwrap_or_else(|why| panic!("{name}: {why}"));
        let signature = bundle.signature.unwrap();
        assert_eq!((signature.issued_at, signature.scope.as_str()), (Some(1_700_000_000), "write"));

        // `opa sign` keeps the files as they lie: documents are hashed by their own text there. It names files as they were named
        // to it, so it is called in the directory itself.
        let private = if name == "HS256" { "a-secret-of-both" } else { &format!("../{private}") };
        let line = ["sign", "-b", ".", "--signing-key", private, "--signing-alg", name, "--claims-file", "../claims.json"];
        done(opa(), &home.join("policy"), &line);
        read(&home.join("policy"), &signing).unwrap_or_else(|why| panic!("{name}, a directory: {why}"));
        let line = ["bundle", "verify", "policy", "--key", public, "--algorithm", name, "--scope", "write"];
        assert!(done(PROGRAM, home, &line).contains("2023-11-14T22:13:20Z"));

        let source = BundleSource { signing: Some(signing), ..BundleSource::at(home.join(&archive)) };
        let config: Config = serde_json::from_value(json!({"bundles": {"authz": {"path": "x"}}})).unwrap();
        let config = Config { bundles: BTreeMap::from([("authz".to_owned(), source)]), ..config };
        let policy = Policy::load(&config, &[Entry::new("portcullis/decision", None)]).unwrap();
        assert_eq!(policy.signatures()["authz"].issued_at, Some(1_700_000_000));
        std::fs::remove_file(home.join("policy/.signatures.json")).unwrap();
    }
}

#[test]
fn what_is_signed_here_verifies_and_judges_in_opa() {
    let home = home();
    let home = home.path();
    let built = done(PROGRAM, home, &["bundle", "build", "policy", "-o", "plain.tar.gz", "--revision", "r7"]);
    assert_eq!(built, "plain.tar.gz\n");
    for (name, private, public, _) in PAIRS {
        let archive = format!("{name}.tar.gz");
        let line = ["bundle", "sign", "plain.tar.gz", "--key", private, "--algorithm", name, "--scope", "write", "-o", &archive];
        done(PROGRAM, home, &line);
        let key = if name == "HS256" { "a-secret-of-both" } else { public };
        let verified = ["--verification-key", key, "--signing-alg", name, "--scope", "write"];
        done(opa(), home, &[&["build", "-b", &archive, "-o", "again.tar.gz"], &verified[..]].concat());
        let broken = run(opa(), home, &["build", "-b", &archive, "-o", "x", "--verification-key", key, "--signing-alg", name]);
        assert!(said(&broken).contains("scope mismatch"), "{}", said(&broken));
        let seen: Value = serde_json::from_str(&done(opa(), home, &["inspect", "-f", "json", &archive])).unwrap();
        assert_eq!(seen["manifest"]["revision"], "r7");
        // What OPA verified and built anew judges there as well.
        let judged = done(opa(), home, &["eval", "-b", "again.tar.gz", "-f", "raw", "data.portcullis.decision"]);
        assert_eq!(judged.trim(), "true");
        let line = ["bundle", "inspect", &archive, "--json"];
        let seen: Value = serde_json::from_str(&done(PROGRAM, home, &line)).unwrap();
        assert_eq!((&seen["signature"]["algorithm"], &seen["packages"]), (&json!(name), &json!(["portcullis"])));
    }
}

#[test]
fn the_same_files_give_the_same_archive() {
    let home = home();
    let home = home.path();
    let bytes = |name: &str| {
        done(
            PROGRAM,
            home,
            &["bundle", "build", "policy", "-o", name, "--revision", "r7", "--root", "portcullis", "--root", "odd", "--root", "y"],
        );
        std::fs::read(home.join(name)).unwrap()
    };
    let first = bytes("one.tar.gz");
    let later = std::fs::File::open(home.join("policy/policy.rego")).unwrap();
    later.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(first, bytes("two.tar.gz"));
    std::fs::write(home.join("policy/README.md"), "not part of a bundle").unwrap();
    std::fs::write(home.join("policy/.hidden"), "nor this").unwrap();
    assert_eq!(first, bytes("three.tar.gz"));
}

/// A directory's files by their names.
fn put(home: &Path, name: &str, content: &str) {
    let path = home.join("policy").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A token of any header and payload, by an HMAC of our own making.
fn token(header: &Value, payload: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(payload));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes())))
}

fn payload(home: &Path) -> Value {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(home.join("policy/.signatures.json")).unwrap()).unwrap();
    let token = file["signatures"][0].as_str().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn sign(home: &Path, key: &str, algorithm: Algorithm, scope: &str) {
    let mut contents = Contents::open(&home.join("policy")).unwrap();
    let key = std::fs::read_to_string(home.join(key)).unwrap();
    let statement = Statement { scope: Some(scope.to_owned()), ..Statement::default() };
    put(home, ".signatures.json", std::str::from_utf8(&contents.sign(&key, algorithm, &statement).unwrap()).unwrap());
}

#[test]
fn every_change_to_a_signed_bundle_is_refused_for_its_own_reason() {
    let home = home();
    let home = home.path();
    let remove = |name: &str| std::fs::remove_file(home.join("policy").join(name)).unwrap();
    let rows: &[(&str, &dyn Fn())] = &[
        ("policy.rego: it is not what was signed", &|| {
            put(home, "policy.rego", &REGO.replace("true", "True").replace(":=", ":= "))
        }),
        ("data.json: it is not what was signed", &|| put(home, "data.json", &ODD.replace("1.0", "1.00"))),
        ("data.json: it is not what was signed", &|| put(home, "data.json", &ODD.replace("true", "false"))),
        ("y/data.yaml: it is not what was signed", &|| put(home, "y/data.yaml", &YAML.replace("1.5", "1.6"))),
        (".manifest: it is not what was signed", &|| put(home, ".manifest", &MANIFEST.replace("r1", "r2"))),
        ("more.rego: the signature does not cover it", &|| put(home, "more.rego", "package portcullis\n\nmore := 1\n")),
        ("README.md: the signature does not cover it", &|| put(home, "README.md", "x")),
        ("data.yaml: the signature covers it, and it is not there", &|| remove("y/data.yaml")),
        ("q.rego: the signature does not cover it", &|| {
            std::fs::rename(home.join("policy/policy.rego"), home.join("policy/q.rego")).unwrap();
        }),
        ("does not verify with the key `default` (RS256)", &|| sign(home, "other.pem", Algorithm::RS256, "write")),
        ("is for the scope `read`, and `write` is expected", &|| sign(home, "rsa.pem", Algorithm::RS256, "read")),
        ("says `PS256`, and the key `default` is for RS256", &|| sign(home, "rsa.pem", Algorithm::PS256, "write")),
        ("says `ES256`, and the key", &|| sign(home, "ec.pem", Algorithm::ES256, "write")),
        ("says `none`, and the key", &|| {
            let token = token(&json!({"alg": "none"}), &payload(home), b"");
            put(home, ".signatures.json", &json!({"signatures": [token]}).to_string());
        }),
        // The public key as the secret of an HMAC: the classic.
        ("says `HS256`, and the key `default` is for RS256", &|| {
            let public = std::fs::read(home.join("rsa.pub")).unwrap();
            let token = token(&json!({"alg": "HS256"}), &payload(home), &public);
            put(home, ".signatures.json", &json!({"signatures": [token]}).to_string());
        }),
        ("does not verify", &|| {
            let public = std::fs::read(home.join("rsa.pub")).unwrap();
            let token = token(&json!({"alg": "RS256"}), &payload(home), &public);
            put(home, ".signatures.json", &json!({"signatures": [token]}).to_string());
        }),
        ("it holds several tokens", &|| {
            let file: Value =
                serde_json::from_str(&std::fs::read_to_string(home.join("policy/.signatures.json")).unwrap()).unwrap();
            let token = &file["signatures"][0];
            put(home, ".signatures.json", &json!({"signatures": [token, token]}).to_string());
        }),
        ("it holds no token", &|| put(home, ".signatures.json", "{\"signatures\": []}")),
        ("it holds no token", &|| put(home, ".signatures.json", "{}")),
        ("not a signature file", &|| put(home, ".signatures.json", "{\"signatures\": 1}")),
        ("asks for the verifier `mine`", &|| put(home, ".signatures.json", "{\"signatures\": [\"a.b.c\"], \"plugin\": \"mine\"}")),
        ("the token's form cannot be read", &|| put(home, ".signatures.json", "{\"signatures\": [\"a.b\"]}")),
        ("the bundle is not signed", &|| remove(".signatures.json")),
        ("there are several signature files", &|| put(home, "y/.signatures.json", "{}")),
    ];
    let signing = signing(home, "rsa.pub", Algorithm::RS256, "write");
    for (expected, tamper) in rows {
        std::fs::remove_dir_all(home.join("policy")).unwrap();
        for (name, content) in [("policy.rego", REGO), ("data.json", ODD), ("y/data.yaml", YAML), (".manifest", MANIFEST)] {
            put(home, name, content);
        }
        sign(home, "rsa.pem", Algorithm::RS256, "write");
        read(&home.join("policy"), &signing).unwrap_or_else(|why| panic!("{expected}: {why}"));
        tamper();
        let said = read(&home.join("policy"), &signing).expect_err(expected);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_token_that_is_well_signed_is_still_refused_for_what_it_says() {
    let home = home();
    let home = home.path();
    sign(home, "secret", Algorithm::HS256, "write");
    let good = payload(home);
    let signing = signing(home, "secret", Algorithm::HS256, "write");
    let with = |pointer: &str, value: Value| {
        let mut payload = good.clone();
        *payload.pointer_mut(pointer).unwrap() = value;
        payload
    };
    let more = |key: &str, value: Value| {
        let mut payload = good.clone();
        payload[key] = value;
        payload
    };
    let twice = |mut payload: Value| {
        let first = payload["files"][0].clone();
        payload["files"].as_array_mut().unwrap().push(first);
        payload
    };
    let header = json!({"alg": "HS256"});
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (expected, header, payload) in [
        ("it is signed with MD5", header.clone(), with("/files/0/algorithm", "MD5".into())),
        ("it is signed with SHA-1", header.clone(), with("/files/0/algorithm", "SHA-1".into())),
        ("it is signed with SHA-224", header.clone(), with("/files/0/algorithm", "SHA-224".into())),
        ("it is signed with no hash algorithm", header.clone(), with("/files/0/algorithm", "".into())),
        ("the signature lists it twice", header.clone(), twice(good.clone())),
        ("payload cannot be read", header.clone(), json!({"scope": "write"})),
        ("`iat` is -1", header.clone(), more("iat", (-1).into())),
        ("ahead of this machine's clock", header.clone(), more("iat", (now + 360).into())),
        ("marks parts as critical", json!({"alg": "HS256", "crit": ["exp"]}), good.clone()),
    ] {
        put(home, ".signatures.json", &json!({"signatures": [token(&header, &payload, b"a-secret-of-both")]}).to_string());
        let said = read(&home.join("policy"), &signing).expect_err(expected);
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let stands = |payload: &Value, header: &Value, signing: &Signing| {
        put(home, ".signatures.json", &json!({"signatures": [token(header, payload, b"a-secret-of-both")]}).to_string());
        read(&home.join("policy"), signing).map(|bundle| bundle.signature.unwrap().key)
    };
    assert_eq!(stands(&good, &header, &signing).unwrap(), "default");
    assert_eq!(stands(&more("iat", (now + 200).into()), &header, &signing).unwrap(), "default", "clocks differ a little");
    // The key's name: configured, then the header's, then the payload's; none, or one nobody knows, is refused.
    let open = Signing { keyid: None, ..signing.clone() };
    let named = json!({"alg": "HS256", "kid": "default"});
    assert_eq!(stands(&good, &named, &open).unwrap(), "default");
    assert_eq!(stands(&more("keyid", "default".into()), &header, &open).unwrap(), "default");
    assert_eq!(stands(&more("keyid", "gone".into()), &named, &open).unwrap(), "default");
    assert!(stands(&good, &header, &open).unwrap_err().contains("the token names no key"));
    assert!(stands(&more("keyid", "gone".into()), &header, &open).unwrap_err().contains("there is no key `gone`"));
    assert_eq!(stands(&good, &json!({"alg": "HS256", "kid": "gone"}), &signing).unwrap(), "default");
    // What is excluded need not be covered, and nothing else.
    put(home, "notes/a.txt", "x");
    let without = Signing { exclude_files: vec!["notes/*".to_owned()], ..signing.clone() };
    assert!(stands(&good, &header, &signing).unwrap_err().contains("notes/a.txt: the signature does not cover it"));
    assert_eq!(stands(&good, &header, &without).unwrap(), "default");
    put(home, "notes/deep/a.txt", "x");
    assert!(stands(&good, &header, &without).unwrap_err().contains("notes/deep/a.txt"));
}
