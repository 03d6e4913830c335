//! The lines of a CRI log file: from a container's bytes to `<time> <stream> <F|P> <content>`.
//!
//! Driven by `container`; pure: bytes and a time in, bytes out. The same bytes and the same time always give the same
//! lines, which is what lets a killed keeper's successor finish a batch that was half written (`journal` says how).
//! Format: cri-api's log format as containerd writes it, kubelet `pkg/kubelet/kuberuntime/logs`.

use std::time::Duration;

/// A line's longest piece; longer ones become several lines tagged `P` and a last one tagged `F`, as containerd does.
pub const FRAGMENT_MAX: usize = 16 * 1024;

/// The two outputs of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|stream| stream.name() == name)
    }
}

/// What is to become of bytes that no newline ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// More may come: leave up to a fragment of them.
    Hold,
    /// Nothing comes after them: write them as a partial line, as containerd does at the end of a stream.
    Flush,
}

/// How much of the input `frame` turned into how many lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framed {
    pub taken: usize,
    pub lines: u64,
    /// There are more lines in the input than there was room for.
    pub more: bool,
}

/// Appends the log lines of `input` to `out`, all stamped `stamp`, until the input is used up or the next line would
/// make `out` longer than `room` (one line is always appended, so that every call gets on).
pub fn frame(input: &[u8], tail: Tail, stamp: &str, stream: Stream, out: &mut Vec<u8>, room: usize) -> Framed {
    let mut framed = Framed::default();
    // Beside its content a line has a stamp, a stream, a tag with a space on either side, a space and a newline.
    let frame = stamp.len() + 1 + stream.name().len() + 3 + 1;
    while framed.taken < input.len() {
        let rest = &input[framed.taken..];
        let window = &rest[..rest.len().min(FRAGMENT_MAX + 1)];
        let (content, tag, taken) = match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&rest[..end], b" F ", end + 1),
            None if rest.len() > FRAGMENT_MAX => (&rest[..FRAGMENT_MAX], b" P ", FRAGMENT_MAX),
            None if tail == Tail::Flush => (rest, b" P ", rest.len()),
            None => break,
        };
        if framed.lines > 0 && out.len() + frame + content.len() > room {
            framed.more = true;
            break;
        }
        line(content, tag, stamp, stream, out);
        framed.taken += taken;
        framed.lines += 1;
    }
    framed
}

/// Appends one line of the keeper's own, so that a reader of the log learns what is missing where.
pub fn marker(text: &str, stamp: &str, stream: Stream, out: &mut Vec<u8>) {
    let content = format!("[daemonlet-logkeeper] {}", text.replace('\n', " "));
    line(content.as_bytes(), b" F ", stamp, stream, out);
}

fn line(content: &[u8], tag: &[u8; 3], stamp: &str, stream: Stream, out: &mut Vec<u8>) {
    out.extend_from_slice(stamp.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(tag);
    out.extend_from_slice(content);
    out.push(b'\n');
}

/// A moment of UTC, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
}

/// `2026-11-22T02:46:19.000000001Z`, from the time since 1970 (RFC 3339, nine digits, so that all are of one width).
pub fn rfc3339(since_1970: Duration) -> String {
    let Civil { year, month, day, second_of_day: s } = civil(since_1970.as_secs());
    let nanos = since_1970.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z", s / 3600, s / 60 % 60, s % 60)
}

/// `20261122-024619`, the kubelet's suffix of a rotated log file, in UTC.
pub fn file_stamp(since_1970: Duration) -> String {
    let Civil { year, month, day, second_of_day: s } = civil(since_1970.as_secs());
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// Days to a Gregorian date, counting years from March so that the leap day comes last.
fn civil(seconds: u64) -> Civil {
    const DAYS_TO_1970_FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    let days = seconds / 86_400 + DAYS_TO_1970_FROM_MARCH_OF_YEAR_0;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    Civil {
        year: era * 400 + year_of_era + u64::from(month <= 2),
        month,
        day: day_of_year - (153 * from_march + 2) / 5 + 1,
        second_of_day: seconds % 86_400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(input: &[u8], tail: Tail) -> (String, usize) {
        let mut out = Vec::new();
        let framed = frame(input, tail, "T", Stream::Stdout, &mut out, usize::MAX);
        (String::from_utf8(out).unwrap(), framed.taken)
    }

    #[test]
    fn whole_lines_are_f_and_a_tail_is_held() {
        assert_eq!(framed(b"a\n\nbc\nrest", Tail::Hold), ("T stdout F a\nT stdout F \nT stdout F bc\n".into(), 6));
    }

    #[test]
    fn the_end_of_a_stream_makes_the_tail_partial() {
        assert_eq!(framed(b"a\nrest", Tail::Flush), ("T stdout F a\nT stdout P rest\n".into(), 6));
        assert_eq!(framed(b"", Tail::Flush), (String::new(), 0));
    }

    #[test]
    fn a_long_line_is_cut_at_16_kib() {
        let x = |n| "x".repeat(n);
        assert_eq!(framed(x(FRAGMENT_MAX).as_bytes(), Tail::Hold), (String::new(), 0));
        assert_eq!(
            framed(format!("{}\n", x(FRAGMENT_MAX)).as_bytes(), Tail::Hold).0,
            format!("T stdout F {}\n", x(FRAGMENT_MAX))
        );
        assert_eq!(
            framed(format!("{}\n", x(2 * FRAGMENT_MAX + 1)).as_bytes(), Tail::Hold).0,
            format!("T stdout P {0}\nT stdout P {0}\nT stdout F x\n", x(FRAGMENT_MAX))
        );
    }

    #[test]
    fn framing_what_was_taken_again_gives_the_same_lines() {
        let mut input = "y".repeat(FRAGMENT_MAX * 2).into_bytes();
        input.extend_from_slice(b"y\nshort\nheld");
        for room in [1, 100, FRAGMENT_MAX + 100, FRAGMENT_MAX * 3] {
            let (mut first, mut again) = (Vec::new(), Vec::new());
            let taken = frame(&input, Tail::Hold, "T", Stream::Stderr, &mut first, room).taken;
            let second = frame(&input[..taken], Tail::Flush, "T", Stream::Stderr, &mut again, usize::MAX);
            assert_eq!((first, taken), (again, second.taken), "room {room}");
        }
    }

    #[test]
    fn room_ends_a_batch_at_a_line() {
        let mut out = Vec::new();
        let got = frame(b"a\nb\nc\n", Tail::Hold, "T", Stream::Stdout, &mut out, 26);
        assert_eq!(
            (got, out.as_slice()),
            (Framed { taken: 4, lines: 2, more: true }, b"T stdout F a\nT stdout F b\n".as_slice())
        );
    }

    #[test]
    fn times_are_utc_and_of_one_width() {
        let at = |s, n| rfc3339(Duration::new(s, n));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_709_251_199, 999_999_999), "2024-02-29T23:59:59.999999999Z");
        assert_eq!(at(1_795_315_579, 0), "2026-11-22T02:46:19.000000000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(file_stamp(Duration::new(1_795_315_579, 7)), "20261122-024619");
    }
}
