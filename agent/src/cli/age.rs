//! Ages as kubectl writes them: two units at most, fewer the older it is.

use std::time::Duration;

/// `45s`, `3m20s`, `47m`, `5h12m`, `30h`, `3d4h`, `90d`, `3y40d`.
pub fn human(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days, years) = (seconds / 60, seconds / 3600, seconds / 86_400, seconds / 31_536_000);
    let two = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if years < 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// How long ago an RFC 3339 time was; `<unknown>` where it is none, `<invalid>` where it lies ahead (a clock jumped).
pub fn since(time: Option<&str>, now: jiff::Timestamp) -> String {
    let Some(then) = time.and_then(|time| time.parse::<jiff::Timestamp>().ok()) else { return "<unknown>".into() };
    match Duration::try_from(now.duration_since(then)) {
        Ok(age) => human(age),
        // What was stamped with the present second may lie ahead by less than one.
        Err(_) if then.duration_since(now).as_secs() < 2 => "0s".into(),
        Err(_) => "<invalid>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubectl() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (18_720, "5h12m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (273_600, "3d4h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (66_528_000, "2y40d"),
            (283_824_000, "9y"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_time_ahead_is_told_apart_from_rounding() {
        let now = jiff::Timestamp::from_second(100).unwrap();
        assert_eq!(since(Some("1970-01-01T00:01:41Z"), now), "0s");
        assert_eq!(since(Some("1970-01-01T01:00:00Z"), now), "<invalid>");
        assert_eq!(since(Some("nonsense"), now), "<unknown>");
        assert_eq!(since(Some("1970-01-01T00:01:00Z"), now), "40s");
    }
}
