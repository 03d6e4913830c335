//! Inputs that are nearly right: bytes changed, doubled, moved and left out, words of the format put in, and JSON documents changed as
//! documents. Everything follows from the seed.

use serde_json::{Value, json};

/// xorshift64*, which needs no crate and never changes.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// One to six changes of one of the corpus.
pub fn mutated(random: &mut Random, corpus: &[Vec<u8>], words: &[&str], max: usize) -> Vec<u8> {
    let mut input = random.of(corpus).clone();
    if random.below(2) == 0
        && let Ok(mut document) = serde_json::from_slice::<Value>(&input)
    {
        for _ in 0..=random.below(3) {
            change(random, &mut document, words);
        }
        input = document.to_string().into_bytes();
    }
    if random.below(3) > 0 {
        for _ in 0..=random.below(5) {
            bytes(random, &mut input, corpus, words);
        }
    }
    input.truncate(max);
    input
}

fn bytes(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let at = random.below(input.len() + 1);
    let to = (at + random.below(64)).min(input.len());
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = *random.of(&[0, 0xff, b'"', b'{', b'[', b'\\', b'\n', b'-', b'9', 0x80]),
        2 => drop(input.drain(at..to)),
        3 => {
            let part = input[at..to].to_vec();
            let times = *random.of(&[1, 2, 40]);
            drop(input.splice(at..at, part.repeat(times)));
        }
        4 => drop(input.splice(at..at, random.of(words).bytes())),
        5 => drop(input.splice(at..to, random.of(words).bytes())),
        6 => input.truncate(at),
        7 => {
            let other = random.of(corpus);
            let from = random.below(other.len() + 1);
            let part = &other[from..(from + random.below(200)).min(other.len())];
            drop(input.splice(at..to, part.iter().copied()));
        }
        _ => {
            let long = vec![*random.of(b"a[{\" 0."); *random.of(&[10, 300, 20_000])];
            drop(input.splice(at..at, long));
        }
    }
}

/// One node of a document becomes another one.
fn change(random: &mut Random, document: &mut Value, words: &[&str]) {
    let other = somewhere(random, document).clone();
    let word = (*random.of(words)).to_owned();
    let kind = random.below(12);
    let times = *random.of(&[1, 3, 1_100]);
    let node = somewhere(random, document);
    match (kind, &mut *node) {
        (0, Value::Array(list)) => {
            if let Some(first) = list.first().cloned() {
                let times = times.min(room(&first));
                list.extend(std::iter::repeat_n(first, times));
            }
        }
        (1, Value::Array(list)) => list.push(other),
        (2, Value::Array(list)) => drop(list.pop()),
        (0, Value::Object(map)) => {
            map.extend((0..times.min(room(&other))).map(|n| (format!("{word}{n}"), other.clone())))
        }
        (1, Value::Object(map)) => drop(map.insert(word, other)),
        (2, Value::Object(map)) => {
            if let Some(key) = map.keys().next().cloned() {
                map.remove(&key);
            }
        }
        (3, _) => *node = Value::Null,
        (4, _) => *node = json!(word),
        (5, _) => *node = json!(u64::MAX),
        (6, _) => *node = json!(-1),
        (7, _) => *node = json!("x".repeat(5 * times)),
        (8, _) => *node = (0..100).fold(other, |inner, _| json!([inner])),
        (9, Value::String(text)) => text.push_str(&word),
        (10, Value::String(text)) => text.insert(0, *random.of(&['/', '\0', ':', '\u{202e}', '.', '-', '\n'])),
        _ => *node = other,
    }
}

/// How often a value may be repeated: copies of copies would need all memory.
fn room(value: &Value) -> usize {
    const GROWTH_MAX: usize = 256 << 10;
    1 + GROWTH_MAX / value.to_string().len()
}

/// Any node, each level as likely as the next.
fn somewhere<'a>(random: &mut Random, mut node: &'a mut Value) -> &'a mut Value {
    loop {
        let inside = match &*node {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        if inside == 0 || random.below(4) == 0 {
            return node;
        }
        let at = random.below(inside);
        node = match node {
            Value::Array(list) => &mut list[at],
            Value::Object(map) => map.values_mut().nth(at).expect("it has so many"),
            leaf => return leaf,
        };
    }
}
