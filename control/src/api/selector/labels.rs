//! Label selectors as text: `k`, `!k`, `k=v`, `k==v`, `k!=v`, `k in (v,w)`, `k notin (v)`, `k>1`, `k<1`, with commas between.

use pod::manifest::names;
use pod::spec::{Operator, Requirement};

use super::{MAX_REQUIREMENTS, SelectorError};
use crate::selector::Selector;

/// Reads a query's `labelSelector`. Empty: everything matches.
pub fn labels(text: &str) -> Result<Selector, SelectorError> {
    let refused = |reason| SelectorError::Labels { selector: text.to_owned(), reason };
    let tokens = tokens(text);
    let mut reader = Reader { tokens: &tokens };
    let mut requirements = Vec::new();
    if tokens.is_empty() {
        return Ok(Selector::default());
    }
    loop {
        let requirement = reader.requirement().map_err(refused)?;
        if requirements.len() == MAX_REQUIREMENTS {
            return Err(refused(format!("more than {MAX_REQUIREMENTS} requirements")));
        }
        requirements.push(requirement);
        match reader.next() {
            None => return Ok(Selector { requirements }),
            Some(Token::Symbol(",")) => {}
            Some(other) => return Err(refused(format!("expected a comma before {}", other.shown()))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
}

impl Token<'_> {
    fn shown(self) -> String {
        match self {
            Token::Word(word) => format!("{word:?}"),
            Token::Symbol(symbol) => format!("{symbol:?}"),
        }
    }
}

/// Longer symbols first.
const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let token = match SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            Some(symbol) => {
                rest = &rest[symbol.len()..];
                Token::Symbol(symbol)
            }
            None => {
                let end = rest.find(|c: char| c.is_whitespace() || "=!(),><".contains(c)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after;
                Token::Word(word)
            }
        };
        tokens.push(token);
        rest = rest.trim_start();
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    fn next_if(&mut self, token: Token<'_>) -> bool {
        let same = self.tokens.first() == Some(&token);
        if same {
            self.tokens = &self.tokens[1..];
        }
        same
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.next_if(Token::Symbol("!")) {
            return Ok(Requirement { key: self.key()?, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        let key = self.key()?;
        let (operator, values) = match self.tokens.first() {
            None | Some(Token::Symbol(",")) => (Operator::Exists, Vec::new()),
            Some(token) => {
                let token = *token;
                self.tokens = &self.tokens[1..];
                match token {
                    Token::Symbol("=" | "==") => (Operator::In, vec![self.value()?]),
                    Token::Symbol("!=") => (Operator::NotIn, vec![self.value()?]),
                    Token::Symbol(">") => (Operator::Gt, vec![self.number()?]),
                    Token::Symbol("<") => (Operator::Lt, vec![self.number()?]),
                    Token::Word("in") => (Operator::In, self.values()?),
                    Token::Word("notin") => (Operator::NotIn, self.values()?),
                    other => return Err(format!("{} is no operator: =, ==, !=, in, notin, > or <", other.shown())),
                }
            }
        };
        Ok(Requirement { key, operator, values })
    }

    fn key(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => names::qualified(word).map_or_else(|| Ok(word.to_owned()), Err),
            Some(other) => Err(format!("expected a label's key before {}", other.shown())),
            None => Err("ends where a label's key is expected".into()),
        }
    }

    /// Nothing stands for the empty value.
    fn value(&mut self) -> Result<String, String> {
        match self.tokens.first() {
            Some(Token::Word(word)) => {
                self.tokens = &self.tokens[1..];
                names::label_value(word).map_or_else(|| Ok((*word).to_owned()), Err)
            }
            _ => Ok(String::new()),
        }
    }

    fn number(&mut self) -> Result<String, String> {
        let value = self.value()?;
        match value.parse::<i64>() {
            Ok(_) => Ok(value),
            Err(_) => Err(format!("{value:?} is no integer, which > and < compare")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.next_if(Token::Symbol("(")) {
            return Err("expected ( after in and notin".into());
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.next() {
                Some(Token::Symbol(")")) => return Ok(values),
                Some(Token::Symbol(",")) => {}
                Some(other) => return Err(format!("expected , or ) before {}", other.shown())),
                None => return Err("the list of values has no )".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn matching(selector: &str, have: &[(&str, &str)]) -> bool {
        let have: BTreeMap<_, _> = have.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        labels(selector).unwrap_or_else(|e| panic!("{e}")).matches(&have)
    }

    #[test]
    fn every_operator_means_what_kubectl_says() {
        let have = [("app", "a"), ("tier", "web"), ("n", "5"), ("empty", "")];
        for yes in [
            "",
            " ",
            "app",
            "app=a",
            "app == a",
            "app!=b",
            "none!=b",
            "!none",
            "app in (b, a)",
            "app notin (b)",
            "none notin (b)",
            "n>4",
            "n < 6",
            "empty=",
            "empty in ()",
            "app=a,tier in (web,db),!x",
            "in!=b",
            "notin!=b",
            "example.com/none!=x",
        ] {
            assert!(matching(yes, &have), "{yes}");
        }
        for no in [
            "none",
            "app=b",
            "app!=a",
            "!app",
            "app in (b)",
            "app notin (a,b)",
            "none in (a)",
            "n>5",
            "app>1",
            "app=a,x",
            "app=",
        ] {
            assert!(!matching(no, &have), "{no}");
        }
        assert!(matching("in in (in)", &[("in", "in")]));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_reason() {
        let cases = [
            ("app=a,", "ends where a label's key is expected"),
            (",app", "expected a label's key before \",\""),
            ("app a", "\"a\" is no operator: =, ==, !=, in, notin, > or <"),
            ("app in a", "expected ( after in and notin"),
            ("app in (a", "the list of values has no )"),
            ("app in (a b)", "expected , or ) before \"b\""),
            ("app=a=b", "expected a comma before \"=\""),
            ("n>x", "\"x\" is no integer, which > and < compare"),
            ("!", "ends where a label's key is expected"),
        ];
        for (selector, reason) in cases {
            let wanted = SelectorError::Labels { selector: selector.into(), reason: reason.into() };
            assert_eq!(labels(selector), Err(wanted));
        }
        for invalid in ["-a=b", "a=-b", "a/b/c", &"k".repeat(64), &format!("k={}", "v".repeat(64))] {
            assert!(labels(invalid).is_err(), "{invalid}");
        }
        let many = vec!["a"; 101].join(",");
        assert!(labels(&many).unwrap_err().to_string().ends_with("more than 100 requirements"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c=!(),>< in]{0,24}") {
            let _ = labels(&text);
        }

        #[test]
        fn equality_is_what_it_says(key in "[a-c]", value in "[a-c]", have in prop::collection::btree_map("[a-c]", "[a-c]", 0..3)) {
            let equal = have.get(&key) == Some(&value);
            prop_assert_eq!(labels(&format!("{key}={value}")).unwrap().matches(&have), equal);
            prop_assert_eq!(labels(&format!("{key} != {value}")).unwrap().matches(&have), !equal);
            prop_assert_eq!(labels(&format!("{key} in ({value},{value})")).unwrap().matches(&have), equal);
        }
    }
}
