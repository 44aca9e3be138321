//! JSONPath as printer columns and selectable fields use it.
//!
//! The dialect is that of `k8s.io/client-go/util/jsonpath` without its
//! templates: fields, indices, slices, wildcards, recursive descent, unions
//! and filters that compare.

use std::cmp::Ordering;

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    All,
    Descend,
    Union(Vec<Step>),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

impl JsonPath {
    /// Parses `.spec.x`, with or without the root's `$`.
    ///
    /// # Errors
    ///
    /// What is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut rest = text.trim();
        rest = rest.strip_prefix(['$', '@']).unwrap_or(rest);
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '.' if rest.starts_with("..") => {
                    steps.push(Step::Descend);
                    // A name may follow at once.
                    let after = &rest[2..];
                    if after.starts_with(['.', '[']) || after.is_empty() {
                        after
                    } else {
                        field(after, &mut steps)
                    }
                }
                '.' => field(&rest[1..], &mut steps),
                '[' => {
                    let end = closing(rest).ok_or("unterminated array")?;
                    steps.push(bracket(&rest[1..end])?);
                    &rest[end + 1..]
                }
                _ => return Err(format!("unrecognized character in action: {first:?}")),
            };
        }
        Ok(Self(steps))
    }

    /// Everything that it leads to; nothing where a field is missing.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.from(value))
                .collect();
        }
        found
    }
}

/// A name up to the next dot or bracket; a backslash takes what follows as it is.
fn field<'a>(text: &'a str, steps: &mut Vec<Step>) -> &'a str {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    &text[end..]
}

/// Where the bracket that a text begins with is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('\'').or_else(|| inner('"'))
}

fn bracket(text: &str) -> Result<Step, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(inner) = text.strip_prefix("?(").and_then(|it| it.strip_suffix(')')) {
        return filter(inner);
    }
    if let Some(name) = unquote(text).filter(|it| !it.contains("','")) {
        return Ok(Step::Field(name.to_owned()));
    }
    if text.contains(',') {
        let parts: Result<Vec<Step>, String> = text.split(',').map(bracket).collect();
        return parts.map(Step::Union);
    }
    let number = |text: &str| -> Result<Option<i64>, String> {
        match text.trim() {
            "" => Ok(None),
            digits => digits
                .parse()
                .map(Some)
                .map_err(|_| format!("invalid array index {digits}")),
        }
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [one] => number(one)?
            .map(Step::Index)
            .ok_or_else(|| "invalid array index ".to_owned()),
        [from, to] => Ok(Step::Slice(number(from)?, number(to)?, 1)),
        [from, to, step] => Ok(Step::Slice(
            number(from)?,
            number(to)?,
            number(step)?.unwrap_or(1),
        )),
        _ => Err(format!("invalid array index {text}")),
    }
}

fn filter(text: &str) -> Result<Step, String> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    for (sign, comparison) in SIGNS {
        if let Some((left, right)) = text.split_once(sign) {
            return Ok(Step::Filter(
                operand(left)?,
                Some((comparison, operand(right)?)),
            ));
        }
    }
    Ok(Step::Filter(operand(text)?, None))
}

fn operand(text: &str) -> Result<Operand, String> {
    let text = text.trim();
    if text.starts_with(['@', '$', '.']) {
        return JsonPath::parse(text).map(Operand::Path);
    }
    if let Some(literal) = unquote(text) {
        return Ok(Operand::Literal(literal.into()));
    }
    serde_json::from_str(text)
        .map(Operand::Literal)
        .map_err(|_| format!("unrecognized operand {text}"))
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Path(path) => path.find(item).first().copied(),
            Self::Literal(value) => Some(value),
        }
    }
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(Ordering::Equal),
    }
}

impl Step {
    fn from<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Index(at), Value::Array(items)) => place(*at, items.len())
                .and_then(|at| items.get(at))
                .into_iter()
                .collect(),
            (Self::Slice(from, to, step), Value::Array(items)) => {
                let bound = |at: &Option<i64>, default: usize| {
                    at.map_or(default, |at| {
                        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                        let at = if at < 0 { at + length } else { at };
                        usize::try_from(at.clamp(0, length)).unwrap_or(0)
                    })
                };
                let (from, to) = (bound(from, 0), bound(to, items.len()));
                let step = usize::try_from(*step).unwrap_or(1).max(1);
                let range = items.get(from..to.max(from)).unwrap_or_default();
                range.iter().step_by(step).collect()
            }
            (Self::Union(parts), value) => parts.iter().flat_map(|it| it.from(value)).collect(),
            (Self::Filter(left, test), Value::Array(items)) => items
                .iter()
                .filter(|item| passes(left, test.as_ref(), item))
                .collect(),
            (Self::Descend, value) => {
                let mut found = Vec::new();
                descend(value, &mut found);
                found
            }
            _ => Vec::new(),
        }
    }
}

fn place(at: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if at < 0 { at + length } else { at }).ok()
}

fn passes(left: &Operand, test: Option<&(Comparison, Operand)>, item: &Value) -> bool {
    let left = left.value(item);
    let Some((comparison, right)) = test else {
        return left.is_some();
    };
    let Some(order) = left.zip(right.value(item)).map(|(a, b)| order(a, b)) else {
        return false;
    };
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::Unequal => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    found.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, found)),
        Value::Object(map) => map.values().for_each(|value| descend(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::JsonPath;

    fn check(path: &str, expected: &serde_json::Value) {
        let object = json!({
            "spec": {"l": [1, "a", {"x": 1}], "a.b": 5, "s": "x"},
            "conds": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}],
        });
        let found = JsonPath::parse(path)
            .unwrap()
            .find(&object)
            .into_iter()
            .cloned();
        assert_eq!(json!(found.collect::<Vec<_>>()), *expected, "{path}");
    }

    #[test]
    fn paths_lead_where_upstreams_do() {
        check(".spec.s", &json!(["x"]));
        check("$.spec['s']", &json!(["x"]));
        check(r".spec.a\.b", &json!([5]));
        check(".spec.missing.deeper", &json!([]));
        check(".spec.l[0]", &json!([1]));
        check(".spec.l[-1].x", &json!([1]));
        check(".spec.l[*]", &json!([1, "a", {"x": 1}]));
        check(".conds[-1:].type", &json!(["Other"]));
        check(r#".conds[?(@.type=="Ready")].status"#, &json!(["True"]));
        check(".conds[?(@.type!='Ready')].status", &json!(["False"]));
        check("..x", &json!([1]));
        check(".conds[0,1].type", &json!(["Ready", "Other"]));
    }

    #[test]
    fn malformed_paths_are_refused() {
        for bad in [".a[", "a", ".a[x]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
