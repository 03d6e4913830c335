//! An address range in CIDR notation, as `--pod-cidr` takes it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network that pods get addresses of: no host bits, and room for at least a gateway and one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("{0:?} is no network such as 10.88.0.0/16 or fd00:88::/64")]
    Malformed(String),
    #[error("{given} has bits behind its prefix; the network is {network}")]
    HostBits { given: String, network: String },
    #[error("{0} has no room for a gateway and a pod")]
    TooSmall(String),
}

impl Cidr {
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let (bits, network) = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0);
                (32, IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask)))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix.into())).unwrap_or(0);
                (128, IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask)))
            }
        };
        if prefix > bits {
            return Err(malformed());
        }
        if network != address {
            return Err(CidrError::HostBits { given: text.to_owned(), network: format!("{network}/{prefix}") });
        }
        if prefix > bits - 2 || prefix == 0 {
            return Err(CidrError::TooSmall(text.to_owned()));
        }
        Ok(Cidr { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_anything_else_is_refused_with_its_reason() {
        for text in ["10.88.0.0/16", "198.18.0.0/15", "fd00:88::/64", "10.0.0.0/30"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for text in ["", "10.88.0.0", "10.88.0.0/33", "x/8", "10.88.0.0/-1", "fd00::/129"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Malformed(text.into())));
        }
        let error = "10.88.0.1/16".parse::<Cidr>().unwrap_err().to_string();
        assert_eq!(error, "10.88.0.1/16 has bits behind its prefix; the network is 10.88.0.0/16");
        for text in ["10.0.0.0/31", "10.0.0.0/32", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::TooSmall(text.into())));
        }
    }
}
