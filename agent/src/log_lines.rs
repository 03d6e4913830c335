//! How a log's lines are printed: from when on, with their time, with the container's name before them. Pure but for the
//! writing; the pieces of a long line are one line.

use std::io::{self, Write};

use crate::log_file::Line;

/// The longest line that waits for its end; a longer one is broken there.
const LINE_MAX: usize = 1 << 20;

/// What is shown of every log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// Lines that were written before are passed over.
    pub since: Option<jiff::Timestamp>,
    /// The time before each line, as the log has it.
    pub timestamps: bool,
}

/// Prints the lines of one container.
#[derive(Debug)]
pub struct Printer {
    shown: Shown,
    /// `[pod/NAME/CONTAINER] `, or nothing.
    prefix: String,
    place: Place,
    /// Where several containers write: what waits for its line's end, so that no other's line comes in between.
    held: Option<Vec<u8>>,
}

/// Where in a line the next piece comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Begin,
    /// Within one that is printed.
    Printed,
    /// Within one that is passed over.
    Passed,
}

impl Printer {
    /// `whole`: only whole lines are printed.
    pub fn new(shown: Shown, prefix: String, whole: bool) -> Printer {
        Printer { shown, prefix, place: Place::Begin, held: whole.then(Vec::new) }
    }

    pub fn print(&mut self, line: Line<'_>, out: &mut impl Write) -> io::Result<()> {
        let Some(mut held) = self.held.take() else { return self.piece(line, out) };
        self.piece(line, &mut held)?;
        if self.place == Place::Begin {
            out.write_all(&held)?;
            held = Vec::new();
        }
        let long = held.len() > LINE_MAX;
        self.held = Some(held);
        if long { self.cut(out) } else { Ok(()) }
    }

    fn piece(&mut self, line: Line<'_>, out: &mut impl Write) -> io::Result<()> {
        if self.place == Place::Begin {
            self.place = if self.is_late_enough(line) { Place::Printed } else { Place::Passed };
            if self.place == Place::Printed {
                out.write_all(self.prefix.as_bytes())?;
                if let (true, Some(time)) = (self.shown.timestamps, line.time) {
                    out.write_all(time)?;
                    out.write_all(b" ")?;
                }
            }
        }
        if self.place == Place::Printed {
            out.write_all(line.content)?;
        }
        if line.content.ends_with(b"\n") {
            self.place = Place::Begin;
        }
        Ok(())
    }

    /// The log goes on in another file of another run: a line that had no end is one.
    pub fn cut(&mut self, out: &mut impl Write) -> io::Result<()> {
        let within = std::mem::replace(&mut self.place, Place::Begin);
        if let Some(held) = &mut self.held {
            out.write_all(&std::mem::take(held))?;
        }
        if within == Place::Printed { out.write_all(b"\n") } else { Ok(()) }
    }

    /// A line without a time belongs to what is shown: nobody knows better.
    fn is_late_enough(&self, line: Line<'_>) -> bool {
        let Some(since) = self.shown.since else { return true };
        let time = line.time.and_then(|time| std::str::from_utf8(time).ok()?.parse::<jiff::Timestamp>().ok());
        time.is_none_or(|time| time >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(shown: Shown, lines: &[(Option<&str>, &str)]) -> String {
        let (mut printer, mut out) = (Printer::new(shown, "[p] ".into(), false), Vec::new());
        for (time, content) in lines {
            let line = Line { time: time.map(str::as_bytes), content: content.as_bytes() };
            printer.print(line, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    const EARLY: Option<&str> = Some("2026-01-01T00:00:00.999999999Z");
    const LATE: Option<&str> = Some("2026-01-01T00:00:01.000000000Z");

    #[test]
    fn time_and_prefix_stand_once_before_a_line_of_pieces() {
        let shown = Shown { since: None, timestamps: true };
        let text = printed(shown, &[(EARLY, "a"), (LATE, "b\n"), (LATE, "c\n"), (None, "no log line\n")]);
        let (early, late) = (EARLY.unwrap(), LATE.unwrap());
        assert_eq!(text, format!("[p] {early} ab\n[p] {late} c\n[p] no log line\n"));
    }

    #[test]
    fn no_containers_line_comes_into_anothers() {
        let mut printers = ["a", "b"].map(|name| Printer::new(Shown::default(), format!("{name} "), true));
        let mut out = Vec::new();
        for (who, content) in [(0, "one"), (1, "two\n"), (0, " line\n"), (0, "torn"), (1, "three\n")] {
            printers[who].print(Line { time: None, content: content.as_bytes() }, &mut out).unwrap();
        }
        printers[0].cut(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "b two\na one line\nb three\na torn\n");
        let mut out = Vec::new();
        for _ in 0..3 {
            printers[0].print(Line { time: None, content: &[b'x'; LINE_MAX / 2] }, &mut out).unwrap();
        }
        assert!(out.len() > LINE_MAX && out.ends_with(b"x\n"), "what waits is bounded");
    }

    #[test]
    fn what_began_before_is_passed_over_to_its_end() {
        let since = Some("2026-01-01T00:00:01Z".parse().unwrap());
        let lines = [(EARLY, "a\n"), (EARLY, "b"), (LATE, "c\n"), (LATE, "d\n"), (None, "e\n")];
        assert_eq!(printed(Shown { since, timestamps: false }, &lines), "[p] d\n[p] e\n");
    }
}
