//! Regular expressions of schemas, in Go's syntax.
//!
//! Go's `\d`, `\w`, `\s` and `\b` know ASCII only, and a bracket inside a class
//! is an ordinary character there: expressions are translated before they are
//! compiled. They are compiled when a value is first held against them.

use std::sync::OnceLock;

use regex::Regex;

/// A regular expression.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            compiled: OnceLock::new(),
        }
    }

    /// As it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is found in a text. One that does not compile never is.
    pub(super) fn is_in(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| compile(&self.text).ok());
        compiled.as_ref().is_some_and(|it| it.is_match(text))
    }
}

/// Compiles an expression of Go's syntax.
///
/// # Errors
///
/// In the words of Go's `regexp`, where there is an equivalent.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(&translate(pattern)).map_err(|error| explain(pattern, &error))
}

fn explain(pattern: &str, error: &regex::Error) -> String {
    let text = error.to_string();
    let (what, place) = if text.contains("unclosed group") {
        ("missing closing )", pattern)
    } else if text.contains("unopened group") {
        ("unexpected )", pattern)
    } else if text.contains("unclosed character class") {
        let at = pattern.rfind('[').unwrap_or(0);
        ("missing closing ]", &pattern[at..])
    } else if text.contains("repetition operator missing expression") {
        let at = pattern.find(['*', '+', '?']).unwrap_or(0);
        (
            "missing argument to repetition operator",
            pattern.get(at..=at).unwrap_or(pattern),
        )
    } else if text.contains("look-around") {
        let at = pattern.find("(?").unwrap_or(0);
        let end = (at + 3).min(pattern.len());
        (
            "invalid or unsupported Perl syntax",
            pattern.get(at..end).unwrap_or(pattern),
        )
    } else {
        let last = text.lines().last().unwrap_or_default();
        let what = last.strip_prefix("error: ").unwrap_or(last);
        return format!("error parsing regexp: {what}: `{pattern}`");
    };
    format!("error parsing regexp: {what}: `{place}`")
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_start = false;
    while let Some(c) = chars.next() {
        let at_start = std::mem::take(&mut class_start);
        match c {
            '\\' => {
                let Some(next) = chars.next() else {
                    out.push(c);
                    break;
                };
                let ascii = match (next, in_class) {
                    ('d', true) => Some("0-9"),
                    ('w', true) => Some("0-9A-Za-z_"),
                    ('s', true) => Some(r"\t\n\x0C\r "),
                    ('d', false) => Some("[0-9]"),
                    ('w', false) => Some("[0-9A-Za-z_]"),
                    ('s', false) => Some(r"[\t\n\x0C\r ]"),
                    ('D', _) => Some("[^0-9]"),
                    ('W', _) => Some("[^0-9A-Za-z_]"),
                    ('S', _) => Some(r"[^\t\n\x0C\r ]"),
                    ('b', false) => Some(r"(?-u:\b)"),
                    _ => None,
                };
                match ascii {
                    Some(ascii) => out.push_str(ascii),
                    None => {
                        out.push(c);
                        out.push(next);
                    }
                }
            }
            '[' if !in_class => {
                in_class = true;
                class_start = true;
                out.push(c);
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
            }
            // A bracket that comes first is a member of the class.
            ']' if in_class && at_start => out.push_str(r"\]"),
            ']' if in_class => {
                in_class = false;
                out.push(c);
            }
            '[' if chars.peek() == Some(&':') => {
                out.push(c);
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn check(pattern: &str, text: &str, found: bool) {
        assert_eq!(
            Pattern::new(pattern).is_in(text),
            found,
            "{pattern} in {text}"
        );
    }

    #[test]
    fn go_syntax_is_understood() {
        check("^a+$", "aaa", true);
        check("^a+$", "b", false);
        check(r"^\d+$", "12", true);
        check(r"^\d+$", "\u{663}", false);
        check(r"^[\w.-]+$", "a_b.c-d", true);
        check(r"^[[a]$", "[", true);
        check(r"^[]a]$", "]", true);
        check(r"^[[:alpha:]]$", "x", true);
        check(r"^[a&&b]$", "&", true);
        check(r"(?i)^abc$", "ABC", true);
        check(r"^\p{L}+$", "\u{e9}", true);
        check(r"^a\/b$", "a/b", true);
        check("(", "(", false);
    }
}
