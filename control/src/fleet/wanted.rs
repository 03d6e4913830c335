//! A node's whole desired set, read from the store at the moment it is sent: its pods, and the ConfigMaps and Secrets that they use.
//!
//! Driven by the session, whenever its node's number moved. Objects travel as their JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytes::Bytes;
use proto::v1;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::index::{Index, kind};
use super::pods::{self, Use};
use super::turns::turn;
use crate::api::error::ApiError;
use crate::api::objects::Objects;

/// A desired set that is not sent yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// As of this revision of the store, or newer.
    pub number: u64,
    /// Of the Node object.
    pub node_uid: String,
    pub objects: Vec<v1::Object>,
    pub surroundings: v1::Surroundings,
}

/// Where pods find the API.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Api {
    /// Whoever runs the endpoint says so, for all nodes.
    pub advertised: Option<Host>,
    /// Of this machine, for others; also where it listens, if that is one address.
    pub own: Host,
    /// It listens on every address of the machine.
    pub is_everywhere: bool,
    /// Further names and addresses of the endpoint, which are in its certificate.
    pub names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    pub host: String,
    pub port: u16,
}

/// By which way a node has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Way {
    /// The host that the node has dialed; empty: it does not say.
    pub dialed: String,
    /// Ours, of its connection.
    pub local: Option<IpAddr>,
}

impl Api {
    /// For the pods of a node: a way that is known to be good for the node, and that the certificate covers. Where it listens on its loopback alone,
    /// only pods with the node's network find it.
    pub fn on(&self, way: &Way) -> Host {
        let at = |host: String| Host { host, port: self.own.port };
        if let Some(advertised) = &self.advertised {
            return advertised.clone();
        }
        if self.names.iter().any(|name| name.eq_ignore_ascii_case(&way.dialed)) {
            return at(way.dialed.clone());
        }
        // The loopback of a node that is this machine is not its pods', and what is good on one link only is not in the certificate.
        let is_of_link = |local: &IpAddr| matches!(local, IpAddr::V6(local) if local.is_unicast_link_local());
        let local = way.local.map(|local| local.to_canonical());
        let local = local.filter(|local| !local.is_loopback() && !is_of_link(local));
        match local.filter(|_| self.is_everywhere) {
            Some(local) => at(local.to_string()),
            None => self.own.clone(),
        }
    }
}

impl Wanted {
    /// Of all that it says; its number aside.
    pub fn digest(&self) -> [u8; 32] {
        let mut sum = Sha256::new();
        let mut feed = |bytes: &[u8]| {
            sum.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            sum.update(bytes);
        };
        for object in &self.objects {
            feed(object.kind.as_bytes());
            feed(object.uid.as_bytes());
            feed(&object.json);
        }
        let v1::Surroundings { labels, taints, api_host, api_port } = &self.surroundings;
        for (key, value) in labels.iter().collect::<BTreeMap<_, _>>() {
            feed(key.as_bytes());
            feed(value.as_bytes());
        }
        feed(b"taints");
        taints.iter().for_each(|taint| feed(taint.as_bytes()));
        feed(api_host.as_bytes());
        feed(&api_port.to_le_bytes());
        sum.finalize().into()
    }

    /// As it travels: every message is below the largest one.
    pub fn pieces(self, epoch: u64) -> Vec<v1::Desired> {
        let generation = Some(v1::Generation { epoch, number: self.number });
        let mut pieces = vec![v1::Desired { generation, ..v1::Desired::default() }];
        let mut bytes = 0_usize;
        for object in self.objects {
            if bytes >= proto::PIECE {
                let piece = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
                pieces.push(v1::Desired { generation, piece, ..v1::Desired::default() });
                bytes = 0;
            }
            bytes = bytes.saturating_add(object.json.len());
            if let Some(last) = pieces.last_mut() {
                last.objects.push(object);
            }
        }
        if let Some(last) = pieces.last_mut() {
            (last.last, last.surroundings) = (true, Some(self.surroundings));
        }
        pieces
    }
}

/// What `node` is to have now. `api`: where its pods find it. None: it has no Node object, and nothing can be said.
pub async fn read(objects: &Objects, index: &Index, api: &Host, node: &str) -> Result<Option<Wanted>, ApiError> {
    let _turn = turn().await;
    // Before anything is read: what is read may be newer, and is then sent once more with its own number.
    let number = index.revision();
    let mut found = Vec::new();
    let mut uses: BTreeSet<(String, Use)> = BTreeSet::new();
    for known in index.pods_of(node) {
        let (namespace, name) = &known.key;
        // A mirror pod is the node's own already.
        if known.mirrors.is_some() {
            continue;
        }
        let Some(pod) = get(objects, "Pod", namespace, name).await? else { continue };
        if pod["spec"]["nodeName"].as_str() != Some(node) || pods::mirrors(&pod).is_some() {
            continue;
        }
        uses.extend(pods::uses(&pod).into_iter().map(|used| (namespace.clone(), used)));
        found.push(object("Pod", &pod));
    }
    for (namespace, Use { kind, name }) in uses {
        // What is not there yet comes when it is.
        if let Some(content) = get(objects, kind, &namespace, &name).await? {
            found.push(object(kind, &content));
        }
    }
    let Some(ruling) = get(objects, "Node", "", node).await? else { return Ok(None) };
    let labels = ruling["metadata"]["labels"].as_object();
    let label = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let surroundings = v1::Surroundings {
        labels: labels.into_iter().flatten().filter_map(label).collect(),
        taints: pods::taints(&ruling),
        api_host: api.host.clone(),
        api_port: u32::from(api.port),
    };
    let node_uid = ruling["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Ok(Some(Wanted { number, node_uid, objects: found, surroundings }))
}

async fn get(objects: &Objects, of: &'static str, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
    match objects.get(kind(of), namespace, name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn object(kind: &str, object: &Value) -> v1::Object {
    let metadata = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    v1::Object {
        json: Bytes::from(pods::outgoing(object).to_string()),
        kind: kind.to_owned(),
        namespace: metadata("namespace"),
        name: metadata("name"),
        uid: metadata("uid"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(sizes: &[usize]) -> Wanted {
        let object = |size: &usize| v1::Object { json: vec![b'x'; *size].into(), ..v1::Object::default() };
        let objects = sizes.iter().map(object).collect();
        let node_uid = String::new();
        Wanted {
            number: 7,
            node_uid,
            objects,
            surroundings: v1::Surroundings { api_port: 1, ..v1::Surroundings::default() },
        }
    }

    #[test]
    fn pods_find_the_api_where_their_node_has_reached_the_endpoint() {
        let host = |host: &str, port| Host { host: host.into(), port };
        let everywhere = Api {
            advertised: None,
            own: host("172.17.0.1", 6443),
            is_everywhere: true,
            names: vec!["control.example".into(), "203.0.113.5".into()],
        };
        let on =
            |api: &Api, dialed: &str, local: &str| api.on(&Way { dialed: dialed.into(), local: local.parse().ok() });
        // Of several addresses the one that the node has reached; what the certificate may not cover does not count.
        assert_eq!(on(&everywhere, "192.0.2.7", "::ffff:192.0.2.7"), host("192.0.2.7", 6443));
        assert_eq!(on(&everywhere, "some-name", "192.0.2.7"), host("192.0.2.7", 6443));
        assert_eq!(on(&everywhere, "203.0.113.5", "10.0.0.5"), host("203.0.113.5", 6443), "an address before NAT");
        assert_eq!(on(&everywhere, "Control.example", "10.0.0.5"), host("Control.example", 6443));
        assert_eq!(on(&everywhere, "127.0.0.1", "127.0.0.1"), host("172.17.0.1", 6443), "a node on this machine");
        assert_eq!(on(&everywhere, "", "fe80::1"), host("172.17.0.1", 6443));
        assert_eq!(on(&everywhere, "", ""), host("172.17.0.1", 6443));
        let one = Api { own: host("127.0.0.1", 7443), is_everywhere: false, ..everywhere.clone() };
        assert_eq!(on(&one, "192.0.2.7", "192.0.2.7"), host("127.0.0.1", 7443), "it listens nowhere else");
        let advertised = Api { advertised: Some(host("lb.example", 443)), ..everywhere };
        assert_eq!(on(&advertised, "203.0.113.5", "10.0.0.5"), host("lb.example", 443));
    }

    #[test]
    fn a_large_set_comes_in_pieces_and_the_last_one_says_so() {
        let largest = 1_536 << 10;
        let pieces = wanted(&[10, largest, largest, largest]).pieces(3);
        let sizes: Vec<usize> = pieces.iter().map(|it| it.objects.iter().map(|o| o.json.len()).sum()).collect();
        assert_eq!(sizes, [10 + largest, largest, largest]);
        assert!(sizes.iter().all(|size| *size < proto::MESSAGE_MAX));
        assert_eq!(
            pieces.iter().map(|it| (it.piece, it.last)).collect::<Vec<_>>(),
            [(0, false), (1, false), (2, true)]
        );
        assert!(pieces.iter().all(|it| it.generation == Some(v1::Generation { epoch: 3, number: 7 })));
        assert_eq!(pieces[2].surroundings.as_ref().unwrap().api_port, 1);
    }

    #[test]
    fn an_empty_set_is_one_piece_that_says_so() {
        let pieces = wanted(&[]).pieces(1);
        assert_eq!((pieces.len(), pieces[0].last), (1, true));
    }
}
