//! `maxUnavailable` and `maxSurge`: a number of nodes, or a percentage of those that should run the daemon.

use serde_json::Value;

/// IntOrString of apps/v1 RollingUpdateDaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Count(u32),
    Percent(u32),
}

impl Share {
    /// `3` or `"10%"`. None: it is neither, or less than 0.
    pub fn read(value: &Value) -> Option<Share> {
        match value {
            Value::String(text) => {
                let digits =
                    text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))?;
                digits.parse().ok().map(Share::Percent)
            }
            number => u32::try_from(number.as_u64()?).ok().map(Share::Count),
        }
    }

    /// How many of `desired` nodes; a percentage is rounded up (both fields, as in Kubernetes).
    pub fn of(self, desired: usize) -> usize {
        match self {
            Share::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Share::Percent(percent) => {
                desired.saturating_mul(usize::try_from(percent).unwrap_or(usize::MAX)).div_ceil(100)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_percentages_are_read_and_nothing_else() {
        assert_eq!(Share::read(&json!(3)), Some(Share::Count(3)));
        assert_eq!(Share::read(&json!("10%")), Some(Share::Percent(10)));
        for wrong in [json!("10"), json!("%"), json!("-1%"), json!(-1), json!(1.5), json!(null), json!("1 %")] {
            assert_eq!(Share::read(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn percentages_are_rounded_up() {
        assert_eq!(Share::Percent(10).of(1), 1);
        assert_eq!(Share::Percent(10).of(10), 1);
        assert_eq!(Share::Percent(10).of(11), 2);
        assert_eq!(Share::Percent(0).of(11), 0);
        assert_eq!(Share::Percent(100).of(1000), 1000);
        assert_eq!(Share::Count(7).of(3), 7);
    }
}
