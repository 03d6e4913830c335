//! The protocol between a node and its control endpoint: `daemonlet/v1/fleet.proto` and the code made of it. Nothing else.
//!
//! Spoken by the agent's `uplink` and the endpoint's `fleet` alone: to everybody else its types are unknown.

mod codec;

pub use codec::Codec;

/// Version 1.
pub mod v1 {
    tonic::include_proto!("daemonlet.v1");
}

/// The version that this code speaks, said in the first message both ways.
pub const VERSION: u32 = 1;

/// The largest message, in bytes, either way. The largest object of the endpoint's store has 1.5 MiB.
pub const MESSAGE_MAX: usize = 4 << 20;

/// A piece of a desired set is sent once it has so many bytes of objects: with one more object it is still below [`MESSAGE_MAX`].
pub const PIECE: usize = 1 << 20;

/// Bytes of all objects of one desired set. A node runs 110 pods; each may use a few of the largest ConfigMaps.
pub const SET_MAX: usize = 128 << 20;

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::v1::{Desired, Down, Generation, Hello, Object, Up, down, up};

    fn hello() -> Up {
        Up {
            what: Some(up::What::Hello(Hello {
                version: 1,
                program: "0.1.0".into(),
                name: "n1".into(),
                boot_id: "b".into(),
                health_address: String::new(),
                node: "{}".into(),
                accepted: Some(Generation { epoch: 7, number: 300 }),
                control_host: String::new(),
            })),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The bytes of version 1, for ever: who changes a number breaks nodes that are not upgraded yet.
    #[test]
    fn bytes_of_this_version_stay_what_they_are() {
        assert_eq!(hex(&hello().encode_to_vec()), "0a1b08011205302e312e301a026e3122016232027b7d3a05080710ac02");
        let object = Object { json: "{}".into(), kind: "Pod".into(), ..Object::default() };
        let generation = Some(Generation { epoch: 1, number: 2 });
        let desired = Desired { generation, last: true, objects: vec![object], ..Desired::default() };
        let down = Down { what: Some(down::What::Desired(desired)) };
        assert_eq!(hex(&down.encode_to_vec()), "12130a0408011002180122090a027b7d1203506f64");
    }

    #[test]
    fn what_a_newer_side_says_is_passed_over() {
        // Field 15 of Hello, and a message with number 99, which nobody knows.
        let mut bytes = hello().encode_to_vec();
        let newer = [0x7a, 0x01, b'x'];
        bytes.extend(newer);
        bytes[1] += u8::try_from(newer.len()).unwrap();
        assert_eq!(Up::decode(&bytes[..]).unwrap(), hello());
        let unknown = [0x9a, 0x06, 0x01, 0x00];
        assert_eq!(Down::decode(&unknown[..]).unwrap(), Down { what: None });
    }
}
