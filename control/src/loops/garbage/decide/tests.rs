use proptest::prelude::*;

use super::*;

/// Objects as a store keeps them, by uid.
#[derive(Debug, Default)]
struct World {
    things: BTreeMap<String, Thing>,
    /// In the order in which they went.
    gone: Vec<String>,
}

fn thing(uid: &str, owners: &[(&str, bool)]) -> Thing {
    let owner = |(uid, blocks): &(&str, bool)| Owner { uid: (*uid).into(), blocks: *blocks, known: None };
    Thing {
        id: Id { kind: 0, namespace: "n".into(), name: uid.into(), uid: uid.into() },
        owners: owners.iter().map(owner).collect(),
        deleting: false,
        foreground: false,
        orphan: false,
    }
}

impl World {
    fn of(things: Vec<Thing>) -> World {
        let things = things.into_iter().map(|thing| (thing.id.uid.clone(), thing)).collect();
        World { things, gone: Vec::new() }
    }

    fn delete(&mut self, uid: &str, propagation: Propagation) {
        let Some(thing) = self.things.get_mut(uid) else { return };
        thing.deleting = true;
        thing.foreground |= propagation == Propagation::Foreground;
        thing.orphan |= propagation == Propagation::Orphan;
        self.sweep(uid);
    }

    fn sweep(&mut self, uid: &str) {
        if self.things.get(uid).is_some_and(|t| t.deleting && !t.foreground && !t.orphan) {
            self.things.remove(uid);
            self.gone.push(uid.to_owned());
        }
    }

    fn steps(&self) -> Vec<Step> {
        let known = |uid: &str| match self.things.get(uid) {
            None => Ownership::Gone,
            Some(t) if t.deleting && t.foreground => Ownership::Waits,
            Some(_) => Ownership::Lives,
        };
        let mut things: Vec<Thing> = self.things.values().cloned().collect();
        things.iter_mut().flat_map(|t| &mut t.owners).for_each(|o| o.known = Some(known(&o.uid)));
        decide(&things)
    }

    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Delete { id, propagation } => self.delete(&id.uid, *propagation),
            Step::Disown { id, owners } => {
                if let Some(thing) = self.things.get_mut(&id.uid) {
                    thing.owners.retain(|o| !owners.contains(&o.uid));
                }
            }
            Step::Unblock { id } => {
                if let Some(thing) = self.things.get_mut(&id.uid) {
                    thing.owners.iter_mut().for_each(|o| o.blocks = false);
                }
            }
            Step::Finish { id, finalizer } => {
                if let Some(thing) = self.things.get_mut(&id.uid) {
                    match *finalizer {
                        FOREGROUND => thing.foreground = false,
                        _ => thing.orphan = false,
                    }
                }
                self.sweep(&id.uid);
            }
        }
    }

    /// Until nothing is left to do.
    fn run(&mut self) {
        for _ in 0..200 {
            let steps = self.steps();
            if steps.is_empty() {
                return;
            }
            steps.iter().for_each(|step| self.carry_out(step));
        }
        panic!("it does not come to rest: {:#?}", self.things);
    }

    fn left(&self) -> Vec<&str> {
        self.things.keys().map(String::as_str).collect()
    }
}

#[test]
fn in_the_background_dependents_follow_their_owner() {
    let mut world = World::of(vec![thing("ds", &[]), thing("pod", &[("ds", true)]), thing("rev", &[("ds", true)])]);
    world.run();
    assert_eq!(world.left(), ["ds", "pod", "rev"]);
    world.delete("ds", Propagation::Background);
    world.run();
    assert_eq!(world.gone, ["ds", "pod", "rev"]);
}

#[test]
fn in_the_foreground_the_owner_goes_after_those_that_block_it() {
    let of = vec![thing("ds", &[]), thing("free", &[("ds", false)]), thing("pod", &[("ds", true)])];
    let mut world = World::of(of);
    world.delete("ds", Propagation::Foreground);
    assert_eq!(world.left().len(), 3);
    world.run();
    let place = |uid: &str| world.gone.iter().position(|g| g == uid);
    assert!(place("pod") < place("ds") && world.things.is_empty());
}

#[test]
fn orphans_stay_without_their_owner() {
    let mut world =
        World::of(vec![thing("ds", &[]), thing("pod", &[("ds", true), ("other", false)]), thing("other", &[])]);
    world.delete("ds", Propagation::Orphan);
    world.run();
    assert_eq!(world.left(), ["other", "pod"]);
    assert_eq!(world.things["pod"].owners, [Owner { uid: "other".into(), blocks: false, known: None }]);
}

#[test]
fn one_living_owner_is_enough() {
    let mut world = World::of(vec![thing("a", &[]), thing("pod", &[("a", true), ("gone", true)])]);
    world.run();
    assert_eq!(world.left(), ["a", "pod"]);
    assert_eq!(world.things["pod"].owners.len(), 1);
}

#[test]
fn an_owner_of_a_kind_that_we_do_not_have_is_left_to_others() {
    assert!(decide(&[thing("pod", &[("deployment", true)])]).is_empty());
}

#[test]
fn a_wrong_reference_to_a_living_owner_costs_only_its_own_object() {
    let of = |name: &str, known: &[Ownership]| {
        let mut thing = thing(name, &vec![("ds", true); known.len()]);
        thing.owners.iter_mut().zip(known).for_each(|(owner, known)| owner.known = Some(*known));
        thing
    };
    let (right, copied) = (of("pod", &[Ownership::Lives]), of("copied", &[Ownership::Gone]));
    let both = of("both", &[Ownership::Lives, Ownership::Gone]);
    let steps = decide(&[right, copied.clone(), both]);
    assert_eq!(steps, [Step::Delete { id: copied.id, propagation: Propagation::Background }]);
}

#[test]
fn two_that_own_each_other_do_not_wait_for_ever() {
    let mut world = World::of(vec![thing("a", &[("b", true)]), thing("b", &[("a", true)])]);
    world.delete("a", Propagation::Foreground);
    world.run();
    assert!(world.things.is_empty(), "{world:#?}");
}

proptest! {
    /// Any graph, any deletions: it comes to rest; what has a living owner stays, what has lost all goes, blocked owners go last.
    #[test]
    fn what_is_nobodys_goes_and_nothing_else(
        edges in prop::collection::vec((0_usize..10, 0_usize..10, any::<bool>()), 0..20),
        deletions in prop::collection::vec((0_usize..10, 0_u8..3), 1..5),
        order in any::<u64>(),
    ) {
        let uid = |n: usize| format!("t{n}");
        // Owners are older than what they own: no cycles, which have their own test.
        let owned = |n: usize| {
            let of = edges.iter().filter(|(from, to, _)| *from == n && *to < n);
            let mut owners: BTreeMap<usize, bool> = BTreeMap::new();
            of.for_each(|(_, to, blocks)| { owners.insert(*to, *blocks); });
            owners
        };
        let things = (0..10).map(|n| {
            let owners: Vec<(String, bool)> = owned(n).into_iter().map(|(to, blocks)| (uid(to), blocks)).collect();
            let owners: Vec<(&str, bool)> = owners.iter().map(|(to, blocks)| (to.as_str(), *blocks)).collect();
            thing(&uid(n), &owners)
        });
        let mut world = World::of(things.collect());
        let mut asked = BTreeSet::new();
        for (n, how) in deletions {
            let how = [Propagation::Background, Propagation::Foreground, Propagation::Orphan][usize::from(how)];
            world.delete(&uid(n), how);
            asked.insert(uid(n));
            // Some of the steps are carried out before the next deletion, each perhaps on what was seen before.
            let steps = world.steps();
            let some = steps.iter().enumerate().filter(|(at, _)| order >> (at % 64) & 1 == 1);
            some.for_each(|(_, step)| world.carry_out(step));
        }
        world.run();
        for thing in world.things.values() {
            prop_assert!(!thing.deleting, "{} is still there", thing.id.uid);
            prop_assert!(thing.owners.iter().all(|o| world.things.contains_key(&o.uid)));
        }
        for gone in &world.gone {
            let owners = owned(gone[1..].parse().unwrap());
            let lost = owners.keys().any(|to| world.gone.contains(&uid(*to)));
            prop_assert!(asked.contains(gone) || lost, "{gone} went and nothing asked for it");
        }
    }
}
