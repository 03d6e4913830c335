//! An OpenAPI v2 document in the protobuf that gnostic defines (`openapi.v2.Document`) and that old kubectl decodes: the numbers of the fields
//! that our documents use. Whatever begins with `x-` is an extension, whose value is YAML; JSON is YAML.

use serde_json::{Map, Value};

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or_default());
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u64, message: &Message) {
        self.bytes(number, &message.0);
    }

    /// Text, where it is there.
    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, values: &Value) {
        values.as_array().into_iter().flatten().for_each(|value| self.text(number, value));
    }

    fn truth(&mut self, number: u64, value: &Value) {
        if value.as_bool() == Some(true) {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// Messages that have a name: name and value of each.
    fn named(&mut self, number: u64, values: &Value, write: fn(&Value) -> Message) {
        for (name, value) in values.as_object().into_iter().flatten() {
            let mut named = Message::default();
            named.bytes(1, name.as_bytes());
            named.message(2, &write(value));
            self.message(number, &named);
        }
    }

    fn extensions(&mut self, number: u64, of: &Value) {
        let is_one = |(name, _): &(&String, &Value)| name.starts_with("x-");
        let own: Map<String, Value> =
            of.as_object().into_iter().flatten().filter(is_one).map(|(n, v)| (n.clone(), v.clone())).collect();
        self.named(number, &Value::Object(own), any);
    }
}

/// A message that has nothing but another one in a field.
fn around(number: u64, inner: &Message) -> Message {
    let mut outer = Message::default();
    outer.message(number, inner);
    outer
}

pub fn document(of: &Value) -> Vec<u8> {
    let mut document = Message::default();
    document.text(1, &of["swagger"]);
    let mut info = Message::default();
    info.text(1, &of["info"]["title"]);
    info.text(2, &of["info"]["version"]);
    document.message(2, &info);
    let mut paths = Message::default();
    paths.named(2, &of["paths"], path);
    document.message(8, &paths);
    let mut definitions = Message::default();
    definitions.named(1, &of["definitions"], schema);
    document.message(9, &definitions);
    document.0
}

fn any(value: &Value) -> Message {
    let mut any = Message::default();
    any.bytes(2, value.to_string().as_bytes());
    any
}

fn path(of: &Value) -> Message {
    let mut path = Message::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(of) = of.get(method) {
            path.message(number, &operation(of));
        }
    }
    parameters(&mut path, 9, of);
    path
}

fn operation(of: &Value) -> Message {
    let mut operation = Message::default();
    operation.text(3, &of["description"]);
    operation.text(5, &of["operationId"]);
    operation.texts(6, &of["produces"]);
    operation.texts(7, &of["consumes"]);
    parameters(&mut operation, 8, of);
    let mut responses = Message::default();
    responses.named(1, &of["responses"], |of| {
        let mut response = Message::default();
        response.text(1, &of["description"]);
        if let Some(of) = of.get("schema") {
            response.message(2, &around(1, &schema(of)));
        }
        around(1, &response)
    });
    operation.message(9, &responses);
    operation.extensions(13, of);
    operation
}

fn parameters(into: &mut Message, number: u64, of: &Value) {
    for of in of["parameters"].as_array().into_iter().flatten() {
        into.message(number, &around(1, &parameter(of)));
    }
}

fn parameter(of: &Value) -> Message {
    let mut parameter = Message::default();
    if of["in"] == "body" {
        parameter.text(1, &of["description"]);
        parameter.text(2, &of["name"]);
        parameter.text(3, &of["in"]);
        parameter.truth(4, &of["required"]);
        parameter.message(5, &schema(&of["schema"]));
        return around(1, &parameter);
    }
    let in_query = of["in"] == "query";
    parameter.truth(1, &of["required"]);
    parameter.text(2, &of["in"]);
    parameter.text(3, &of["description"]);
    parameter.text(4, &of["name"]);
    // A parameter of a query has one field more before its type.
    parameter.text(if in_query { 6 } else { 5 }, &of["type"]);
    parameter.truth(if in_query { 20 } else { 19 }, &of["uniqueItems"]);
    around(2, &around(if in_query { 3 } else { 4 }, &parameter))
}

fn schema(of: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, &of["$ref"]);
    message.text(2, &of["format"]);
    message.text(4, &of["description"]);
    if let Some(default) = of.get("default") {
        message.message(5, &any(default));
    }
    message.texts(19, &of["required"]);
    match of.get("additionalProperties") {
        Some(Value::Bool(open)) => {
            let mut item = Message::default();
            item.truth(2, &(*open).into());
            message.message(21, &item);
        }
        Some(inner) => message.message(21, &around(1, &schema(inner))),
        None => {}
    }
    if let Some(Value::String(name)) = of.get("type") {
        let mut types = Message::default();
        types.bytes(1, name.as_bytes());
        message.message(22, &types);
    }
    if let Some(items) = of.get("items") {
        message.message(23, &around(1, &schema(items)));
    }
    if let Some(properties) = of.get("properties") {
        let mut all = Message::default();
        all.named(1, properties, schema);
        message.message(25, &all);
    }
    message.extensions(31, of);
    message
}
