//! Turns the column files into constants; see `kinds/columns/mod.rs`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// The constants of every file in `folder`. `table` is what was collected from
/// the sources of `k8s-openapi`; it is empty without them.
pub(crate) fn generate(folder: &Path, table: &str) -> String {
    println!("cargo::rerun-if-changed={}", folder.display());
    let documented = index(table);
    let mut out = String::new();
    let files = texts(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for (name, text) in files {
        if let Err(error) = file(&text, &documented, &mut out) {
            panic!("{name}: {error}");
        }
    }
    out
}

fn texts(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "txt") {
            files.push((path.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

/// Documentation by `GROUP.VERSION.TYPE` and field; the type's own has none.
fn index(table: &str) -> HashMap<(&str, &str), &str> {
    let mut documented = HashMap::new();
    let mut ty = "";
    for line in table.lines() {
        let Some((name, text)) = line.split_once('\t') else {
            continue;
        };
        match name.strip_prefix(' ') {
            Some(field) => documented.insert((ty, field), text),
            None => {
                ty = tail(name);
                documented.insert((ty, ""), text)
            }
        };
    }
    documented
}

/// The last three parts of an OpenAPI name.
fn tail(name: &str) -> &str {
    match name.rmatch_indices('.').nth(2) {
        Some((at, _)) => &name[at + 1..],
        None => name,
    }
}

fn file(
    text: &str,
    documented: &HashMap<(&str, &str), &str>,
    out: &mut String,
) -> Result<(), String> {
    let mut open = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(kind) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            if open {
                out.push_str("];\n");
            }
            open = true;
            let _ = writeln!(out, "pub(super) const {kind}: &[Column] = &[");
            continue;
        }
        let mut parts = line.splitn(3, '|').map(str::trim);
        let (Some(name), Some(ty), Some(shows)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("not `header | type | description`: {line}"));
        };
        let (ty, priority) = match ty.strip_suffix(" wide") {
            Some(ty) => (ty, 1),
            None => (ty, 0),
        };
        let (kind, format) = ty.split_once(':').unwrap_or((ty, ""));
        let description = match shows.strip_prefix('@') {
            Some(field) => documentation(field, documented)?,
            None => shows.replace('"', "\\\""),
        };
        let _ = writeln!(
            out,
            "Column {{ name: \"{name}\", kind: \"{kind}\", format: \"{format}\", \
             description: \"{description}\", priority: {priority} }},"
        );
    }
    if open {
        out.push_str("];\n");
    }
    Ok(())
}

/// The text behind `GROUP.VERSION.TYPE.FIELD` or `… - SENTENCE`, escaped as in
/// a literal.
fn documentation(field: &str, documented: &HashMap<(&str, &str), &str>) -> Result<String, String> {
    if documented.is_empty() {
        return Ok(String::new());
    }
    let (field, without) = field.split_once(" - ").unwrap_or((field, ""));
    let (ty, name) = match field.matches('.').count() {
        2 => (field, ""),
        _ => field.rsplit_once('.').unwrap_or((field, "")),
    };
    let text = documented
        .get(&(ty, name))
        .ok_or_else(|| format!("k8s-openapi does not document {field}"))?;
    Ok(match without {
        "" => (*text).to_owned(),
        _ => text
            .strip_suffix(without)
            .unwrap_or(text)
            .trim_end()
            .to_owned(),
    })
}
