//! Who may come in: the authority and its certificates, join tokens, the tokens of service accounts, and who may do what.
//!
//! `http` asks [`identity`] who a request is from and [`rules`] whether it may; `fleet` asks [`join`]; `serve` makes all of them. Nothing
//! here knows HTTP, gRPC or how an object is changed: it reads the store, and writes only what is its own, under `/daemonlet/`.

pub mod audit;
pub mod authority;
pub mod identity;
pub mod join;
mod random;
pub mod rules;
pub mod service_accounts;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;

/// Where the store has an object of the API; `namespace` is empty for kinds without one.
fn stored(group: &str, resource: &str, namespace: &str, name: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    match namespace {
        "" => format!("/registry/{group}/{resource}/{name}"),
        _ => format!("/registry/{group}/{resource}/{namespace}/{name}"),
    }
}
