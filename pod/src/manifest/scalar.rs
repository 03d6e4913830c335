//! What a plain YAML scalar means: by the rules of YAML 1.1 as kubectl and the kubelet read them, so that `0644` is
//! octal and `yes` a boolean. Base 60 does not exist there, and timestamps stay texts.

use super::tree::Value;

/// The value of an untagged plain (unquoted) scalar.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::Text(text.to_owned()))
}

/// An integer or a floating point number, when the text is one.
pub fn number(text: &str) -> Option<Value> {
    match text.as_bytes().first()? {
        b'.' => float(text),
        b'0'..=b'9' | b'+' | b'-' => {
            let plain = text.replace('_', "");
            integer(&plain).or_else(|| float(&plain))
        }
        _ => None,
    }
}

/// Decimal, `0x`, `0o` or plain `0` octal, `0b`, with a sign. Beyond 64 bits it becomes a floating point number, which
/// no field takes as an integer.
fn integer(plain: &str) -> Option<Value> {
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let magnitude = match i128::from_str_radix(digits, radix) {
        Ok(magnitude) if magnitude <= i128::from(u64::MAX) => magnitude,
        _ if radix == 10 => return plain.parse().ok().map(Value::Float),
        _ => return Some(Value::Float(f64::INFINITY)),
    };
    Some(Value::Integer(if negative { -magnitude } else { magnitude }))
}

/// Digits, at most one point, an exponent: not all that Rust would take (`inf`, `1e`).
fn float(plain: &str) -> Option<Value> {
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let points = mantissa.bytes().filter(|b| *b == b'.').count();
    if digits == 0 || points > 1 || digits + points != mantissa.len() {
        return None;
    }
    if let Some(exponent) = exponent {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if exponent.is_empty() || !exponent.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
    }
    plain.parse().ok().map(Value::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_reads() {
        let cases: &[(&str, Value)] = &[
            ("0644", Value::Integer(0o644)),
            ("0o644", Value::Integer(0o644)),
            ("-0644", Value::Integer(-0o644)),
            ("0x1F", Value::Integer(31)),
            ("-0x1f", Value::Integer(-31)),
            ("0b101", Value::Integer(5)),
            ("1_000", Value::Integer(1000)),
            ("+12", Value::Integer(12)),
            ("0", Value::Integer(0)),
            ("-0", Value::Integer(0)),
            ("18446744073709551615", Value::Integer(u64::MAX.into())),
            ("18446744073709551616", Value::Float(18_446_744_073_709_551_616.0)),
            ("08", Value::Float(8.0)),
            ("1.5", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("-1.5E-3", Value::Float(-0.0015)),
            ("yes", Value::Bool(true)),
            ("On", Value::Bool(true)),
            ("y", Value::Bool(true)),
            ("NO", Value::Bool(false)),
            ("off", Value::Bool(false)),
            ("~", Value::Null),
            ("null", Value::Null),
            ("", Value::Null),
        ];
        for (text, value) in cases {
            assert_eq!(&resolve(text), value, "{text}");
        }
        for text in [
            "1:30",
            "190:20:30",
            "2001-12-14",
            "1.2.3",
            "0x",
            "1e",
            "1.",
            "yEs",
            "nULL",
            "100m",
            "200Mi",
            "-",
            "+",
            ".",
            "_1",
            "0.0.0.0:80",
            "<<",
        ] {
            let text_or_float = resolve(text);
            if text == "1." {
                assert_eq!(text_or_float, Value::Float(1.0));
            } else {
                assert_eq!(text_or_float, Value::Text(text.into()), "{text}");
            }
        }
    }
}
