//! Between the protocol's messages and the node's own values. Pure.

use std::collections::BTreeMap;

use proto::v1;

use crate::events::{Seen, Severity};
use crate::sources::remote::{Generation, Object, Set, Surroundings};

pub fn generation(it: &v1::Generation) -> Generation {
    Generation { epoch: it.epoch, number: it.number }
}

pub fn to_generation(it: Generation) -> v1::Generation {
    v1::Generation { epoch: it.epoch, number: it.number }
}

/// What an object costs beside its bytes: sets of empty ones are bounded too.
const OBJECT: usize = 64;

/// Why the pieces of a set make none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    #[error("a piece of a desired set came out of order")]
    OutOfOrder,
    #[error("a piece of a desired set has no generation")]
    Nameless,
    #[error("a desired set has more than {} bytes", proto::SET_MAX)]
    TooLarge,
}

/// A set in the making. Pieces come in order; one that begins anew replaces what has come so far.
#[derive(Debug, Default)]
pub struct Assembly {
    begun: Option<Begun>,
    /// The last one that was given up; what is left of it is passed over, so that it is refused once and for its own reason.
    given_up: Option<Generation>,
}

#[derive(Debug)]
struct Begun {
    generation: Generation,
    pieces: u32,
    bytes: usize,
    objects: Vec<Object>,
}

impl Assembly {
    /// The whole set, once its last piece is here. After an error the next piece has to begin a set.
    pub fn take(&mut self, piece: v1::Desired) -> Result<Option<Set>, PieceError> {
        let generation = generation(piece.generation.as_ref().ok_or(PieceError::Nameless)?);
        let begun = self.begun.take();
        if piece.piece > 0 && self.given_up == Some(generation) {
            return Ok(None);
        }
        self.given_up = None;
        let mut begun = match piece.piece {
            0 => Begun { generation, pieces: 0, bytes: 0, objects: Vec::new() },
            number => begun
                .filter(|begun| begun.generation == generation && begun.pieces == number)
                .ok_or(PieceError::OutOfOrder)?,
        };
        for v1::Object { json, kind, namespace, name, uid } in piece.objects {
            let texts = [&kind, &namespace, &name, &uid].map(String::len);
            begun.bytes = texts.into_iter().fold(begun.bytes, usize::saturating_add);
            begun.bytes = begun.bytes.saturating_add(json.len()).saturating_add(OBJECT);
            begun.objects.push(Object { kind, namespace, name, uid, json });
        }
        if begun.bytes > proto::SET_MAX {
            self.given_up = Some(generation);
            return Err(PieceError::TooLarge);
        }
        if piece.last {
            let surroundings = piece.surroundings.map(surroundings).unwrap_or_default();
            return Ok(Some(Set { generation, objects: begun.objects, surroundings }));
        }
        begun.pieces = begun.pieces.saturating_add(1);
        self.begun = Some(begun);
        Ok(None)
    }
}

fn surroundings(it: v1::Surroundings) -> Surroundings {
    let v1::Surroundings { labels, taints, api_host, api_port } = it;
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    Surroundings { labels, taints, api_host, api_port: u16::try_from(api_port).unwrap_or(0) }
}

pub fn event(seen: &Seen) -> v1::Event {
    let Seen { severity, reason, about, message, first, last, count } = seen.clone();
    v1::Event {
        kind: about.kind,
        namespace: about.namespace,
        name: about.name,
        uid: about.uid,
        container: about.container.unwrap_or_default(),
        warning: severity == Severity::Warning,
        reason,
        message,
        first: first.as_millisecond(),
        last: last.as_millisecond(),
        count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(number: u64, piece: u32, last: bool, name: &str) -> v1::Desired {
        let object = v1::Object { name: name.into(), json: "{}".into(), ..v1::Object::default() };
        let generation = Some(v1::Generation { epoch: 1, number });
        v1::Desired { generation, piece, last, objects: vec![object], surroundings: None }
    }

    #[test]
    fn pieces_in_order_make_a_set_and_a_newer_beginning_replaces_an_older_one() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(piece(1, 0, false, "a")), Ok(None));
        assert_eq!(assembly.take(piece(2, 0, false, "b")), Ok(None));
        let set = assembly.take(piece(2, 1, true, "c")).unwrap().unwrap();
        assert_eq!(set.generation, Generation { epoch: 1, number: 2 });
        assert_eq!(set.objects.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert!(assembly.take(piece(3, 0, true, "d")).unwrap().is_some());
    }

    #[test]
    fn everything_about_an_object_counts() {
        let mut assembly = Assembly::default();
        let name = "n".repeat(1 << 20);
        let pieces = u32::try_from(proto::SET_MAX >> 20).unwrap();
        for number in 0..pieces - 1 {
            assert_eq!(assembly.take(piece(1, number, false, &name)), Ok(None), "{number}");
        }
        assert_eq!(assembly.take(piece(1, pieces - 1, false, &name)), Err(PieceError::TooLarge));
        assert_eq!(assembly.take(piece(1, pieces, true, "a")), Ok(None), "it is refused once");
        assert!(assembly.take(piece(1, 0, true, "a")).unwrap().is_some());
    }

    #[test]
    fn pieces_that_do_not_fit_make_nothing() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(piece(1, 1, true, "a")), Err(PieceError::OutOfOrder));
        assert_eq!(assembly.take(piece(1, 0, false, "a")), Ok(None));
        assert_eq!(assembly.take(piece(2, 1, true, "a")), Err(PieceError::OutOfOrder));
        assert_eq!(assembly.take(piece(1, 1, true, "a")), Err(PieceError::OutOfOrder), "it has to begin anew");
        let nameless = v1::Desired { generation: None, ..piece(1, 0, true, "a") };
        assert_eq!(assembly.take(nameless), Err(PieceError::Nameless));
    }
}
