//! Collects the descriptions of built-in types, for OpenAPI and for the columns
//! of tables.
//!
//! They are the JSON schemas that the sources of the `k8s-openapi` crate carry.
//! The crate is not compiled for that: its files are read, wherever Cargo keeps
//! them, and the sentences end up compressed beside the library. Without the
//! crate's sources documents and columns have no descriptions.

mod columns;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The module of the crate that describes the version that is served.
const VERSION: &str = "v1_36";

fn main() {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let mut table = String::new();
    match sources() {
        Some(folder) => walk(&folder, &mut table),
        None => println!("cargo::warning=k8s-openapi not found: OpenAPI without descriptions"),
    }
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder
        .write_all(table.as_bytes())
        .expect("a Vec takes everything");
    let compressed = encoder.finish().expect("a Vec takes everything");
    let out = env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR");
    let out = Path::new(&out);
    fs::write(out.join("descriptions.deflate"), compressed).expect("OUT_DIR is writable");
    let columns = columns::generate(Path::new("kinds/columns"), &table);
    fs::write(out.join("columns.rs"), columns).expect("OUT_DIR is writable");
}

/// The folder of the crate's sources.
fn sources() -> Option<PathBuf> {
    let cargo = env::var_os("CARGO")?;
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(env::var_os("CARGO_MANIFEST_DIR")?)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let marker = "k8s-openapi-";
    text.split('"')
        .filter(|it| it.contains(marker) && it.ends_with("Cargo.toml"))
        .map(|it| Path::new(it).with_file_name("src").join(VERSION))
        .find(|it| it.is_dir())
}

fn walk(folder: &Path, table: &mut String) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|it| it.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, table);
        } else if let Ok(text) = fs::read_to_string(&path) {
            collect(&text, table);
        }
    }
}

/// Appends `NAME<tab>DESCRIPTION` for a type and ` FIELD<tab>DESCRIPTION` for
/// each of its fields, sentences escaped as in JSON.
fn collect(text: &str, table: &mut String) {
    let Some(at) = text.find("JsonSchema for ") else {
        return;
    };
    let mut named = false;
    let mut field = "";
    for line in text[at..].lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if !named {
            if let Some(name) = line.strip_suffix(".into()") {
                let name = name.trim_matches('"');
                table.push_str(name);
                table.push('\t');
                named = true;
            }
            continue;
        }
        let described = line
            .strip_prefix("\"description\": \"")
            .and_then(|rest| rest.strip_suffix("\","))
            .or_else(|| {
                let (_, rest) = line.split_once(".insert(\"description\".into(), \"")?;
                rest.strip_suffix("\".into());")
            });
        match (described, indent) {
            (Some(text), 12) => {
                table.push_str(text);
                table.push('\n');
            }
            (Some(text), 20) if !field.is_empty() => {
                table.push_str(&format!(" {field}\t{text}\n"));
                field = "";
            }
            (None, 16) => {
                if let Some((name, _)) = line.strip_prefix('"').and_then(|it| it.split_once("\": "))
                {
                    field = name;
                }
            }
            _ => {}
        }
    }
    if named && !table.ends_with('\n') {
        table.push('\n');
    }
}
