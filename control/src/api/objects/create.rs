//! New objects.

use pod::digest::letters;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fields::{check_fields, identify};
use super::{Objects, WriteOptions, Written, bytes_of, key, meta};
use crate::api::apply;
use crate::api::error::{ApiError, Cause};
use crate::api::invalid::Causes;
use crate::api::kinds::{self, Kind};
use crate::api::strategy::Reference;
use crate::api::validate;
use crate::clock::seconds;
use crate::store::{Expected, Store, StoreError, Write};

/// Letters after a `generateName`, and what of it stays: a name has at most 63 characters then (Kubernetes).
const LETTERS: usize = 5;
const BASE_MAX: usize = 58;
/// Generated names that are tried: seven of thirty million do not meet by chance.
const NAME_TRIES: usize = 8;

impl Objects {
    /// Error: 409 AlreadyExists, 404 where the namespace does not exist, 403 where it is being deleted, 422.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        self.create_from(kind, namespace, object, options, Owners::ToBeNoted).await
    }

    pub(super) async fn create_from(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
        owners: Owners,
    ) -> Result<Written, ApiError> {
        if !kind.is_stored() {
            return Err(ApiError::method_not_allowed());
        }
        identify(kind, namespace, "", &mut object)?;
        if !meta::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let mut warnings = check_fields(kind, &mut object, options)?;
        self.check_namespace(kind, namespace, meta::text(&object, "name")).await?;
        self.begin(kind, &mut object);
        kind.strategy.prepare_create(&mut object, self.clock().now());
        kind.strategy.defaults(&mut object);
        self.admit(kind, &mut object).await?;
        let generated = meta::text(&object, "name").is_empty();
        let base = meta::text(&object, "generateName").to_owned();
        let mut tries = 0;
        loop {
            let mut object = object.clone();
            if generated && !base.is_empty() {
                meta::set(&mut object, "name", generate(&base));
            }
            tries += 1;
            match self.put_new(kind, namespace, object, options, owners).await {
                Err(error) if error.is_already_exists() && generated && tries < NAME_TRIES => {}
                Err(error) => return Err(error),
                Ok((object, found)) => {
                    warnings.extend(found);
                    return Ok(Written { object, created: true, warnings });
                }
            }
        }
    }

    /// And what the writer is to know of it.
    async fn put_new(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
        owners: Owners,
    ) -> Result<(Value, Vec<String>), ApiError> {
        let (mut causes, mut warnings) = (Causes::default(), Vec::new());
        validate::metadata(kind, &object, &mut causes);
        kind.strategy.validate(&object, &mut causes);
        if causes.is_empty() {
            kind.strategy.judge(&object, None, &mut causes, &mut warnings);
        }
        let name = meta::text(&object, "name").to_owned();
        if !causes.is_empty() {
            return Err(ApiError::invalid(kind, &name, causes.into_vec()));
        }
        if owners == Owners::ToBeNoted {
            object = apply::update(None, &object, &self.writer(kind, "", options).as_writer());
        }
        if let Some(guard) = &options.guard {
            guard.check(kind, "", &object, None).await?;
        }
        let place = key(kind, namespace, &name);
        if options.dry_run {
            let found = self.store().get(&place).await?;
            return match found.entry {
                Some(_) => Err(ApiError::already_exists(kind, &name)),
                None => Ok((object, warnings)),
            };
        }
        let write = Write { key: place, value: Some(bytes_of(kind, &object)?), expected: Expected::Absent };
        match self.store().write(write).await {
            Ok(revision) => {
                meta::set(&mut object, "resourceVersion", revision.to_string());
                Ok((object, warnings))
            }
            Err(StoreError::Conflict { .. }) => Err(ApiError::already_exists(kind, &name)),
            Err(error) => Err(error.into()),
        }
    }

    /// What the server alone says of a new object.
    fn begin(&self, kind: &'static Kind, object: &mut Value) {
        for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            meta::remove(object, field);
        }
        meta::set(object, "uid", Uuid::new_v4().to_string());
        meta::set(object, "creationTimestamp", seconds(self.clock().now()));
        if !kind.strategy.generation_of().is_empty() {
            meta::set(object, "generation", 1);
        }
    }

    /// What depends on other objects.
    async fn admit(&self, kind: &'static Kind, object: &mut Value) -> Result<(), ApiError> {
        let mut found = Vec::new();
        for reference in kind.strategy.references(object) {
            let of = reference.kind().ok_or_else(|| ApiError::internal(format!("no kind for {reference:?}")))?;
            found.push(match &reference {
                Reference::One { namespace, name, .. } => {
                    self.current(of, namespace, name).await?.map(|current| current.object)
                }
                Reference::All { .. } => Some(self.list(of, None, &Default::default()).await?.items.into()),
            });
        }
        let name = match meta::text(object, "name") {
            "" => meta::text(object, "generateName").to_owned(),
            name => name.to_owned(),
        };
        kind.strategy.admit(object, &found).map_err(|why| ApiError::forbidden(kind, &name, &why))
    }

    /// Nothing is created in a namespace that is not there or that is being deleted.
    async fn check_namespace(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        if !kind.namespaced {
            return Ok(());
        }
        let of = kinds::by_resource("", "v1", "namespaces").ok_or_else(|| ApiError::internal("no namespaces"))?;
        let Some(found) = self.current(of, "", namespace).await? else {
            return Err(ApiError::not_found(of, namespace));
        };
        if !meta::is_ending(&found.object) {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = Cause::new(
            "NamespaceTerminating",
            "metadata.namespace",
            format!("namespace {namespace} is being terminated"),
        );
        Err(ApiError::forbidden(kind, name, &why).because(cause))
    }
}

/// Whether `metadata.managedFields` is right already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    ToBeNoted,
    /// By an apply.
    Noted,
}

fn generate(base: &str) -> String {
    let base: String = base.chars().take(BASE_MAX).collect();
    format!("{base}{}", letters(Uuid::new_v4().as_bytes(), LETTERS))
}

/// The body of an answer about what is done.
pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.resource, "uid": uid});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
