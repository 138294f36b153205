//! What is rendered: the golden files, Helm's own lint, what the notes say, and that nothing is made where it cannot be.

use crate::helm::{TEAM, arguments, documents, helm, kind, object, objects, root, said, sets, text, values_file, writing};

#[test]
fn every_value_set_renders_as_its_golden_file_says() {
    for set in sets() {
        let golden = root().join(format!("tests/chart/golden/{set}.yaml"));
        let rendered = text(&set);
        if writing() {
            std::fs::write(&golden, &rendered).unwrap();
        }
        let kept = std::fs::read_to_string(&golden).unwrap_or_default();
        let differs = kept.lines().zip(rendered.lines()).position(|(kept, rendered)| kept != rendered);
        let place = differs.unwrap_or_else(|| kept.lines().count().min(rendered.lines().count()));
        let at = |text: &str| text.lines().nth(place).unwrap_or("its end").to_owned();
        assert!(
            kept == rendered,
            "{}:{}: it has `{}`, and Helm renders `{}`; PORTCULLIS_WRITE=1 writes it anew",
            golden.display(),
            place + 1,
            at(&kept),
            at(&rendered)
        );
    }
    let kept = std::fs::read_dir(root().join("tests/chart/golden")).unwrap().count();
    assert_eq!(kept, sets().len(), "a golden file has no value set any more");
}

#[test]
fn helm_finds_nothing_to_say_about_any_value_set() {
    for set in sets().iter().filter(|set| *set != TEAM) {
        let linted = helm(&["lint", "--strict", "charts/portcullis", "-f", &values_file(set)]);
        assert!(linted.status.success(), "{set}: {}", said(&linted));
    }
}

/// The notes an installation prints.
fn notes(set: &str, more: &[&str]) -> String {
    let mut told = arguments(set);
    told.insert(0, "install".to_owned());
    told.push("--dry-run=client".to_owned());
    told.extend(more.iter().map(|&word| word.to_owned()));
    let output = helm(&told.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{set}: {}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_once("\nNOTES:\n").unwrap().1.to_owned()
}

#[test]
fn the_notes_say_how_to_kill_and_what_ends_with_the_pod() {
    let minimal = notes("minimal", &[]);
    for said in [
        "kubectl -n apps exec deploy/gate-portcullis -- portcullis kill --spiffe-id spiffe://example.org/",
        "uid 65532",
        "pods/exec",
        "One replica, on purpose",
        "https://gate-portcullis.apps.svc:8443",
        "claim gate-portcullis-state",
    ] {
        assert!(minimal.contains(said), "{said}: {minimal}");
    }
    assert!(!minimal.contains("WARNING"), "{minimal}");
    assert!(notes("workload-api", &[]).contains("WARNING: kills are kept in an emptyDir"));
    for (set, more) in [("sidecar", [].as_slice()), (TEAM, &["--render-subchart-notes"])] {
        let sidecar = notes(set, more);
        assert!(sidecar.contains("for pod in $(kubectl -n apps get pods -l portcullis/release=gate -o name)"), "{sidecar}");
    }
    let without = notes("full", &[]);
    assert!(without.contains("WARNING: this cluster has no PrometheusRule"), "{without}");
}

#[test]
fn monitors_and_rules_are_made_only_where_the_cluster_knows_them() {
    let mut told = arguments("full");
    told.insert(0, "template".to_owned());
    let output = helm(&told.iter().map(String::as_str).collect::<Vec<_>>());
    let without = documents(&String::from_utf8(output.stdout).unwrap());
    let made = |objects: &[serde_json::Value], of: &str| objects.iter().filter(|object| kind(object) == of).count();
    for of in ["PodMonitor", "PrometheusRule"] {
        assert_eq!((made(&without, of), made(&objects("full"), of)), (0, 1), "{of}");
    }
}

#[test]
fn what_runs_is_one_gate_that_ends_after_its_drain() {
    for (set, seconds) in [("minimal", 40), ("full", 130), ("cert-manager", 11)] {
        let rendered = objects(set);
        let deployment = &object(&rendered, "Deployment", "")["spec"];
        assert_eq!(deployment["replicas"], 1, "{set}");
        assert_eq!(deployment["strategy"]["type"], "Recreate", "{set}");
        assert_eq!(deployment["template"]["spec"]["terminationGracePeriodSeconds"], seconds, "{set}");
    }
}

#[test]
fn a_sidecar_is_an_init_container_that_stays_and_is_ready_before_the_service_starts() {
    let rendered = objects(TEAM);
    let pod = &object(&rendered, "Deployment", "payroll")["spec"]["template"]["spec"];
    let gate = &pod["initContainers"][0];
    assert_eq!(gate["restartPolicy"], "Always");
    assert_eq!(gate["startupProbe"]["httpGet"]["path"], "/readyz");
    assert!(rendered.iter().all(|object| kind(object) != "PersistentVolumeClaim" && kind(object) != "NetworkPolicy"));
    // The socket operators use is in no other container.
    let mounts = |container: &serde_json::Value| container["volumeMounts"].to_string();
    assert!(mounts(gate).contains("portcullis-run"));
    assert!(pod["containers"].as_array().unwrap().iter().all(|container| !mounts(container).contains("portcullis")));
}
