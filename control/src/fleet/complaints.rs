//! What is logged of a node's own words: a bounded piece of each, and a bounded number of lines. Else one node's nonsense makes the journal drop
//! what others have to say, the audit's lines among it.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes of a text.
const TEXT_MAX: usize = 1_024;
/// Lines of one node in [`WINDOW`]; a node whose every pod has something wrong says so.
const LINES_MAX: u32 = 30;
const WINDOW: Duration = Duration::from_secs(60);

/// The beginning of what a node says.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

/// Of one node.
#[derive(Debug, Default)]
pub struct Complaints {
    since: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

impl Complaints {
    /// Whether there is room for one more line; with it, how many were left out before it.
    pub fn may(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines >= LINES_MAX {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.lines = self.lines.saturating_add(1);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_those_left_out_are_told_later() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let said = (0..100).filter(|_| complaints.may(start).is_some()).count();
        assert_eq!(said, usize::try_from(LINES_MAX).unwrap());
        assert_eq!(complaints.may(start + WINDOW), Some(70));
        assert_eq!(complaints.may(start + WINDOW), Some(0));
        assert_eq!(cut(&"ä".repeat(600)).len(), TEXT_MAX);
        assert_eq!(cut(&format!("x{}", "ä".repeat(600))).len(), TEXT_MAX - 1);
    }
}
