//! Which crate may depend on which, checked against `cargo metadata`.
//!
//! The edges are those of docs/architecture.md. A crate that is not listed,
//! or an edge that is not allowed, fails here with the line to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crate and the workspace crates it may depend on; `base` is allowed
/// everywhere, and tests may depend on what they test against.
const ALLOWED: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("apiserver", &["api", "expr", "pki", "store"]),
    ("base", &[]),
    ("client", &["api"]),
    ("containers", &["cri", "linux"]),
    ("controllers", &["api", "client"]),
    ("cri", &[]),
    ("dns", &["client"]),
    ("expr", &["api"]),
    ("kubelet", &["client", "cri", "linux"]),
    ("linux", &[]),
    ("load", &[]),
    ("network", &["client", "cri", "linux"]),
    ("pki", &[]),
    ("proxy", &["client", "linux"]),
    ("scheduler", &["client"]),
    ("store", &[]),
];

/// Crates that know every other one.
const ROOTS: &[&str] = &["cmd", "karve"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--offline",
            "--locked",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

#[test]
fn edges_follow_the_layers() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let members: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().expect("named"))
        .collect();
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    for package in packages {
        let name = package["name"].as_str().expect("named");
        if ROOTS.contains(&name) {
            continue;
        }
        let may = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in ALLOWED: say what it may depend on"));
        for dependency in package["dependencies"].as_array().expect("a list") {
            let on = dependency["name"].as_str().expect("named");
            if !members.contains(on) || on == "base" {
                continue;
            }
            let is_dev = dependency["kind"] == "dev";
            assert!(
                may.contains(&on) || is_dev,
                "{name} must not depend on {on}: see the layers in docs/architecture.md"
            );
        }
    }
}

#[test]
fn unsafe_code_lives_in_linux_alone() {
    for package in metadata()["packages"]
        .as_array()
        .expect("a list of packages")
    {
        let name = package["name"].as_str().expect("named");
        if name == "linux" || name == "karve" {
            continue;
        }
        let root = package["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|target| target["kind"][0] == "lib" || target["kind"][0] == "bin")
            .unwrap_or_else(|| panic!("{name} is neither library nor program"));
        let root = root["src_path"].as_str().expect("a path");
        let text = std::fs::read_to_string(root).expect("readable");
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{root} lacks #![forbid(unsafe_code)]: only `linux` may hold unsafe code"
        );
    }
}
