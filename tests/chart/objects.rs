//! The objects themselves: valid by the schemas of Kubernetes and of the Prometheus Operator, and fit for a namespace that enforces
//! restricted Pod Security.

use std::process::Command;

use serde_json::{Value, json};

use crate::helm::{documents, kind, name, objects, part, root, said, sets, text};

#[test]
fn kubernetes_takes_every_object() {
    let python = part("python").join("python");
    let folder = tempfile::tempdir().unwrap();
    let mut validator = Command::new(python);
    validator.arg(root().join("tests/parts.d/kubernetes.py"));
    for set in sets() {
        let file = folder.path().join(format!("{set}.yaml"));
        std::fs::write(&file, text(&set)).unwrap();
        validator.arg(file);
    }
    // Something that is wrong, so that a validator that takes everything is noticed.
    let broken = folder.path().join("broken.yaml");
    std::fs::write(&broken, text("minimal").replace("terminationGracePeriodSeconds:", "terminationGracePeriod:")).unwrap();
    let output = validator.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let output = validator.arg(broken).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("terminationGracePeriod"), "{}", said(&output));
}

/// The schema of a kind of the Prometheus Operator, closed: what the API server would drop is a mistake here.
fn definition(of: &str) -> Value {
    let file = part("prometheus-operator").join(format!("{}s.yaml", of.to_lowercase()));
    let definitions = documents(&std::fs::read_to_string(file).unwrap());
    let mut schema = definitions[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    // The schema leaves what every object has to the API server.
    schema["properties"]["metadata"] = json!({});
    close(&mut schema);
    schema
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let open = map.contains_key("x-kubernetes-preserve-unknown-fields") || map.contains_key("additionalProperties");
            if map.get("properties").is_some_and(Value::is_object) && !open {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_prometheus_operator_takes_every_monitor_and_rule() {
    for of in ["PodMonitor", "ServiceMonitor", "PrometheusRule"] {
        let schema = jsonschema::validator_for(&definition(of)).unwrap();
        let all: Vec<Value> = sets().iter().flat_map(|set| objects(set)).filter(|object| kind(object) == of).collect();
        assert!(!all.is_empty(), "no value set makes a {of}");
        for object in &all {
            let mistakes: Vec<_> = schema.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect();
            assert!(mistakes.is_empty(), "{of}: {}", mistakes.join("; "));
        }
        let mut broken = all[0].clone();
        broken["spec"]["selektor"] = json!({});
        assert!(!schema.is_valid(&broken), "{of} takes unknown keys");
    }
}

/// The pods an object makes.
fn pod(object: &Value) -> Option<&Value> {
    match kind(object) {
        "Deployment" | "Job" => Some(&object["spec"]["template"]["spec"]),
        "Pod" => Some(&object["spec"]),
        _ => None,
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|key| pod[key].as_array()).flatten()
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, restricted, and what we ask besides: no token of the API
/// server, a read-only root file system, a memory limit.
#[test]
fn every_pod_meets_the_restricted_standard() {
    let volumes = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for set in sets() {
        let rendered = objects(&set);
        let pods: Vec<_> = rendered.iter().filter_map(|object| pod(object).map(|pod| (name(object), pod))).collect();
        assert!(!pods.is_empty(), "{set}");
        for (name, pod) in pods {
            let place = format!("{set}: {name}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{place}");
            for key in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
                assert!(pod[key].is_null(), "{place}: {key}");
            }
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                let sources = volume.as_object().unwrap().keys().filter(|key| *key != "name");
                assert!(
                    sources.clone().count() == 1 && sources.clone().all(|key| volumes.contains(&key.as_str())),
                    "{place}: {volume}"
                );
            }
            for container in containers(pod) {
                let (own, shared) = (&container["securityContext"], &pod["securityContext"]);
                let either = |key: &str| if own[key].is_null() { &shared[key] } else { &own[key] };
                assert_eq!(own["allowPrivilegeEscalation"], false, "{place}");
                assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{place}");
                assert_eq!(own["readOnlyRootFilesystem"], true, "{place}");
                assert_eq!(either("runAsNonRoot"), true, "{place}");
                assert_eq!(either("seccompProfile")["type"], "RuntimeDefault", "{place}");
                assert!(either("runAsUser").as_u64().is_some_and(|user| user > 0), "{place}");
                assert!(own["privileged"].is_null() && container["ports"].to_string().find("hostPort").is_none(), "{place}");
                let ours = container["image"].as_str().unwrap().contains("/portcullis");
                assert!(!ours || container["resources"]["limits"]["memory"].is_string(), "{place}");
            }
        }
    }
}

/// What a container mounts is there, at a path of its own, and nothing by subPath, which would never change.
#[test]
fn every_mount_has_its_volume_and_follows_its_changes() {
    for set in sets() {
        for object in objects(&set) {
            let Some(pod) = pod(&object) else { continue };
            let volumes: Vec<_> = pod["volumes"].as_array().into_iter().flatten().map(|volume| volume["name"].clone()).collect();
            for container in containers(pod) {
                let mounts: Vec<_> = container["volumeMounts"].as_array().into_iter().flatten().collect();
                for mount in &mounts {
                    assert!(volumes.contains(&mount["name"]) && mount["subPath"].is_null(), "{set}: {mount}");
                    let path = mount["mountPath"].as_str().unwrap();
                    let inside = |other: &&&Value| path.starts_with(&format!("{}/", other["mountPath"].as_str().unwrap()));
                    // A read-only volume has no place to mount another one in.
                    assert!(!mounts.iter().any(|other| inside(&other)), "{set}: {mount}");
                }
            }
        }
    }
}
