//! Which EndpointSlices a headless Service should have, given its pods and the slices that there are. Pure.
//!
//! Endpoints stay in the slice that they are in: a pod that comes or goes changes one slice.

use std::collections::{BTreeMap, BTreeSet};

/// Endpoints of one slice: Kubernetes' `maxEndpointsPerSlice`.
pub const ENDPOINTS_MAX: usize = 100;

/// A pod that a Service selects and that has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: String,
    pub pod: String,
    pub uid: String,
    pub node: String,
    /// Its name below the Service's, if it has one.
    pub hostname: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// A port of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub app_protocol: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// Slices are of one family and one list of ports: pods may have different numbers under one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    pub family: Family,
    pub ports: Vec<Port>,
}

/// A slice, as it is or should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub name: String,
    pub shape: Shape,
    /// In the order of the pods' names.
    pub endpoints: Vec<Endpoint>,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create(Slice),
    Replace(Slice),
    Delete { name: String },
}

/// `endpoints`: all of the Service, each with its shape. `fresh`: the nth name for a new slice of a shape.
pub fn decide(endpoints: &[(Shape, Endpoint)], slices: &[Slice], fresh: impl Fn(&Shape, usize) -> String) -> Vec<Step> {
    let mut by_shape: BTreeMap<&Shape, BTreeMap<&str, &Endpoint>> = BTreeMap::new();
    for (shape, endpoint) in endpoints {
        by_shape.entry(shape).or_default().insert(&endpoint.pod, endpoint);
    }
    let taken: BTreeSet<&str> = slices.iter().map(|slice| slice.name.as_str()).collect();
    let mut steps = Vec::new();
    let mut kept: Vec<(&Slice, Slice)> = Vec::new();
    for slice in slices {
        // Who is here stays here, with what is known of it now.
        let waiting = by_shape.get_mut(&slice.shape);
        let here = waiting.map(|w| slice.endpoints.iter().filter_map(|e| w.remove(e.pod.as_str())).cloned().collect());
        kept.push((slice, Slice { endpoints: here.unwrap_or_default(), ..slice.clone() }));
    }
    let mut made = Vec::new();
    for (shape, waiting) in by_shape {
        let mut waiting = waiting.into_values().cloned();
        for (_, slice) in kept.iter_mut().filter(|(_, slice)| slice.shape == *shape) {
            let room = ENDPOINTS_MAX.saturating_sub(slice.endpoints.len());
            slice.endpoints.extend(waiting.by_ref().take(room));
        }
        let mut names = (0..).map(|nth| fresh(shape, nth)).filter(|name| !taken.contains(name.as_str()));
        loop {
            let endpoints: Vec<Endpoint> = waiting.by_ref().take(ENDPOINTS_MAX).collect();
            if endpoints.is_empty() {
                break;
            }
            let name = names.next().expect("there are more numbers than slices");
            made.push(Slice { name, shape: shape.clone(), endpoints });
        }
    }
    for (was, mut slice) in kept {
        slice.endpoints.sort_by(|a, b| a.pod.cmp(&b.pod));
        if slice.endpoints.is_empty() {
            steps.push(Step::Delete { name: slice.name });
        } else if slice != *was {
            steps.push(Step::Replace(slice));
        }
    }
    steps.extend(made.into_iter().map(Step::Create));
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(port: u16) -> Shape {
        let port = Port { name: "web".into(), protocol: "TCP".into(), port, app_protocol: None };
        Shape { family: Family::V4, ports: vec![port] }
    }

    fn endpoint(n: usize, ready: bool) -> Endpoint {
        Endpoint {
            address: format!("10.0.0.{n}"),
            pod: format!("p{n:03}"),
            uid: format!("u{n}"),
            node: "node".into(),
            hostname: None,
            ready,
            serving: ready,
            terminating: false,
        }
    }

    fn fresh(shape: &Shape, nth: usize) -> String {
        format!("s-{}-{nth}", shape.ports[0].port)
    }

    fn carry_out(slices: &mut Vec<Slice>, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Create(slice) => {
                    assert!(slices.iter().all(|s| s.name != slice.name), "{} exists", slice.name);
                    slices.push(slice);
                }
                Step::Replace(slice) => {
                    let known = slices.iter_mut().find(|s| s.name == slice.name).unwrap();
                    *known = slice;
                }
                Step::Delete { name } => slices.retain(|s| s.name != name),
            }
        }
    }

    #[test]
    fn one_pod_that_comes_changes_one_slice() {
        let all: Vec<_> = (0..250).map(|n| (shape(80), endpoint(n, true))).collect();
        let mut slices = Vec::new();
        carry_out(&mut slices, decide(&all, &[], fresh));
        assert_eq!(slices.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
        let mut more = all.clone();
        more.remove(7);
        assert_eq!(decide(&more, &slices, fresh).len(), 1);
        more.push((shape(80), endpoint(300, true)));
        let steps = decide(&more, &slices, fresh);
        assert!(matches!(&steps[..], [Step::Replace(slice)] if slice.endpoints.len() == 100), "{steps:#?}");
        assert!(decide(&all, &slices, fresh).is_empty());
    }

    #[test]
    fn pods_with_other_numbers_of_a_port_have_another_slice() {
        let steps = decide(&[(shape(80), endpoint(1, true)), (shape(81), endpoint(2, true))], &[], fresh);
        assert_eq!(steps.len(), 2);
    }

    proptest! {
        #[test]
        fn slices_hold_every_endpoint_once_and_come_to_rest(
            rounds in prop::collection::vec(prop::collection::btree_map(0_usize..300, (any::<bool>(), 80_u16..82), 0..250), 1..6),
        ) {
            let mut slices: Vec<Slice> = Vec::new();
            for round in rounds {
                let all: Vec<_> = round.iter().map(|(n, (ready, port))| (shape(*port), endpoint(*n, *ready))).collect();
                let steps = decide(&all, &slices, fresh);
                carry_out(&mut slices, steps);
                let mut held: Vec<_> = slices.iter().flat_map(|s| s.endpoints.iter().map(|e| (s.shape.clone(), e.clone()))).collect();
                held.sort_by(|a, b| a.1.cmp(&b.1));
                let mut wanted = all.clone();
                wanted.sort_by(|a, b| a.1.cmp(&b.1));
                prop_assert_eq!(held, wanted);
                prop_assert!(slices.iter().all(|s| !s.endpoints.is_empty() && s.endpoints.len() <= ENDPOINTS_MAX));
                prop_assert!(decide(&all, &slices, fresh).is_empty());
            }
        }
    }
}
