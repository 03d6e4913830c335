//! When a certificate ends (RFC 5280, section 4.1): the one thing that is read out of it here, for `doctor`. Whether it is to be
//! trusted rustls decides; a library for all of X.509 would be many times this file. Pure; every length is checked.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
/// `[0]`: the version, which may be left out.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter` of a certificate in DER. None for what is none.
pub fn ends(der: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = expect(SEQUENCE, der)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm of the signature, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (validity, _) = expect(SEQUENCE, rest)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    match tag {
        // Two digits of the year: 50 and later is the twentieth century.
        UTC_TIME => {
            let century = if text.get(..2)?.parse::<u8>().ok()? >= 50 { "19" } else { "20" };
            time(&format!("{century}{text}"))
        }
        GENERALIZED_TIME => time(text),
        _ => None,
    }
}

/// `YYYYMMDDHHMMSS`, in UTC.
fn time(digits: &str) -> Option<Timestamp> {
    let at = |from: usize, to: usize| digits.get(from..to).and_then(|part| part.parse::<i8>().ok());
    let year = digits.get(..4)?.parse::<i16>().ok()?;
    let time = DateTime::new(year, at(4, 6)?, at(6, 8)?, at(8, 10)?, at(10, 12)?, at(12, 14)?, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, first, mut rest) = (*bytes.first()?, *bytes.get(1)?, bytes.get(2..)?);
    let length = match first {
        0..=0x7f => usize::from(first),
        // Four bytes of length are more than any certificate has.
        0x81..=0x84 => {
            let (length, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use ::tests::authority::Authority;
    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    fn der(authority: &Authority) -> Vec<u8> {
        let pem = authority.client("node").cert;
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        assert_eq!(ends(&der(&Authority::ending(2021, 3, 4))).unwrap().to_string(), "2021-03-04T00:00:00Z");
        assert_eq!(ends(&der(&Authority::ending(2071, 12, 31))).unwrap().to_string(), "2071-12-31T00:00:00Z");
    }

    #[test]
    fn what_is_cut_short_is_no_certificate() {
        let whole = der(&Authority::new());
        assert!(ends(&whole).is_some());
        assert!((0..whole.len()).all(|end| ends(&whole[..end]).is_none()));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(at in 0_usize..400, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut whole = der(&Authority::new());
            for (place, byte) in whole.iter_mut().skip(at).zip(bytes) {
                *place = byte;
            }
            let _any = ends(&whole);
        }
    }
}
