//! Roles and their bindings, parsed: what a user may do by them. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::identity::Identity;
use super::super::service_accounts;
use super::Attributes;
use crate::selector::Selector;

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A rbac/v1 PolicyRule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    /// `pods`, `pods/log`, `*/status`, `*`.
    pub resources: Vec<String>,
    /// Empty: objects of every name.
    pub names: Vec<String>,
    /// `/healthz`, `/healthz/*`, `*`.
    pub urls: Vec<String>,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    /// By namespace and name.
    roles: BTreeMap<(String, String), Vec<Rule>>,
    cluster: BTreeMap<String, ClusterRole>,
    /// By namespace; that of a ClusterRoleBinding is empty.
    bindings: BTreeMap<String, BTreeMap<String, Binding>>,
}

#[derive(Debug, Clone, Default)]
struct ClusterRole {
    rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// The rules of all roles that one of these selects are its own too (`aggregationRule`).
    aggregates: Vec<Selector>,
}

#[derive(Debug, Clone)]
struct Binding {
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// What a binding binds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRef {
    pub is_cluster: bool,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
}

impl Rule {
    pub fn of(rule: &Value) -> Rule {
        let texts = |key: &str| {
            let all = rule[key].as_array().into_iter().flatten();
            all.filter_map(|one| one.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        Rule {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            urls: texts("nonResourceURLs"),
        }
    }

    pub fn all_of(rules: &Value) -> Vec<Rule> {
        rules.as_array().into_iter().flatten().map(Rule::of).collect()
    }

    fn allows(&self, asked: &Attributes<'_>) -> bool {
        has(&self.verbs, asked.verb)
            && if asked.resource.is_empty() {
                self.urls.iter().any(|url| covers_url(url, asked.path))
            } else {
                has(&self.groups, asked.group)
                    && self.resources.iter().any(|own| covers_resource(own, asked.resource, asked.subresource))
                    && (self.names.is_empty()
                        || (!asked.name.is_empty() && self.names.iter().any(|own| own == asked.name)))
            }
    }

    /// The same rule as many that ask for one thing each.
    fn atoms(&self) -> Vec<Rule> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                atoms.push(Rule { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let atom = Rule {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    match self.names.is_empty() {
                        true => atoms.push(atom),
                        false => atoms
                            .extend(self.names.iter().map(|name| Rule { names: vec![name.clone()], ..atom.clone() })),
                    }
                }
            }
        }
        atoms
    }

    /// Whether whoever has this rule has all that an atom asks for.
    fn covers(&self, atom: &Rule) -> bool {
        let all = |own: &[String], asked: &[String]| asked.iter().all(|one| has(own, one));
        let resources = |asked: &String| {
            let (resource, subresource) = asked.split_once('/').unwrap_or((asked, ""));
            self.resources.iter().any(|own| own == asked || covers_resource(own, resource, subresource))
        };
        // A name is a name: `*` is none that means all.
        let named = || !atom.names.is_empty() && atom.names.iter().all(|name| self.names.contains(name));
        let names = self.names.is_empty() || named();
        let urls = |asked: &String| self.urls.iter().any(|own| covers_url(own, asked));
        all(&self.verbs, &atom.verbs)
            && all(&self.groups, &atom.groups)
            && atom.resources.iter().all(resources)
            && names
            && atom.urls.iter().all(urls)
    }

    pub fn to_resource_json(&self) -> Value {
        let mut rule = json!({ "verbs": self.verbs, "apiGroups": self.groups, "resources": self.resources });
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }
}

/// What `wanted` asks for and `held` does not give; empty: nobody is given more than he has.
pub fn missing(held: &[&Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !held.iter().any(|rule| rule.covers(atom))).collect()
}

impl Roles {
    /// Takes an object of the group over, or whatever replaces it. Others are ignored.
    pub fn put(&mut self, resource: &str, object: &Value) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else { return };
        match resource {
            "roles" => {
                self.roles.insert((namespace, name), Rule::all_of(&object["rules"]));
            }
            "clusterroles" => {
                let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
                let labels =
                    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
                let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
                let aggregates = selectors.filter_map(selector).collect();
                self.cluster.insert(name, ClusterRole { rules: Rule::all_of(&object["rules"]), labels, aggregates });
            }
            "rolebindings" | "clusterrolebindings" => {
                self.bindings.entry(namespace).or_default().insert(name, Binding::of(object));
            }
            _ => {}
        }
    }

    /// It has been deleted.
    pub fn remove(&mut self, resource: &str, object: &Value) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let Some(name) = object["metadata"]["name"].as_str() else { return };
        match resource {
            "roles" => {
                self.roles.remove(&(namespace, name.to_owned()));
            }
            "clusterroles" => {
                self.cluster.remove(name);
            }
            "rolebindings" | "clusterrolebindings" => {
                if let Some(bindings) = self.bindings.get_mut(&namespace) {
                    bindings.remove(name);
                }
            }
            _ => {}
        }
    }

    /// The binding by which the user may, for people; None: by none.
    pub fn allow(&self, user: &Identity, asked: &Attributes<'_>) -> Option<String> {
        let namespaces = if asked.namespace.is_empty() { vec![""] } else { vec!["", asked.namespace] };
        for namespace in namespaces {
            for (name, binding) in self.bindings.get(namespace).into_iter().flatten() {
                if binding.is_of(user) && self.rules(namespace, &binding.role).iter().any(|rule| rule.allows(asked)) {
                    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
                    let of = if namespace.is_empty() { name.clone() } else { format!("{name}/{namespace}") };
                    let role = if binding.role.is_cluster { "ClusterRole" } else { "Role" };
                    return Some(format!("RBAC: allowed by {kind} {of:?} of {role} {:?}", binding.role.name));
                }
            }
        }
        None
    }

    /// All rules that a user has in a namespace, those of the whole cluster included.
    pub fn held(&self, user: &Identity, namespace: &str) -> Vec<&Rule> {
        let namespaces = if namespace.is_empty() { vec![""] } else { vec!["", namespace] };
        let mut held = Vec::new();
        for namespace in namespaces {
            for binding in self.bindings.get(namespace).into_iter().flatten().map(|(_, binding)| binding) {
                if binding.is_of(user) {
                    held.extend(self.rules(namespace, &binding.role));
                }
            }
        }
        held
    }

    /// The rules of a role, those that it aggregates included. A role that is not there has none.
    pub fn rules(&self, namespace: &str, role: &RoleRef) -> Vec<&Rule> {
        if !role.is_cluster {
            return self.roles.get(&(namespace.to_owned(), role.name.clone())).into_iter().flatten().collect();
        }
        let Some(own) = self.cluster.get(&role.name) else { return Vec::new() };
        let mut rules: Vec<&Rule> = own.rules.iter().collect();
        if !own.aggregates.is_empty() {
            let others = self.cluster.iter().filter(|(name, _)| **name != role.name);
            let selected =
                others.filter(|(_, other)| own.aggregates.iter().any(|selector| selector.matches(&other.labels)));
            rules.extend(selected.flat_map(|(_, other)| &other.rules));
        }
        rules
    }
}

impl RoleRef {
    pub fn of(binding: &Value) -> RoleRef {
        let role = &binding["roleRef"];
        RoleRef {
            is_cluster: role["kind"] == "ClusterRole",
            name: role["name"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

impl Binding {
    fn of(binding: &Value) -> Binding {
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let subjects = subjects.filter_map(|subject| Subject::of(subject, namespace)).collect();
        Binding { role: RoleRef::of(binding), subjects }
    }

    fn is_of(&self, user: &Identity) -> bool {
        self.subjects.iter().any(|subject| match subject {
            Subject::User(name) => *name == user.name,
            Subject::Group(name) => user.is_in(name),
        })
    }
}

impl Subject {
    fn of(subject: &Value, namespace: &str) -> Option<Subject> {
        let name = subject["name"].as_str()?.to_owned();
        match subject["kind"].as_str()? {
            "User" => Some(Subject::User(name)),
            "Group" => Some(Subject::Group(name)),
            "ServiceAccount" => {
                let namespace = subject["namespace"].as_str().filter(|own| !own.is_empty()).unwrap_or(namespace);
                let is_named = !namespace.is_empty();
                is_named.then(|| Subject::User(format!("{}{namespace}:{name}", service_accounts::PREFIX)))
            }
            _ => None,
        }
    }
}

/// Of a meta/v1 LabelSelector. None: one that cannot be read selects nothing.
fn selector(selector: &Value) -> Option<Selector> {
    use pod::spec::{Operator, Requirement};
    let mut requirements = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        let values = vec![value.as_str()?.to_owned()];
        requirements.push(Requirement { key: key.clone(), operator: Operator::In, values });
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let operator = match expression["operator"].as_str()? {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return None,
        };
        let values = expression["values"].as_array().into_iter().flatten();
        let values = values.filter_map(|value| value.as_str().map(str::to_owned)).collect();
        requirements.push(Requirement { key: expression["key"].as_str()?.to_owned(), operator, values });
    }
    Some(Selector { requirements })
}

fn has(own: &[String], asked: &str) -> bool {
    own.iter().any(|one| one == "*" || one == asked)
}

/// `*` is every resource and subresource; `*/status` that subresource of every resource.
fn covers_resource(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => own == resource && subresource.is_empty(),
        Some((of, sub)) => !subresource.is_empty() && (of == "*" || of == resource) && sub == subresource,
    }
}

/// A `*` at the end stands for every rest.
fn covers_url(own: &str, asked: &str) -> bool {
    own == asked || own.strip_suffix('*').is_some_and(|begin| asked.starts_with(begin))
}
