//! The syntax of JSON: what a decoder steps over.

use std::borrow::Cow;

use super::failure::Stop;
use super::{MAX_DEPTH, Reader};

impl<'a> Reader<'a> {
    pub(super) fn space(&mut self) -> &mut Self {
        while matches!(self.data.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    /// What `encoding/json` calls the value that begins here.
    pub(super) fn kind_of_value(&self) -> &'static str {
        match self.peek() {
            Some(b'{') => "object",
            Some(b'[') => "array",
            Some(b'"') => "string",
            Some(b't' | b'f') => "bool",
            Some(b'n') => "null",
            _ => "number",
        }
    }

    /// Moves to the next key of an object; false at its end.
    pub(super) fn next_key(&mut self, first: &mut bool) -> Result<bool, Stop> {
        self.next_item(first, b'{', b'}')
    }

    pub(super) fn next_item(
        &mut self,
        first: &mut bool,
        open: u8,
        close: u8,
    ) -> Result<bool, Stop> {
        self.space();
        if *first {
            debug_assert_eq!(self.peek(), Some(open));
            self.at += 1;
            self.space();
        }
        let next = self.peek();
        if next == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        if !*first {
            if next != Some(b',') {
                return Err(Stop::Syntax);
            }
            self.at += 1;
            self.space();
        }
        *first = false;
        Ok(true)
    }

    /// Reads a key and its colon; the value comes next.
    pub(super) fn key(&mut self) -> Result<Cow<'a, str>, Stop> {
        if self.peek() != Some(b'"') {
            return Err(Stop::Syntax);
        }
        let key = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(Stop::Syntax);
        }
        self.at += 1;
        self.space();
        Ok(key)
    }

    pub(super) fn literal(&mut self, word: &str) -> Result<(), Stop> {
        if !self.data[self.at..].starts_with(word.as_bytes()) {
            return Err(Stop::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Stop> {
        let start = self.at + 1;
        let mut at = start;
        let data = self.data;
        loop {
            match data.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(String::from_utf8_lossy(&data[start..at]));
                }
                Some(b'\\') => break,
                Some(0..0x20) | None => return Err(Stop::Syntax),
                Some(_) => at += 1,
            }
        }
        let mut out = String::from_utf8_lossy(&data[start..at]).into_owned();
        loop {
            let run = at;
            while matches!(data.get(at), Some(b) if *b >= 0x20 && *b != b'"' && *b != b'\\') {
                at += 1;
            }
            out.push_str(&String::from_utf8_lossy(&data[run..at]));
            match data.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => at += 1,
                _ => return Err(Stop::Syntax),
            }
            out.push(match data.get(at) {
                Some(b'b') => '\x08',
                Some(b'f') => '\x0c',
                Some(b'n') => '\n',
                Some(b'r') => '\r',
                Some(b't') => '\t',
                Some(b'\\') => '\\',
                Some(b'/') => '/',
                Some(b'"') => '"',
                Some(b'u') => {
                    let unit = |at: usize| {
                        let digits = data
                            .get(at..at + 4)
                            .filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
                        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
                    };
                    let high = unit(at + 1).ok_or(Stop::Syntax)?;
                    at += 4;
                    let mut c = char::from_u32(high);
                    if (0xd800..0xdc00).contains(&high)
                        && data.get(at + 1..at + 3) == Some(b"\\u")
                        && let Some(low) = unit(at + 3)
                        && (0xdc00..0xe000).contains(&low)
                    {
                        c = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
                        at += 6;
                    }
                    c.unwrap_or(char::REPLACEMENT_CHARACTER)
                }
                _ => return Err(Stop::Syntax),
            });
            at += 1;
        }
    }

    /// The text of a number.
    pub(super) fn number(&mut self) -> Result<&'a str, Stop> {
        let start = self.at;
        let mut at = self.at;
        while matches!(
            self.data.get(at),
            Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
        ) {
            at += 1;
        }
        self.at = at;
        let text = std::str::from_utf8(&self.data[start..at]).map_err(|_| Stop::Syntax)?;
        if !is_number(text.as_bytes()) {
            return Err(Stop::Syntax);
        }
        Ok(text)
    }

    /// Passes over a value.
    pub(super) fn skip(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Syntax);
        }
        match self.peek() {
            Some(b'{') => {
                let mut first = true;
                while self.next_key(&mut first)? {
                    self.key()?;
                    self.skip(depth + 1)?;
                }
                Ok(())
            }
            Some(b'[') => {
                let mut first = true;
                while self.next_item(&mut first, b'[', b']')? {
                    self.skip(depth + 1)?;
                }
                Ok(())
            }
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.number().map(drop),
        }
    }

    /// Passes over a value and returns its bytes.
    pub(super) fn raw(&mut self, depth: usize) -> Result<&'a [u8], Stop> {
        let start = self.at;
        self.skip(depth)?;
        Ok(&self.data[start..self.at])
    }
}

fn is_number(text: &[u8]) -> bool {
    let digits = |at: &mut usize| {
        let start = *at;
        while text.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        *at > start
    };
    let mut at = usize::from(text.first() == Some(&b'-'));
    if text.get(at) == Some(&b'0') {
        at += 1;
    } else if !digits(&mut at) {
        return false;
    }
    if text.get(at) == Some(&b'.') {
        at += 1;
        if !digits(&mut at) {
            return false;
        }
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(text.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        if !digits(&mut at) {
            return false;
        }
    }
    at == text.len()
}
