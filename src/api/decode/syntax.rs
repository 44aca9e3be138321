//! What is wrong with malformed JSON, in the words of Go's `encoding/json`.

/// Arrays and objects nested deeper than this are refused. Whatever walks a
/// value is recursive, so this bounds what a request may take of the stack.
pub(crate) const MAX_DEPTH: usize = 256;

const END: &str = "unexpected end of JSON input";

/// The first syntax error of a document, or `None` if it is well-formed.
pub(crate) fn error(data: &[u8]) -> Option<String> {
    Scan { data, at: 0 }.document().err()
}

struct Scan<'a> {
    data: &'a [u8],
    at: usize,
}

/// What may come next inside an array or object.
#[derive(Clone, Copy)]
enum Container {
    Array,
    Object,
}

impl Scan<'_> {
    fn peek(&self) -> Result<u8, String> {
        self.data
            .get(self.at)
            .copied()
            .ok_or_else(|| END.to_owned())
    }

    fn space(&mut self) {
        while matches!(self.data.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn invalid<T>(&self, context: &str) -> Result<T, String> {
        let byte = self.peek()?;
        let shown = match byte {
            b'\'' => r"'\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            _ => format!("'{}'", go_quoted(&char::from(byte).to_string())),
        };
        Err(format!("invalid character {shown} {context}"))
    }

    fn document(&mut self) -> Result<(), String> {
        let mut open: Vec<Container> = Vec::new();
        'value: loop {
            self.space();
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    self.push(&mut open, Container::Object)?;
                    self.space();
                    if self.peek()? == b'}' {
                        self.at += 1;
                        open.pop();
                    } else {
                        self.key()?;
                        continue 'value;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.push(&mut open, Container::Array)?;
                    self.space();
                    if self.peek()? == b']' {
                        self.at += 1;
                        open.pop();
                    } else {
                        continue 'value;
                    }
                }
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                _ => return self.invalid("looking for beginning of value"),
            }
            // After a value: close containers until one goes on.
            loop {
                self.space();
                let Some(container) = open.last() else {
                    return match self.data.get(self.at) {
                        None => Ok(()),
                        Some(_) => self.invalid("after top-level value"),
                    };
                };
                match (container, self.peek()?) {
                    (Container::Array, b',') => {
                        self.at += 1;
                        continue 'value;
                    }
                    (Container::Object, b',') => {
                        self.at += 1;
                        self.space();
                        self.key()?;
                        continue 'value;
                    }
                    (Container::Array, b']') | (Container::Object, b'}') => {
                        self.at += 1;
                        open.pop();
                    }
                    (Container::Array, _) => return self.invalid("after array element"),
                    (Container::Object, _) => return self.invalid("after object key:value pair"),
                }
            }
        }
    }

    fn push(&self, open: &mut Vec<Container>, container: Container) -> Result<(), String> {
        open.push(container);
        if open.len() > MAX_DEPTH {
            let shown = match container {
                Container::Array => '[',
                Container::Object => '{',
            };
            return Err(format!("invalid character '{shown}' exceeded max depth"));
        }
        Ok(())
    }

    fn key(&mut self) -> Result<(), String> {
        if self.peek()? != b'"' {
            return self.invalid("looking for beginning of object key string");
        }
        self.string()?;
        self.space();
        if self.peek()? != b':' {
            return self.invalid("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek()?.is_ascii_hexdigit() {
                                    return self.invalid("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.invalid("in string escape code"),
                    }
                }
                0..0x20 => return self.invalid("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn digits(&mut self) {
        while matches!(self.data.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.invalid("in numeric literal"),
        }
        if self.data.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.peek()?.is_ascii_digit() {
                return self.invalid("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.data.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            if !self.peek()?.is_ascii_digit() {
                return self.invalid("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            if self.peek()? != expected {
                let expected = char::from(expected);
                return self.invalid(&format!("in literal {word} (expecting '{expected}')"));
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// A string as Go's `%q` prints it, without the quotes.
fn go_quoted(text: &str) -> String {
    let quoted = go_quote(text);
    quoted[1..quoted.len() - 1].to_owned()
}

/// A string as Go's `%q` prints it.
pub(crate) fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c if (0x80..0xa0).contains(&(c as u32)) || c as u32 == 0xad => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_gos() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                error(text.as_bytes()).unwrap_or_default(),
                expected,
                "{text}"
            );
        };
        check(r#"{"a": [1, -2.5e+3, "x\u00e9", true, null, {}]} "#, "");
        check("", "unexpected end of JSON input");
        check(r#"{"a": "#, "unexpected end of JSON input");
        check(
            "{a: 1}",
            "invalid character 'a' looking for beginning of object key string",
        );
        check("{\"a\" 1}", "invalid character '1' after object key");
        check(
            "{\"a\": 01}",
            "invalid character '1' after object key:value pair",
        );
        check("[1 2]", "invalid character '2' after array element");
        check(
            "[1,]",
            "invalid character ']' looking for beginning of value",
        );
        check(
            "tru3",
            "invalid character '3' in literal true (expecting 'e')",
        );
        check("{} x", "invalid character 'x' after top-level value");
        check("\"a\nb\"", "invalid character '\\n' in string literal");
        check(
            &"[".repeat(100_000),
            "invalid character '[' exceeded max depth",
        );
    }
}
