//! The configuration file: YAML whose keys are flag names.
//!
//! The file is turned into arguments that stand before the command line's, so
//! that both go through one parser. What the environment sets is left out of
//! them: command line beats environment beats file.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, CommandFactory};
use serde_yaml_ng::Value;

use crate::args::Karve;

const DEFAULT: &str = "/etc/karve/config.yaml";

/// Adds the configuration file's settings to the arguments of `karve server`.
pub(crate) fn merge(args: Vec<OsString>) -> Result<Vec<OsString>> {
    if args.get(1).is_none_or(|command| command != "server") {
        return Ok(args);
    }
    let (path, required) = match named(&args) {
        Some(path) => (path, true),
        None => (PathBuf::from(DEFAULT), false),
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => return Ok(args),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read the configuration file {}", path.display()));
        }
    };
    let settings = settings(&text, |name| std::env::var_os(name).is_some(), &args)
        .with_context(|| format!("configuration file {}", path.display()))?;
    let mut merged = args;
    merged.splice(2..2, settings.into_iter().map(OsString::from));
    Ok(merged)
}

/// The file that the command line or the environment names.
fn named(args: &[OsString]) -> Option<PathBuf> {
    let mut rest = args.iter().skip(2);
    while let Some(arg) = rest.next() {
        let Some(text) = arg.to_str() else { continue };
        if text == "--config" || text == "-c" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("KARVE_CONFIG_FILE").map(PathBuf::from)
}

fn settings(
    text: &str,
    in_environment: impl Fn(&str) -> bool,
    command_line: &[OsString],
) -> Result<Vec<String>> {
    let file: Value = serde_yaml_ng::from_str(text).context("is not YAML")?;
    let entries = match file {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(entries) => entries,
        _ => bail!("must be a map of flag names to values, such as `cluster-cidr: 10.42.0.0/16`"),
    };
    let command = Karve::command();
    let server = command
        .find_subcommand("server")
        .expect("the server command is declared");
    let mut arguments = Vec::new();
    for (key, value) in entries {
        let Value::String(key) = key else {
            bail!("key {key:?} is not a string")
        };
        let Some(arg) = find(server, &key) else {
            bail!("{}", unknown(server, &key))
        };
        if arg
            .get_env()
            .and_then(|name| name.to_str())
            .is_some_and(&in_environment)
            || given(command_line, &key)
        {
            continue;
        }
        match (&value, arg.get_action()) {
            (Value::Bool(true), ArgAction::SetTrue) => arguments.push(format!("--{key}")),
            (Value::Bool(false), ArgAction::SetTrue) => {}
            (_, ArgAction::SetTrue) => bail!("{key}: must be true or false"),
            (Value::Sequence(items), ArgAction::Append) => {
                for item in items {
                    arguments.push(format!("--{key}={}", scalar(&key, item)?));
                }
            }
            (Value::Sequence(_), _) => bail!("{key}: takes one value, not a list"),
            (value, _) => arguments.push(format!("--{key}={}", scalar(&key, value)?)),
        }
    }
    Ok(arguments)
}

fn find<'a>(server: &'a clap::Command, key: &str) -> Option<&'a Arg> {
    server
        .get_arguments()
        .find(|arg| arg.get_long() == Some(key) && key != "config")
}

/// Whether the command line sets a flag itself. Lists are replaced, not added to.
fn given(command_line: &[OsString], key: &str) -> bool {
    command_line
        .iter()
        .filter_map(|arg| arg.to_str())
        .any(|arg| {
            arg.strip_prefix("--")
                .is_some_and(|flag| flag == key || flag.starts_with(&format!("{key}=")))
        })
}

fn scalar(key: &str, value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => bail!("{key}: must be a string, number or list of them"),
    })
}

fn unknown(server: &clap::Command, key: &str) -> String {
    let names: Vec<&str> = server.get_arguments().filter_map(Arg::get_long).collect();
    let near = names
        .iter()
        .min_by_key(|name| distance(name, key))
        .filter(|name| distance(name, key) <= 1 + key.len() / 4);
    match near {
        Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
        None => format!("unknown key {key:?}; the keys are the flags of `karve server --help`"),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[&str], &str>) {
        let args = ["karve", "server", "--node-name=cli"].map(OsString::from);
        let got = settings(text, |name| name == "KARVE_DATA_DIR", &args);
        match expected {
            Ok(expected) => assert_eq!(got.expect("accepted"), expected, "{text}"),
            Err(part) => {
                let error = format!("{:#}", got.expect_err("refused"));
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }

    #[test]
    fn becomes_arguments() {
        check("", Ok(&[]));
        check(
            "https-listen-port: 7443\n",
            Ok(&["--https-listen-port=7443"]),
        );
        check("tls-san: [a, b]\n", Ok(&["--tls-san=a", "--tls-san=b"]));
        check("tls-san: a\n", Ok(&["--tls-san=a"]));
        check(
            "disable-agent: true\ndisable-scheduler: false\n",
            Ok(&["--disable-agent"]),
        );
        check("data-dir: /x\nnode-name: file\n", Ok(&[]));
    }

    #[test]
    fn says_what_is_wrong() {
        check(
            "https-listen-prt: 1\n",
            Err("did you mean \"https-listen-port\""),
        );
        check("frobnicate: 1\n", Err("the keys are the flags"));
        check("[a]\n", Err("must be a map"));
        check("disable-agent: maybe\n", Err("must be true or false"));
        check("data-dir: [a]\n", Ok(&[]));
        check("node-ip: [a]\n", Err("takes one value"));
        check("a: b: c\n", Err("is not YAML"));
    }
}
