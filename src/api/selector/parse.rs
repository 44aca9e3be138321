//! The text form of label selectors.

use super::{Operator, Requirement, requirement};
use crate::{FieldError, Path, names};

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

pub(super) struct Parser {
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
    pub(super) fn new(text: &str) -> Self {
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

    pub(super) fn parse(mut self) -> Result<Vec<Requirement>, String> {
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
