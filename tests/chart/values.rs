//! Which values are taken: the schema has the gate's own, a bad value is refused in words that help, and what is rendered from a good
//! one is a configuration the gate takes.

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

use crate::helm::{PROGRAM, helm, kind, name, objects, root, said, sets, values_file, writing};

/// Where the gate's part of the schema begins; it is the last of `$defs`.
const MARK: &str = "\n    \"gate\": ";

/// What the chart sets by itself.
const OURS: [&str; 4] = ["identity", "state", "admin", "control"];

fn gate_schema_text() -> String {
    let output = Command::new(PROGRAM).arg("schema").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The gate's schema as it stands inside the chart's: without what the chart sets, and without descriptions, which nobody is shown.
fn gate_schema() -> Value {
    let mut schema: Value = serde_json::from_str(&gate_schema_text()).unwrap();
    let room = |schema: &Value, key: &str| {
        let reference = schema["properties"][key]["$ref"].as_str().unwrap();
        reference.trim_start_matches("#/$defs/").to_owned()
    };
    let (policy, audit) = (room(&schema, "policy"), room(&schema, "audit"));
    for (name, key) in [(policy, "bundles"), (audit, "file")] {
        let definition = &mut schema["$defs"][name];
        definition["properties"].as_object_mut().unwrap().remove(key).unwrap();
        definition.as_object_mut().unwrap().remove("required");
    }
    let top = schema.as_object_mut().unwrap();
    for key in ["$schema", "title"] {
        top.remove(key);
    }
    for key in OURS {
        top["properties"].as_object_mut().unwrap().remove(key).unwrap();
    }
    let required = top["required"].as_array_mut().unwrap();
    required.retain(|key| !OURS.contains(&key.as_str().unwrap()) && key != "policy");
    moved(&mut schema);
    let used = schema.to_string();
    let definitions = schema["$defs"].as_object_mut().unwrap();
    definitions.retain(|name, _| used.contains(&format!("#/$defs/gate/$defs/{name}\"")));
    schema
}

fn moved(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/$defs/", "#/$defs/gate/$defs/");
            }
            map.values_mut().for_each(moved);
        }
        Value::Array(items) => items.iter_mut().for_each(moved),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One definition a line.
fn written(schema: &Value) -> String {
    let mut top: Map<String, Value> = schema.as_object().unwrap().clone();
    let definitions = top.remove("$defs").unwrap();
    let lines = definitions.as_object().unwrap().iter().map(|(name, definition)| format!("        \"{name}\": {definition}"));
    let head = Value::Object(top).to_string();
    let head = head.strip_suffix('}').unwrap();
    format!("{head},\n      \"$defs\": {{\n{}\n      }}\n    }}\n  }}\n}}\n", lines.collect::<Vec<_>>().join(",\n"))
}

#[test]
fn the_schema_has_the_configuration_of_the_gate() {
    let path = root().join("charts/portcullis/values.schema.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let (ours, theirs) = text.split_once(MARK).unwrap();
    let wanted = written(&gate_schema());
    if writing() {
        std::fs::write(&path, format!("{ours}{MARK}{wanted}")).unwrap();
        return;
    }
    assert!(
        theirs == wanted,
        "{} has an older configuration than `portcullis schema`; PORTCULLIS_WRITE=1 writes it anew",
        path.display()
    );
}

#[test]
fn values_that_cannot_stand_are_refused_and_the_message_says_where() {
    let digest = "image.digest=latest";
    for (set, more, words) in [
        ("minimal", "replicas=2", "at '/replicas': value must be 1"),
        ("minimal", "replica=1", "additional properties 'replica' not allowed"),
        ("minimal", "image.repository=", "at '/image/repository': minLength"),
        ("minimal", digest, "at '/image/digest'"),
        ("minimal", "mode=both", "at '/mode': value must be one of 'gate', 'sidecar'"),
        ("minimal", "state.accessModes={ReadWriteMany}", "at '/state/accessModes/0': value must be one of"),
        ("minimal", "securityContext.runAsUser=0", "at '/securityContext/runAsUser'"),
        ("minimal", "metrics.podMonitr.enabled=true", "additional properties 'podMonitr' not allowed"),
        ("minimal", "policy.bundles.authz.archiv=x", "additional properties 'archiv' not allowed"),
        ("minimal", "policy.bundles.Bad_Name.configMap=x", "at '/policy/bundles': additional properties 'Bad_Name' not allowed"),
        // The gate's own configuration.
        ("minimal", "config.environmnt=x", "at '/config': additional properties 'environmnt' not allowed"),
        ("minimal", "config.admin.address=0.0.0.0:1", "at '/config': additional properties 'admin' not allowed"),
        ("minimal", "config.audit.file=x", "at '/config/audit': additional properties 'file' not allowed"),
        ("minimal", "config.upstreams.payroll.endpont=x", "additional properties 'endpont' not allowed"),
        ("minimal", "config.limits.headers=many", "at '/config/limits/headers': got string, want integer"),
        ("minimal", "config.listeners=null", "at '/config/listeners': got null, want array"),
        // What values say together.
        ("minimal", "identity.files.secret=", "name the Secret with the gate's certificate"),
        ("minimal", "identity.files.csi.driver=x", "secret and csi are both set"),
        ("minimal", "identity.trustDomain=other.org", "the gate's own trust domain other.org is missing"),
        ("minimal", "audit.to=file", "name the claim the record is written to"),
        ("minimal", "adminPort=8443", "is the port of listener admin-api as well"),
        ("minimal", "mode=sidecar", "Set state.kind to emptyDir"),
        ("minimal", "config.listeners[0].name=a-name-that-is-too-long", "which has at most 15 characters"),
        ("minimal", "config.listeners[0].address=127.0.0.1:8443", "all of them are on 127.0.0.1"),
        ("sidecar", "metrics.serviceMonitor.enabled=true", "choose one"),
    ] {
        let output = helm(&["template", "gate", "charts/portcullis", "-f", &values_file(set), "--set", more]);
        assert!(!output.status.success(), "{more} was taken");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(words), "{more}: {message}");
    }
    let output = helm(&["template", "gate", "charts/portcullis"]);
    let message = String::from_utf8_lossy(&output.stderr);
    for words in ["at '/image/repository'", "at '/identity/trustDomain'", "at '/policy/bundles'", "at '/config'"] {
        assert!(message.contains(words), "without values: {message}");
    }
}

/// Writes what a pod finds beneath /etc/portcullis into a folder, and returns the gate's configuration with its paths moved there.
pub(crate) fn unpack(rendered: &[Value], folder: &Path) -> String {
    let config = rendered.iter().find(|object| kind(object) == "ConfigMap" && object["data"]["gate.yaml"].is_string()).unwrap();
    let text = config["data"]["gate.yaml"].as_str().unwrap();
    let place = folder.to_str().unwrap();
    let moved = ["/etc/portcullis", "/var/lib/portcullis", "/var/log/portcullis", "/run/portcullis"]
        .iter()
        .fold(text.to_owned(), |text, path| text.replace(path, place));
    let parsed: Value = serde_yaml::from_str(text).unwrap();
    for (bundle, source) in parsed["policy"]["bundles"].as_object().unwrap() {
        let path = folder.join(source["path"].as_str().unwrap().trim_start_matches("/etc/portcullis/"));
        let ending = format!("-policy-{bundle}");
        let inline = rendered.iter().find(|object| kind(object) == "ConfigMap" && name(object).ends_with(&ending));
        if let Some(map) = inline {
            as_a_volume(&path, map["data"].as_object().unwrap().iter().map(|(name, text)| (name.as_str(), text.as_str().unwrap())));
        } else if path.extension().is_some() {
            archive(&path);
        } else {
            // A ConfigMap of the user's: the shipped policy.
            let read = |name: &str| std::fs::read_to_string(root().join("policies/admin-api").join(name)).unwrap();
            let files = ["policy.rego", "data.json"].map(|name| (name, read(name)));
            as_a_volume(&path, files.iter().map(|(name, text)| (*name, text.as_str())));
        }
    }
    moved
}

/// A folder as the kubelet makes one of a ConfigMap: links to links.
fn as_a_volume<'a>(path: &Path, files: impl Iterator<Item = (&'a str, &'a str)>) {
    std::fs::create_dir_all(path.join("..2026_11_24")).unwrap();
    std::os::unix::fs::symlink("..2026_11_24", path.join("..data")).unwrap();
    for (name, text) in files {
        std::fs::write(path.join("..2026_11_24").join(name), text).unwrap();
        std::os::unix::fs::symlink(Path::new("..data").join(name), path.join(name)).unwrap();
    }
}

/// The bundle of roles.
fn archive(path: &Path) {
    let parent = path.parent().unwrap();
    std::fs::create_dir_all(parent).unwrap();
    let mut builder =
        tar::Builder::new(flate2::write::GzEncoder::new(std::fs::File::create(path).unwrap(), flate2::Compression::fast()));
    for (name, text) in
        [("/.manifest", r#"{"revision": "1", "roots": ["roles"]}"#), ("/data.json", r#"{"roles": {"operators": []}}"#)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name.trim_start_matches('/'), text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap();
}

#[test]
fn the_gate_takes_the_configuration_of_every_value_set() {
    for set in sets() {
        let folder = tempfile::tempdir().unwrap();
        let text = unpack(&objects(&set), folder.path());
        let config = folder.path().join("gate.yaml");
        std::fs::write(&config, &text).unwrap();
        let output = Command::new(PROGRAM).args(["check", "-c"]).arg(&config).env("STAGE", "production").output().unwrap();
        assert!(output.status.success(), "{set}: {}\n{text}", said(&output));
    }
}
