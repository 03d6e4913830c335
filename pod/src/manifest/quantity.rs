//! Kubernetes quantities: `100m`, `200Mi`, `1.5`, `1e3`.

use crate::spec::Quantity;

/// Digits after the point that are looked at; what follows only rounds up. More would not change a thousandth of the
/// largest unit.
const FRACTION_DIGITS: usize = 15;

/// Reads a quantity, exactly: thousandths, rounded up as Kubernetes does, saturating. None: it is not one.
pub fn parse(text: &str) -> Option<Quantity> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let milli = match scale(suffix)? {
        Scale::Times(factor) => scaled(whole, fraction, factor.saturating_mul(1000), 1),
        Scale::Power(power) => match u32::try_from(power.saturating_add(3)) {
            Ok(up) => scaled(whole, fraction, 10i128.saturating_pow(up), 1),
            Err(_) => scaled(whole, fraction, 1, 10i128.saturating_pow(power.saturating_add(3).unsigned_abs())),
        },
    };
    Some(Quantity { milli: if negative { -milli } else { milli } })
}

enum Scale {
    Times(i128),
    /// Of ten.
    Power(i32),
}

fn scale(suffix: &str) -> Option<Scale> {
    Some(match suffix {
        "n" => Scale::Power(-9),
        "u" => Scale::Power(-6),
        "m" => Scale::Power(-3),
        "" => Scale::Power(0),
        "k" => Scale::Power(3),
        "M" => Scale::Power(6),
        "G" => Scale::Power(9),
        "T" => Scale::Power(12),
        "P" => Scale::Power(15),
        "E" => Scale::Power(18),
        "Ki" => Scale::Times(1 << 10),
        "Mi" => Scale::Times(1 << 20),
        "Gi" => Scale::Times(1 << 30),
        "Ti" => Scale::Times(1 << 40),
        "Pi" => Scale::Times(1 << 50),
        "Ei" => Scale::Times(1 << 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Scale::Power(exponent.parse().ok()?)
        }
    })
}

/// `whole.fraction * factor / divisor`, rounded up.
fn scaled(whole: &str, fraction: &str, factor: i128, divisor: i128) -> i128 {
    let whole = digits(whole).saturating_mul(factor);
    let kept = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let rest = fraction[kept.len()..].bytes().any(|b| b != b'0');
    let unit = 10i128.saturating_pow(kept.len() as u32);
    let parts = digits(kept).saturating_add(i128::from(rest)).saturating_mul(factor);
    // Over the common denominator, so that it is rounded once.
    let sum = whole.saturating_mul(unit).saturating_add(parts);
    if whole.checked_mul(unit).is_none() {
        return whole / divisor;
    }
    let denominator = unit.saturating_mul(divisor);
    sum / denominator + i128::from(sum % denominator != 0)
}

fn digits(text: &str) -> i128 {
    text.bytes().fold(0i128, |sum, b| sum.saturating_mul(10).saturating_add(i128::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        let cases: &[(&str, i128)] = &[
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("1500u", 2),
            ("1n", 1),
            ("0n", 0),
            ("200Mi", 209_715_200_000),
            ("1.5Gi", 1_610_612_736_000),
            ("0.1", 100),
            (".5", 500),
            ("5.", 5000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1e-3", 1),
            ("1e-4", 1),
            ("-2", -2000),
            ("+2", 2000),
            ("0.0001", 1),
            ("0.00000000000000000001", 1),
            ("1Ei", 1_152_921_504_606_846_976_000),
        ];
        for (text, milli) in cases {
            assert_eq!(parse(text), Some(Quantity { milli: *milli }), "{text}");
        }
        for text in ["", "-", "m", "1 ", "1Kib", "1ki", "1K", "0x10", "1e", "1e99999", "1.2.3", "١", "1mm", "--1"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse(&"9".repeat(100)).is_some_and(|q| q.milli > i128::MAX / 10_000));
        assert!(parse("1e9999").is_some_and(|q| q.milli > i128::MAX / 10_000));
        assert_eq!(parse("1e-9999"), Some(Quantity { milli: 1 }));
    }
}
