//! Protobuf as it lies on the wire: numbered fields, one after the other. Knows nothing of messages.

/// Why bytes are no protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it ends in the middle of a field")]
    Ends,
    #[error("a number is longer than 64 bits")]
    TooLong,
    #[error("a field has wire type {0}, which does not exist or is no longer used")]
    WireType(u8),
}

/// A field's value as its wire type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    Varint(u64),
    /// Eight or four bytes that no field of Kubernetes' kinds is made of.
    Fixed,
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Some(bytes),
            Field::Varint(_) | Field::Fixed => None,
        }
    }
}

/// The fields of a message in their order; ends after the first error.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut rest = self.0;
        let field = field(&mut rest);
        self.0 = if field.is_ok() { rest } else { &[] };
        Some(field)
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Field<'a>), Malformed> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Malformed::TooLong)?;
    let value = match tag & 7 {
        0 => Field::Varint(varint(rest)?),
        1 => take(rest, 8).map(|_| Field::Fixed)?,
        2 => {
            let length = varint(rest)?;
            Field::Bytes(take(rest, usize::try_from(length).map_err(|_| Malformed::Ends)?)?)
        }
        5 => take(rest, 4).map(|_| Field::Fixed)?,
        other => return Err(Malformed::WireType(u8::try_from(other).unwrap_or(u8::MAX))),
    };
    Ok((number, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, after) = rest.split_at_checked(length).ok_or(Malformed::Ends)?;
    *rest = after;
    Ok(taken)
}

/// A number of seven bits a byte, the lowest first.
pub fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0_u64;
    for place in 0..10 {
        let (byte, after) = rest.split_first().ok_or(Malformed::Ends)?;
        *rest = after;
        // The tenth byte holds the 64th bit alone.
        if place == 9 && *byte > 1 {
            return Err(Malformed::TooLong);
        }
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed::TooLong)
}
