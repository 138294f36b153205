//! The alert rules under promtool: each is well formed, fires when it should and is silent when it should be.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::helm::{object, objects, part, root, said};

/// The rules of the value set with the chart's own thresholds, as Prometheus reads them.
pub(crate) fn rules() -> Value {
    object(&objects("sidecar"), "PrometheusRule", "")["spec"].clone()
}

pub(crate) fn each_rule(rules: &Value) -> Vec<&Value> {
    rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect()
}

fn promtool(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(part("prometheus").join("promtool")).current_dir(folder).args(arguments).output().unwrap()
}

fn tests() -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(root().join("tests/chart/alerts.yaml")).unwrap()).unwrap()
}

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_it_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut rules = rules();
    std::fs::write(folder.path().join("whole.yaml"), serde_yaml::to_string(&rules).unwrap()).unwrap();
    // promtool compares annotations word by word; the descriptions are for people.
    for rule in rules["groups"][0]["rules"].as_array_mut().unwrap() {
        rule["annotations"].as_object_mut().unwrap().remove("description").unwrap();
    }
    std::fs::write(folder.path().join("rules.yaml"), serde_yaml::to_string(&rules).unwrap()).unwrap();
    std::fs::copy(root().join("tests/chart/alerts.yaml"), folder.path().join("alerts.yaml")).unwrap();
    for arguments in [["check", "rules", "whole.yaml"], ["test", "rules", "alerts.yaml"]] {
        let output = promtool(folder.path(), &arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn every_alert_is_tested_both_ways_and_tells_what_to_do() {
    let (rules, tests) = (rules(), tests());
    let cases: Vec<&Value> =
        tests["tests"].as_array().unwrap().iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap()).collect();
    let names = |fires: bool| -> BTreeSet<&str> {
        let of = |case: &&&Value| case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()) == fires;
        cases.iter().filter(of).map(|case| case["alertname"].as_str().unwrap()).collect()
    };
    let alerts: BTreeSet<&str> = each_rule(&rules).iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names(true), alerts, "an alert that was never seen to fire");
    assert_eq!(names(false), alerts, "an alert that was never seen to be silent");
    for rule in each_rule(&rules) {
        let (annotations, severity) = (&rule["annotations"], rule["labels"]["severity"].as_str().unwrap());
        assert!(["critical", "warning", "info"].contains(&severity), "{rule}");
        assert!(annotations["summary"].as_str().unwrap().len() < 120, "{rule}");
        assert!(annotations["description"].as_str().unwrap().len() > 120, "{rule}");
    }
}
