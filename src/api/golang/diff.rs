//! Unified diffs of values, which errors about forbidden changes carry.
//!
//! The matching is that of Ratcliff and Obershelp with the "popular line" rule
//! of Python's `difflib`, for the text must come out line by line as
//! upstream's port of it does.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use serde_json::Value;

use super::internal;
use crate::schema::TypeRef;

/// Lines of context around a change.
const CONTEXT: usize = 3;
/// A text of this many lines has lines too common to match by.
const LONG: usize = 200;

/// What differs between two values of a type, as upstream shows it.
pub(crate) fn diff(old: &Value, new: &Value, ty: TypeRef<'_>) -> String {
    let (old, new) = (indented(&internal(old, ty)), indented(&internal(new, ty)));
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    unified(&lines(&old), &lines(&new))
}

/// Compact JSON with one space of indentation a level.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut opened = false;
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth));
    };
    for c in json.chars() {
        if quoted {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
            continue;
        }
        let closes = matches!(c, '}' | ']');
        if std::mem::take(&mut opened) && !closes {
            line(&mut out, depth);
        } else if closes && !matches!(out.chars().last(), Some('{' | '[')) {
            line(&mut out, depth - 1);
        }
        out.push(c);
        match c {
            '{' | '[' => {
                depth += 1;
                opened = true;
            }
            '}' | ']' => depth -= 1,
            ',' => line(&mut out, depth),
            ':' => out.push(' '),
            '"' => quoted = true,
            _ => {}
        }
    }
    out
}

/// A stretch of both texts: equal, or replaced.
#[derive(Clone, Debug)]
struct Step {
    equal: bool,
    old: Range<usize>,
    new: Range<usize>,
}

fn unified(old: &[String], new: &[String]) -> String {
    let mut out = String::new();
    for group in groups(steps(old, new)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let range = |range: Range<usize>| match range.len() {
            1 => format!("{}", range.start + 1),
            0 => format!("{},0", range.start),
            length => format!("{},{length}", range.start + 1),
        };
        let _ = writeln!(
            out,
            "@@ -{} +{} @@",
            range(first.old.start..last.old.end),
            range(first.new.start..last.new.end)
        );
        for step in group {
            let marks = if step.equal { [' ', ' '] } else { ['-', '+'] };
            for line in &old[step.old] {
                let _ = writeln!(out, "{}{line}", marks[0]);
            }
            if !step.equal {
                for line in &new[step.new] {
                    let _ = writeln!(out, "{}{line}", marks[1]);
                }
            }
        }
    }
    out
}

/// Changes with their context; those close together share it.
fn groups(mut steps: Vec<Step>) -> Vec<Vec<Step>> {
    if let Some(first) = steps.first_mut().filter(|step| step.equal) {
        first.old.start = first.old.start.max(first.old.end.saturating_sub(CONTEXT));
        first.new.start = first.new.start.max(first.new.end.saturating_sub(CONTEXT));
    }
    if let Some(last) = steps.last_mut().filter(|step| step.equal) {
        last.old.end = last.old.end.min(last.old.start + CONTEXT);
        last.new.end = last.new.end.min(last.new.start + CONTEXT);
    }
    let mut groups = Vec::new();
    let mut group: Vec<Step> = Vec::new();
    for mut step in steps {
        if step.equal && step.old.len() > 2 * CONTEXT {
            let head = Step {
                equal: true,
                old: step.old.start..step.old.start + CONTEXT,
                new: step.new.start..step.new.start + CONTEXT,
            };
            group.push(head);
            groups.push(std::mem::take(&mut group));
            step.old.start = step.old.end - CONTEXT;
            step.new.start = step.new.end - CONTEXT;
        }
        group.push(step);
    }
    groups.push(group);
    groups.retain(|group| group.iter().any(|step| !step.equal));
    groups
}

fn steps(old: &[String], new: &[String]) -> Vec<Step> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(at);
    }
    if new.len() >= LONG {
        let common = new.len() / 100 + 1;
        places.retain(|_, at| at.len() <= common);
    }
    let mut blocks = Vec::new();
    let mut pending = vec![(0..old.len(), 0..new.len())];
    while let Some((left, right)) = pending.pop() {
        let (i, j, size) = longest(old, new, &places, &left, &right);
        if size == 0 {
            continue;
        }
        blocks.push((i, j, size));
        pending.push((left.start..i, right.start..j));
        pending.push((i + size..left.end, j + size..right.end));
    }
    blocks.sort_unstable();
    blocks.push((old.len(), new.len(), 0));
    let mut steps: Vec<Step> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (at, there, size) in blocks {
        if i < at || j < there {
            steps.push(Step {
                equal: false,
                old: i..at,
                new: j..there,
            });
        }
        if size > 0 {
            match steps.last_mut().filter(|last| last.equal) {
                Some(last) => {
                    last.old.end = at + size;
                    last.new.end = there + size;
                }
                None => steps.push(Step {
                    equal: true,
                    old: at..at + size,
                    new: there..there + size,
                }),
            }
        }
        (i, j) = (at + size, there + size);
    }
    steps
}

/// The longest run of equal lines, the earliest of the longest.
fn longest(
    old: &[String],
    new: &[String],
    places: &HashMap<&str, Vec<usize>>,
    left: &Range<usize>,
    right: &Range<usize>,
) -> (usize, usize, usize) {
    let (mut i, mut j, mut size) = (left.start, right.start, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for at in left.clone() {
        let mut now = HashMap::new();
        for &there in places.get(old[at].as_str()).into_iter().flatten() {
            if there < right.start {
                continue;
            }
            if there >= right.end {
                break;
            }
            let length = there
                .checked_sub(1)
                .and_then(|before| lengths.get(&before))
                .unwrap_or(&0)
                + 1;
            now.insert(there, length);
            if length > size {
                (i, j, size) = (at + 1 - length, there + 1 - length, length);
            }
        }
        lengths = now;
    }
    // Lines too common to be found by belong to a run that they touch.
    while i > left.start && j > right.start && old[i - 1] == new[j - 1] {
        (i, j, size) = (i - 1, j - 1, size + 1);
    }
    while i + size < left.end && j + size < right.end && old[i + size] == new[j + size] {
        size += 1;
    }
    (i, j, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, expected: &str) {
        let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
        assert_eq!(unified(&lines(old), &lines(new)), expected);
    }

    #[test]
    fn hunks() {
        check("a\nb\nc", "a\nb\nc", "");
        check("a\nb\nc", "a\nx\nc", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n");
        check("a", "a\nb", "@@ -1 +1,2 @@\n a\n+b\n");
        check(
            "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12",
            "1\nx\n3\n4\n5\n6\n7\n8\n9\n10\ny\n12",
            "@@ -1,5 +1,5 @@\n 1\n-2\n+x\n 3\n 4\n 5\n@@ -8,5 +8,5 @@\n 8\n 9\n 10\n-11\n+y\n 12\n",
        );
    }

    #[test]
    fn indentation() {
        assert_eq!(
            indented(r#"{"a":[1,{}],"b":{"c":"x,{\"}"},"d":[]}"#),
            "{\n \"a\": [\n  1,\n  {}\n ],\n \"b\": {\n  \"c\": \"x,{\\\"}\"\n },\n \"d\": []\n}"
        );
    }
}
