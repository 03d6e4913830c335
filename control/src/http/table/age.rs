//! How long ago something was, as short as kubectl's users know it.

use jiff::Timestamp;
use serde_json::Value;

use super::text::UNKNOWN;

/// The age of an object.
pub fn created(object: &Value, now: Timestamp) -> Value {
    since(&object["metadata"]["creationTimestamp"], now).into()
}

/// The time since; `<unknown>` where none is said.
pub fn since(at: &Value, now: Timestamp) -> String {
    match at.as_str().and_then(|at| at.parse::<Timestamp>().ok()) {
        Some(at) => short(now.as_second().saturating_sub(at.as_second())),
        None => UNKNOWN.to_owned(),
    }
}

/// Two units at most, and the smaller one only while it matters.
pub fn short(seconds: i64) -> String {
    let two = |large: i64, unit: char, small: i64, below: char| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{below}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        // A clock that is a moment behind is no reason for a strange word.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        252_288_000.. => format!("{}y", days / 365),
    }
}
