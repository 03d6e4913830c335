//! JSON text to trees, with the line of every value: RFC 8259, several documents one after the other, between them
//! perhaps `---`. Its own reader because serde_json does not say on which line a value stood, and because YAML reads
//! some of JSON's escapes differently. Driven by [`super::documents`].

use std::iter::Peekable;
use std::str::CharIndices;

use super::budget::{Budget, check_depth};
use super::scalar;
use super::tree::{Node, Value};
use super::yaml::Broken;

/// Gives each document's root to `each` as it ends. Stops at the first fault: what stood before it has been given.
/// `each` says whether to go on.
pub fn read(text: &str, each: &mut dyn FnMut(Node) -> bool) -> Result<(), Broken> {
    let mut reader = Reader { text, chars: text.char_indices().peekable(), line: 1, spent: Budget::default() };
    loop {
        reader.space();
        if reader.rest().starts_with("---") {
            for _ in 0..3 {
                reader.bump();
            }
            continue;
        }
        if reader.peek().is_none() {
            return Ok(());
        }
        reader.spent = Budget::default();
        let node = reader.value(1)?;
        if node.value != Value::Null && !each(node) {
            return Ok(());
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    line: u32,
    spent: Budget,
}

impl<'a> Reader<'a> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn bump(&mut self) -> Option<char> {
        let (_, c) = self.chars.next()?;
        if c == '\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(c)
    }

    /// What has not been read.
    fn rest(&mut self) -> &'a str {
        let at = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        self.text.get(at..).unwrap_or_default()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.bump();
        }
    }

    fn broken<T>(&self, reason: impl Into<String>) -> Result<T, Broken> {
        Err(Broken { line: self.line, reason: reason.into() })
    }

    fn unexpected<T>(&mut self, wanted: &str) -> Result<T, Broken> {
        match self.peek() {
            Some(c) => self.broken(format!("this is not JSON: {wanted} is expected here, not {c:?}")),
            None => self.broken(format!("this is not JSON: the file ends where {wanted} is expected")),
        }
    }

    fn spend(&mut self, text: usize) -> Result<(), Broken> {
        self.spent = self.spent.add(1, text).map_err(|e| Broken { line: self.line, reason: e.to_string() })?;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node, Broken> {
        self.space();
        let line = self.line;
        self.spend(0)?;
        let value = match self.peek() {
            Some('{') => self.map(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z') => self.word()?,
            _ => return self.unexpected("a value"),
        };
        Ok(Node { line, value })
    }

    fn nested(&mut self, depth: usize) -> Result<(), Broken> {
        self.bump();
        check_depth(depth).map_err(|e| Broken { line: self.line, reason: e.to_string() })
    }

    fn map(&mut self, depth: usize) -> Result<Value, Broken> {
        self.nested(depth)?;
        let mut entries = Vec::new();
        self.space();
        if self.peek() == Some('}') {
            self.bump();
            return Ok(Value::Map(entries));
        }
        loop {
            self.space();
            let line = self.line;
            if self.peek() != Some('"') {
                return self.unexpected("a key in double quotes");
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(':') {
                return self.unexpected("`:`");
            }
            self.bump();
            let mut value = self.value(depth + 1)?;
            value.line = line;
            entries.push((key, value));
            self.space();
            match self.peek() {
                Some(',') => self.bump(),
                Some('}') => {
                    self.bump();
                    return Ok(Value::Map(entries));
                }
                _ => return self.unexpected("`,` or `}`"),
            };
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Broken> {
        self.nested(depth)?;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(']') {
            self.bump();
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(',') => self.bump(),
                Some(']') => {
                    self.bump();
                    return Ok(Value::List(items));
                }
                _ => return self.unexpected("`,` or `]`"),
            };
        }
    }

    fn string(&mut self) -> Result<String, Broken> {
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                None => return self.broken("this is not JSON: the file ends inside a text"),
                Some('"') => break,
                Some('\\') => text.push(self.escape()?),
                Some(c) if c < ' ' => return self.broken("this is not JSON: a text holds a raw control character"),
                Some(c) => text.push(c),
            }
        }
        self.spend(text.len())?;
        Ok(text)
    }

    fn escape(&mut self) -> Result<char, Broken> {
        Ok(match self.bump() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let high = self.four_digits()?;
                if !(0xd800..0xdc00).contains(&high) {
                    // A lone low half becomes the replacement character, as in Go.
                    return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                if !self.rest().starts_with("\\u") {
                    return Ok(char::REPLACEMENT_CHARACTER);
                }
                self.bump();
                self.bump();
                let low = self.four_digits()?;
                let joined = 0x10000 + ((high - 0xd800) << 10) + low.wrapping_sub(0xdc00);
                if (0xdc00..0xe000).contains(&low) {
                    char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER)
                } else {
                    char::REPLACEMENT_CHARACTER
                }
            }
            _ => return self.broken("this is not JSON: an escape that JSON does not have"),
        })
    }

    fn four_digits(&mut self) -> Result<u32, Broken> {
        let mut code = 0;
        for _ in 0..4 {
            match self.bump().and_then(|c| c.to_digit(16)) {
                Some(digit) => code = code * 16 + digit,
                None => return self.broken("this is not JSON: four hexadecimal digits must follow \\u"),
            }
        }
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, Broken> {
        let rest = self.rest();
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let text = &rest[..end];
        let digits = text.strip_prefix('-').unwrap_or(text);
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        let value = if leading_zero || digits.ends_with('.') { None } else { scalar::number(text) };
        let Some(value) = value else {
            // Not what it is: it may be a Secret's.
            return self.broken("this is not JSON: what looks like a number is none".to_owned());
        };
        for _ in text.chars() {
            self.bump();
        }
        Ok(value)
    }

    fn word(&mut self) -> Result<Value, Broken> {
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if self.rest().starts_with(word) {
                for _ in word.chars() {
                    self.bump();
                }
                return Ok(value);
            }
        }
        self.unexpected("a value")
    }
}
