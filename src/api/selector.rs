//! Label selectors and field selectors.
//!
//! A label selector comes as query text (`a in (b,c),!d`) or as a
//! `metav1.LabelSelector` object; both become a [`LabelSelector`]. Errors of the
//! text form are worded as `k8s.io/apimachinery/pkg/labels` words them, for the
//! API answers with them.

use std::fmt;

use serde_json::{Map, Value};

use crate::names;
use crate::{FieldError, Path};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key in (…)`.
    In,
    /// `key notin (…)`; also true without the label.
    NotIn,
    /// `key = value`.
    Equals,
    /// `key == value`.
    DoubleEquals,
    /// `key != value`; also true without the label.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key > integer`.
    GreaterThan,
    /// `key < integer`.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// What it compares with.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether labels with this lookup satisfy the requirement.
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let left = value.and_then(|value| value.parse::<i64>().ok());
                let right = self.values.first().and_then(|value| value.parse().ok());
                match (left, right) {
                    (Some(left), Some(right)) if self.operator == Operator::GreaterThan => {
                        left > right
                    }
                    (Some(left), Some(right)) => left < right,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// Conditions that must all hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self {
            nothing: true,
            ..Self::default()
        }
    }

    /// Its conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Parses query text.
    ///
    /// # Errors
    /// Upstream's message about the first thing wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Every pair must be there, as in a Service's or ReplicationController's selector.
    /// An empty or absent map selects everything.
    pub fn from_map(map: &Value) -> Self {
        let requirements = map
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
            })
            .collect();
        Self {
            requirements,
            nothing: false,
        }
    }

    /// From a `metav1.LabelSelector`: absent selects nothing, empty everything.
    ///
    /// # Errors
    /// When an operator is unknown or a key or value malformed.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut out = Self::default();
        for one in Self::from_map(&selector["matchLabels"]).requirements {
            out.requirements
                .push(requirement(one.key, one.operator, one.values)?);
        }
        for expression in selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = |name: &str| expression[name].as_str().unwrap_or_default().to_owned();
            let operator = match &*text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values: Vec<String> = expression["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            out.requirements
                .push(requirement(text("key"), operator, values)?);
        }
        out.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(out)
    }

    /// Whether an object's `metadata.labels` match.
    pub fn matches(&self, labels: &Value) -> bool {
        match labels {
            Value::Object(labels) => self.matches_map(labels),
            _ => self.matches_with(|_| None),
        }
    }

    /// Whether these labels match.
    pub fn matches_map(&self, labels: &Map<String, Value>) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether labels with this lookup match.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(get(&requirement.key)))
    }
}

/// The canonical text.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// Checks and builds one requirement.
fn requirement(
    key: String,
    operator: Operator,
    values: Vec<String>,
) -> Result<Requirement, String> {
    let mut errors = Vec::new();
    let wrong = names::qualified_name(&key);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(
            &Path::new("key"),
            &*key,
            wrong.join("; "),
        ));
    }
    let path = Path::new("values");
    let list = Value::from(values.clone());
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => errors.push(FieldError::invalid(
            &path,
            list,
            "for 'in', 'notin' operators, values set can't be empty",
        )),
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            errors.push(FieldError::invalid(
                &path,
                list,
                "exact-match compatibility requires one single value",
            ));
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            errors.push(FieldError::invalid(
                &path,
                list,
                "values set must be empty for exists and does not exist",
            ));
        }
        Operator::GreaterThan | Operator::LessThan => {
            for (index, value) in values.iter().enumerate() {
                if value.parse::<i64>().is_err() {
                    errors.push(FieldError::invalid(
                        &path.index(index),
                        &**value,
                        "for 'Gt', 'Lt' operators, the value must be an integer",
                    ));
                }
            }
        }
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(
                &path.index(index).key(&key),
                &**value,
                wrong.join("; "),
            ));
        }
    }
    match errors.as_slice() {
        [] => Ok(Requirement {
            key,
            operator,
            values,
        }),
        [one] => Err(one.to_string()),
        many => Err(format!(
            "[{}]",
            many.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        )),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Error(String),
    End,
    Close,
    Comma,
    Not,
    Compare(Operator, String),
    /// `in` and `notin` are words where a value may be.
    Word(String),
    Open,
}

impl Token {
    /// As it is quoted in an error.
    fn text(&self) -> &str {
        match self {
            Self::Error(text) | Self::Word(text) | Self::Compare(_, text) => text,
            Self::End => "",
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::Open => "(",
        }
    }
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

fn special(c: char) -> bool {
    "=!(),><".contains(c)
}

fn blank(c: char) -> bool {
    " \t\r\n".contains(c)
}

impl Parser {
    fn new(text: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start_matches(blank);
        while let Some(first) = rest.chars().next() {
            let (token, length) = if special(first) {
                symbol(rest)
            } else {
                let length = rest.find(|c| special(c) || blank(c)).unwrap_or(rest.len());
                let word = rest[..length].to_owned();
                let token = match &*word {
                    "in" => Token::Compare(Operator::In, word),
                    "notin" => Token::Compare(Operator::NotIn, word),
                    _ => Token::Word(word),
                };
                (token, length)
            };
            tokens.push(token);
            rest = rest[length..].trim_start_matches(blank);
        }
        tokens.push(Token::End);
        Self {
            tokens,
            position: 0,
        }
    }

    fn raw(&self) -> Token {
        self.tokens
            .get(self.position)
            .cloned()
            .unwrap_or(Token::End)
    }

    /// The next token where a key or value may be.
    fn peek(&self) -> Token {
        match self.raw() {
            Token::Compare(Operator::In | Operator::NotIn, word) => Token::Word(word),
            other => other,
        }
    }

    fn take(&mut self) -> Token {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Not => {
                    let one = self
                        .requirement()
                        .map_err(|why| format!("unable to parse requirement: {why}"))?;
                    out.push(one);
                    match self.take() {
                        Token::End => return Ok(out),
                        Token::Comma => match self.peek() {
                            Token::Word(_) | Token::Not => {}
                            other => {
                                return Err(format!(
                                    "found '{}', expected: identifier after ','",
                                    other.text()
                                ));
                            }
                        },
                        other => {
                            return Err(format!(
                                "found '{}', expected: ',' or 'end of string'",
                                other.text()
                            ));
                        }
                    }
                }
                Token::End => return Ok(out),
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.take();
        let negated = token == Token::Not;
        if negated {
            token = self.take();
        }
        let Token::Word(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let wrong = names::qualified_name(&key);
        if !wrong.is_empty() {
            return Err(FieldError::invalid(&Path::root(), &*key, wrong.join("; ")).to_string());
        }
        if negated {
            return requirement(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return requirement(key, Operator::Exists, Vec::new());
        }
        let operator = match self.raw() {
            Token::Compare(operator, _) => operator,
            other => {
                return Err(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    other.text()
                ));
            }
        };
        self.position += 1;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact()?,
        };
        values.sort();
        values.dedup();
        requirement(key, operator, values)
    }

    fn exact(&mut self) -> Result<Vec<String>, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(vec![String::new()]),
            Token::Word(word) => {
                self.position += 1;
                Ok(vec![word])
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.take();
        if open != Token::Open {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        match self.peek() {
            Token::Close => {
                self.position += 1;
                return Ok(vec![String::new()]);
            }
            Token::Word(_) | Token::Comma => {}
            other => {
                return Err(format!(
                    "found '{}', expected: ',', ')' or identifier",
                    other.text()
                ));
            }
        }
        let mut out: Vec<String> = Vec::new();
        loop {
            match self.take() {
                Token::Word(word) => {
                    out.push(word);
                    match self.peek() {
                        Token::Comma => {}
                        Token::Close => break,
                        other => {
                            return Err(format!("found '{}', expected: ',' or ')'", other.text()));
                        }
                    }
                }
                Token::Comma => {
                    if out.is_empty() {
                        out.push(String::new());
                    }
                    match self.peek() {
                        Token::Close => {
                            out.push(String::new());
                            break;
                        }
                        Token::Comma => out.push(String::new()),
                        _ => {}
                    }
                }
                other => {
                    return Err(format!(
                        "found '{}', expected: ',', or identifier",
                        other.text()
                    ));
                }
            }
        }
        self.position += 1;
        Ok(out)
    }
}

/// The symbol that `text` begins with, and its length.
fn symbol(text: &str) -> (Token, usize) {
    for (literal, operator) in [
        ("==", Operator::DoubleEquals),
        ("!=", Operator::NotEquals),
        ("=", Operator::Equals),
        (">", Operator::GreaterThan),
        ("<", Operator::LessThan),
    ] {
        if text.starts_with(literal) {
            return (Token::Compare(operator, literal.to_owned()), literal.len());
        }
    }
    let token = match text.as_bytes()[0] {
        b'(' => Token::Open,
        b')' => Token::Close,
        b',' => Token::Comma,
        b'!' => Token::Not,
        _ => Token::Error(format!("error expected: keyword found '{}'", &text[..1])),
    };
    (token, 1)
}

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// Field, such as `status.phase`.
    pub field: String,
    /// Its value.
    pub value: String,
    /// `false` for `!=`.
    pub equal: bool,
}

/// Conditions on fields that must all hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses query text.
    ///
    /// # Errors
    /// Upstream's message about the first thing wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let position = part
                .char_indices()
                .find(|(at, _)| part[*at..].starts_with("!=") || part[*at..].starts_with('='));
            let Some((at, _)) = position else {
                return Err(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ));
            };
            let rest = &part[at..];
            let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
                (false, value)
            } else {
                (true, rest.strip_prefix("==").unwrap_or_else(|| &rest[1..]))
            };
            // A term without a field selects everything and is dropped.
            let value = unescape(value)?;
            if !part[..at].is_empty() || !value.is_empty() {
                terms.push(FieldTerm {
                    field: part[..at].to_owned(),
                    value,
                    equal,
                });
            }
        }
        Ok(Self { terms })
    }

    /// Its conditions.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value the selector requires of a field, if it requires exactly one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && term.field == field)
            .map(|term| &*term.value)
    }

    /// Whether an object with this lookup matches; an unknown field is the empty string.
    pub fn matches(&self, get: impl Fn(&str) -> Option<String>) -> bool {
        self.terms
            .iter()
            .all(|term| (get(&term.field).unwrap_or_default() == term.value) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let operator = if term.equal { "=" } else { "!=" };
            let mut value = term.value.replace('\\', r"\\");
            value = value.replace(',', r"\,").replace('=', r"\=");
            write!(f, "{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => {
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: \\{c}"
                    ));
                }
                None => {
                    return Err("invalid field selector: invalid escape sequence: \\".to_owned());
                }
            },
            ',' | '=' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c)
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn matching() {
        let labels = json!({"a": "1", "b": "x", "n": "5"});
        for (text, want) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("!z", true),
            ("a=1", true),
            ("a==1,b=x", true),
            ("a=1,b=y", false),
            ("a!=1", false),
            ("z!=1", true),
            ("b in (x,y)", true),
            ("b in (y)", false),
            ("b notin (y)", true),
            ("z notin (y)", true),
            ("z in ()", false),
            ("n>4", true),
            ("n<4", false),
            ("b>4", false),
            ("a in (in,notin,1)", true),
        ] {
            assert_eq!(
                LabelSelector::parse(text).unwrap().matches(&labels),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn errors() {
        for (text, want) in [
            ("a=b,", "found '', expected: identifier after ','"),
            (
                ",",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn objects() {
        let selector = LabelSelector::from_object(&json!({
            "matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["y"]}],
        }))
        .unwrap();
        assert!(selector.matches(&json!({"a": "1"})));
        assert!(!selector.matches(&json!({"a": "1", "b": "y"})));
        assert!(
            !LabelSelector::from_object(&Value::Null)
                .unwrap()
                .matches(&json!({}))
        );
        assert!(
            LabelSelector::from_object(&json!({}))
                .unwrap()
                .matches(&json!({}))
        );
        assert_eq!(selector.to_string(), "a=1,b notin (y)");
    }

    #[test]
    fn fields() {
        let get = |field: &str| (field == "status.phase").then(|| "Running".to_owned());
        for (text, want) in [
            ("", true),
            ("status.phase=Running", true),
            ("status.phase==Running", true),
            ("status.phase!=Running", false),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
        ] {
            assert_eq!(
                FieldSelector::parse(text).unwrap().matches(get),
                want,
                "{text}"
            );
        }
        assert_eq!(
            FieldSelector::parse("foo").unwrap_err(),
            "invalid selector: 'foo'; can't understand 'foo'"
        );
        assert_eq!(
            FieldSelector::parse(r"a=b\,c").unwrap().exact("a"),
            Some("b,c")
        );
    }

    proptest! {
        #[test]
        fn text_form_is_stable(text in "(!?[a-c]|[a-c](=|!=|==)[x-z]?|[a-c] (in|notin) \\([x-z](,[x-z]){0,2}\\))(,[a-c]=x){0,2}") {
            let once = LabelSelector::parse(&text).unwrap();
            prop_assert_eq!(LabelSelector::parse(&once.to_string()).unwrap(), once);
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }
    }
}
