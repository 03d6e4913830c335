//! Tables as kubectl prints them: capital heads, columns padded to the widest cell and three blanks.

use std::io::{self, Write};

const GAP: usize = 3;

/// Prints rows below heads; more rows may follow later in the same widths, which only grow.
#[derive(Debug)]
pub struct Table {
    heads: Vec<&'static str>,
    widths: Vec<usize>,
    printed_heads: bool,
}

impl Table {
    pub fn new(heads: &[&'static str]) -> Table {
        Table { heads: heads.to_vec(), widths: heads.iter().map(|head| head.len()).collect(), printed_heads: false }
    }

    /// The heads first where they have not been printed.
    pub fn print(&mut self, rows: &[Vec<String>], out: &mut impl Write) -> io::Result<()> {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !self.printed_heads {
            self.printed_heads = true;
            let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
            self.line(&heads, out)?;
        }
        for row in rows {
            self.line(row, out)?;
        }
        Ok(())
    }

    fn line(&self, cells: &[String], out: &mut impl Write) -> io::Result<()> {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            // A cell is one line, whatever a message holds; control characters must not reach a terminal.
            let cell: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            line.push_str(&cell);
            if at + 1 < cells.len() {
                let width = self.widths.get(at).copied().unwrap_or(0);
                line.extend(std::iter::repeat_n(' ', (width + GAP).saturating_sub(cell.chars().count())));
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}
