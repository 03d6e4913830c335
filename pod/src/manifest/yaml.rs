//! YAML text to trees, one per document, with a budget for everything that an author can multiply.
//!
//! Driven by [`super::documents`]. It must not know Kubernetes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::budget::{Budget, Excess, check_depth};
use super::scalar;
use super::tree::{Node, Value};

/// Why a text is not YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub line: u32,
    pub reason: String,
}

/// Gives each document's root to `each` as it ends; empty documents are passed over. Stops at the first fault: what
/// stood before it has been given. `each` says whether to go on.
pub fn read(text: &str, each: &mut dyn FnMut(Node) -> bool) -> Result<(), Broken> {
    read_from(0, text, each)
}

/// As [`read`], of a text that stands behind so many lines of its file.
pub fn read_from(before: usize, text: &str, each: &mut dyn FnMut(Node) -> bool) -> Result<(), Broken> {
    let mut parser = Parser::new_from_str(text);
    let fresh = || Builder { before, ..Builder::default() };
    let mut builder = fresh();
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| Broken {
            line: line_number(before + e.marker().line()),
            reason: format!("this is not YAML: {}", e.info()),
        })?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) => builder = fresh(),
            Event::DocumentEnd => {
                if let Some(root) = builder.root.take().filter(|r| r.value != Value::Null)
                    && !each(root)
                {
                    return Ok(());
                }
            }
            event => builder.take(event, span)?,
        }
    }
    Ok(())
}

/// The parts of a text between the lines that begin a document, each with the number of lines before it. Such a line ends whatever stands
/// open (YAML 1.2, 9.1.2), so that a document that is broken ends there too.
pub fn pieces(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let begins = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let mut rest = Some((0, text));
    std::iter::from_fn(move || {
        let (before, text) = rest.take()?;
        let mut length = 0;
        for (lines, line) in text.split_inclusive('\n').enumerate() {
            if length > 0 && begins(line) {
                rest = Some((before + lines, &text[length..]));
                break;
            }
            length += line.len();
        }
        Some((before, &text[..length]))
    })
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX).max(1)
}

/// One document in the making.
#[derive(Default)]
struct Builder {
    /// Lines of the file before this text.
    before: usize,
    root: Option<Node>,
    open: Vec<Open>,
    /// By the parser's anchor number.
    anchors: HashMap<usize, Anchor>,
    spent: Budget,
}

/// A named value, and what it costs to repeat it.
struct Anchor {
    node: Node,
    cost: Budget,
    /// Levels of lists and mappings in it.
    height: usize,
}

/// A list or mapping that has not ended.
struct Open {
    anchor: usize,
    /// What had been spent when it began.
    before: Budget,
    node: Node,
    /// A mapping's key that waits for its value.
    key: Option<Key>,
    /// Values of `<<`, in order.
    merges: Vec<Node>,
}

enum Key {
    Name(String, u32),
    Merge,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Broken> {
        let line = line_number(self.before + span.start.line());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let before = self.spent;
                self.spend(text.len(), line)?;
                self.scalar(text, style, tag, anchor, line, before)
            }
            Event::SequenceStart(anchor, tag) => self.begin(anchor, tag, Value::List(Vec::new()), line),
            Event::MappingStart(anchor, tag) => self.begin(anchor, tag, Value::Map(Vec::new()), line),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let Some(named) = self.anchors.get(&anchor) else {
                    return Err(Broken { line, reason: "this alias stands inside the value that it names".into() });
                };
                let excess = |e: Excess| Broken { line, reason: e.to_string() };
                check_depth(self.open.len() + named.height).map_err(excess)?;
                self.spent = self.spent.add_all(named.cost).map_err(excess)?;
                let value = named.node.value.clone();
                self.put(Node { line, value }, None)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    /// One node with this much text.
    fn spend(&mut self, text: usize, line: u32) -> Result<(), Broken> {
        self.spent = self.spent.add(1, text).map_err(|e| Broken { line, reason: e.to_string() })?;
        Ok(())
    }

    /// Remembers a finished value under its anchor, if it has one.
    fn name(&mut self, anchor: usize, node: &Node, before: Budget) {
        if anchor > 0 {
            let named = Anchor { node: node.clone(), cost: self.spent.since(before), height: node.height() };
            self.anchors.insert(anchor, named);
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<Cow<'_, Tag>>,
        anchor: usize,
        line: u32,
        before: Budget,
    ) -> Result<(), Broken> {
        let plain = style == ScalarStyle::Plain;
        let value = match tag {
            None if plain => scalar::resolve(&text),
            None => Value::Text(text.to_string()),
            Some(tag) => tagged(&text, &tag, plain).ok_or_else(|| Broken {
                line,
                // Not the value: it may be a Secret's.
                reason: format!("the value does not fit its tag {}{}", tag.handle, tag.suffix),
            })?,
        };
        let node = Node { line, value };
        self.name(anchor, &node, before);
        self.put(node, Some((&text, plain)))
    }

    fn begin(&mut self, anchor: usize, tag: Option<Cow<'_, Tag>>, value: Value, line: u32) -> Result<(), Broken> {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "seq" | "map"))
        {
            return Err(Broken { line, reason: format!("the tag {}{} is not known here", tag.handle, tag.suffix) });
        }
        if matches!(self.open.last(), Some(Open { node: Node { value: Value::Map(_), .. }, key: None, .. })) {
            return Err(Broken { line, reason: "a key must be a text, not a list or mapping".into() });
        }
        let before = self.spent;
        self.spend(0, line)?;
        check_depth(self.open.len() + 1).map_err(|e| Broken { line, reason: e.to_string() })?;
        self.open.push(Open { anchor, before, node: Node { line, value }, key: None, merges: Vec::new() });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        let Some(mut open) = self.open.pop() else { return Ok(()) };
        if let Value::Map(entries) = &mut open.node.value {
            let line = open.node.line;
            merge_into(entries, open.merges).map_err(|reason| Broken { line, reason })?;
        }
        self.name(open.anchor, &open.node, open.before);
        self.put(open.node, None)
    }

    /// Places a finished value. `scalar` is its text and whether it was plain: what a key is made of.
    fn put(&mut self, mut node: Node, scalar: Option<(&str, bool)>) -> Result<(), Broken> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None => open.key = Some(key_of(node, scalar)?),
                Some(Key::Merge) => open.merges.push(node),
                Some(Key::Name(name, line)) => {
                    node.line = line;
                    entries.push((name, node));
                }
            },
            _ => {}
        }
        Ok(())
    }
}

/// Keys of JSON are texts: a boolean or number becomes the text that kubectl makes of it.
fn key_of(node: Node, scalar: Option<(&str, bool)>) -> Result<Key, Broken> {
    let line = node.line;
    if scalar == Some(("<<", true)) {
        return Ok(Key::Merge);
    }
    let name = match node.value {
        Value::Text(text) => text,
        Value::Bool(b) => b.to_string(),
        Value::Integer(i) => i.to_string(),
        Value::Float(_) => scalar.map(|(text, _)| text.to_owned()).unwrap_or_default(),
        Value::Null => "null".to_owned(),
        Value::List(_) | Value::Map(_) => {
            return Err(Broken { line, reason: "a key must be a text, not a list or mapping".into() });
        }
    };
    Ok(Key::Name(name, line))
}

/// `<<`: the keys of a mapping, or of several (the first wins), where the mapping itself has none of that name.
fn merge_into(entries: &mut Vec<(String, Node)>, merges: Vec<Node>) -> Result<(), String> {
    const WRONG: &str = "`<<` takes a mapping or a list of mappings";
    if merges.is_empty() {
        return Ok(());
    }
    let mut sources = Vec::new();
    for merge in merges {
        match merge.value {
            Value::List(items) => sources.extend(items),
            _ => sources.push(merge),
        }
    }
    // Made once: there may be many sources, and many keys.
    let mut present: HashSet<String> = entries.iter().map(|(key, _)| key.clone()).collect();
    for source in sources {
        let Value::Map(merged) = source.value else { return Err(WRONG.into()) };
        for (key, value) in merged {
            if present.insert(key.clone()) {
                entries.push((key, value));
            }
        }
    }
    Ok(())
}

/// A scalar with a tag of YAML's own. None: the tag is not one of them, or the text does not fit it.
fn tagged(text: &str, tag: &Tag, plain: bool) -> Option<Value> {
    // The non-specific tag `!` only says: not a plain scalar.
    if tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty() {
        return Some(Value::Text(text.to_owned()));
    }
    if !tag.is_yaml_core_schema() {
        return None;
    }
    let resolved = scalar::resolve(text);
    match (tag.suffix.as_str(), resolved) {
        ("str", _) => Some(Value::Text(text.to_owned())),
        ("int", value @ Value::Integer(_)) | ("bool", value @ Value::Bool(_)) | ("null", value @ Value::Null) => {
            Some(value)
        }
        ("float", value @ Value::Float(_)) => Some(value),
        ("float", Value::Integer(i)) => Some(Value::Float(i as f64)),
        ("timestamp", _) => Some(Value::Text(text.to_owned())),
        ("merge", _) if text == "<<" && plain => Some(Value::Text(text.to_owned())),
        _ => None,
    }
}
