//! Files of variables that containers write for each other (v1 FileKeySelector, KEP-3721): `NAME='value'` a line, the value in single
//! quotes and taken as it is, over several lines too.
//!
//! Pure; used by the runtime when it creates a container. What stands in the files is a container's, and nothing is executed.

/// Why a file cannot be read to the variable that is looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {why}")]
pub struct Malformed {
    /// From 1.
    pub line: usize,
    pub why: &'static str,
}

/// The value of the first assignment to `key`; None: there is none. What follows it is not looked at.
pub fn find<'t>(text: &'t str, key: &str) -> Result<Option<&'t str>, Malformed> {
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let (current, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let assignment = current.trim_start_matches([' ', '\t']);
        let malformed = |why| Malformed { line, why };
        if assignment.trim_end_matches('\r').is_empty() || assignment.starts_with('#') {
            (rest, line) = (after, line + 1);
            continue;
        }
        let Some((name, value)) = assignment.split_once('=') else { return Err(malformed("has no `=`")) };
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return Err(malformed("has no name right before its `=`"));
        }
        let (value, ends) = match value.chars().next() {
            Some('\'') => {
                // The quotes may end in a later line.
                let begins = text.len() - rest.len() + current.len() - value.len() + 1;
                let Some(length) = text[begins..].find('\'') else {
                    return Err(malformed("has a quote that never ends"));
                };
                (&text[begins..begins + length], begins + length + 1)
            }
            None | Some(' ' | '\t' | '\r' | '#') => ("", text.len() - rest.len() + current.len() - value.len()),
            Some(_) => return Err(malformed("has a value that is not in single quotes")),
        };
        let (trailing, after) = text[ends..].split_once('\n').unwrap_or((&text[ends..], ""));
        let quoted = text[..ends].ends_with('\'');
        let comment = trailing.trim_start_matches([' ', '\t']);
        if quoted && !comment.trim_end_matches('\r').is_empty() && !comment.starts_with('#') {
            return Err(malformed("goes on after its closing quote"));
        }
        if name == key {
            return Ok(Some(value));
        }
        line += 1 + value.matches('\n').count();
        rest = after;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# made by init\n\n  A='one # two'\nB='first\nsecond' # a comment\nC= 'not this'\nD=\nE=''\r\nA='later'\nF='$A\\n'";

    #[test]
    fn values_are_taken_as_they_stand_between_the_quotes() {
        let values = ["A", "B", "C", "D", "E", "F"].map(|key| find(FILE, key).unwrap());
        assert_eq!(values, [Some("one # two"), Some("first\nsecond"), Some(""), Some(""), Some(""), Some("$A\\n")]);
        assert_eq!(find(FILE, "G"), Ok(None));
        assert_eq!(find("", "A"), Ok(None));
    }

    #[test]
    fn what_is_no_assignment_is_said_with_its_line() {
        for (text, line) in [
            ("A", 1),
            ("\nA='1'\nB =  'x'", 3),
            ("='x'", 1),
            ("A='1\n2'\nB=x", 3),
            ("B='x", 1),
            ("B='x'y", 1),
            ("export B=\"x\"", 1),
        ] {
            assert_eq!(find(text, "Z").map_err(|malformed| malformed.line), Err(line), "{text:?}");
        }
        assert_eq!(find("A='1'\nnonsense", "A"), Ok(Some("1")), "what follows is not looked at");
    }
}
