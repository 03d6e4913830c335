//! What each verb does with an object: options and body in, [`Objects`](crate::api::objects::Objects), the answer in the form asked for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap, USER_AGENT};
use serde_json::Value;

use super::answer::header;
use super::body::{self, PatchType};
use super::connection::{Peer, Stream};
use super::limits::Place;
use super::query::Query;
use super::render::Render;
use super::reply::{self, JSON, Reply};
use super::request::{Resource, Verb};
use super::watch::Watch;
use super::{Door, list, logs};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::{Deleted, ListQuery, Patch, WriteOptions, Written, success};
use crate::door::identity::Identity;
use crate::door::rules::review::review;

/// The longest watch that a client gets however long it asks for one.
const LASTS_MAX: Duration = Duration::from_secs(24 * 3600);

/// A request that may be carried out.
pub struct Call<'a> {
    pub door: &'a Arc<Door>,
    pub kind: &'static Kind,
    pub resource: &'a Resource,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub body: Bytes,
    pub user: &'a Identity,
    pub peer: &'a Arc<Peer>,
    pub verb: Verb,
    pub pretty: bool,
}

impl Call<'_> {
    /// `place`: among the requests; a stream gives it up for one of its own, everything else has it until it is sent.
    pub async fn carry_out(self, place: Place) -> Result<Reply, ApiError> {
        let mut reply = match self.verb {
            Verb::Get if self.resource.subresource == "log" => {
                drop(place);
                let pod = self.get().await?;
                let stream = self.stream()?;
                return logs::answer(&*self.door.logs, &pod, self.query, self.door.objects.clock().now(), stream).await;
            }
            Verb::Get => {
                let render = self.render()?;
                let object = self.get().await?;
                Ok(self.object(StatusCode::OK, object, render, &[]))
            }
            Verb::List => self.list().await,
            Verb::Watch => {
                drop(place);
                return self.watch().await;
            }
            Verb::Create => self.create().await,
            Verb::Update => self.update().await,
            Verb::Patch => self.patch().await,
            Verb::Delete => self.delete().await,
            Verb::DeleteCollection => self.delete_collection().await,
        }?;
        reply::hold(&mut reply, place);
        Ok(reply)
    }

    fn render(&self) -> Result<Render, ApiError> {
        Render::of(header(self.headers, &ACCEPT), self.query, self.kind)
    }

    /// Empty for kinds that are in no namespace.
    fn namespace(&self) -> &str {
        if self.kind.namespaced { &self.resource.namespace } else { "" }
    }

    /// None: all namespaces.
    fn scope(&self) -> Option<&str> {
        Some(self.namespace()).filter(|namespace| !namespace.is_empty())
    }

    fn object(&self, code: StatusCode, object: Value, render: Render, warnings: &[String]) -> Reply {
        let document = render.object(object, self.door.objects.clock().now());
        let mut reply = reply::json(code, JSON, &document, self.pretty);
        reply::warn(&mut reply, warnings);
        reply
    }

    fn written(&self, written: Written, render: Render) -> Reply {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        self.object(code, written.object, render, &written.warnings)
    }

    async fn get(&self) -> Result<Value, ApiError> {
        self.door.objects.get(self.kind, self.namespace(), &self.resource.name).await
    }

    /// A place among the streams.
    fn stream(&self) -> Result<Stream, ApiError> {
        let place = self.door.limits.stream(self.user, self.peer.address.ip())?;
        Ok(Stream::new(place, self.peer.clone()))
    }

    async fn list(&self) -> Result<Reply, ApiError> {
        let render = self.render()?;
        let query = self.query.list(self.kind)?;
        let listing = self.door.objects.listing(self.kind, self.scope(), &query).await?;
        list::answer(listing, self.writer(render)).await
    }

    fn writer(&self, render: Render) -> list::Writer {
        list::Writer::new(render, self.kind, self.door.objects.clock().now(), self.pretty)
    }

    async fn watch(&self) -> Result<Reply, ApiError> {
        let render = self.render()?;
        let (mut query, from_now) = self.query.watch(self.kind)?;
        let objects = &self.door.objects;
        if !self.resource.name.is_empty() {
            // The old way to watch one object; clients now select it by its name.
            return Err(ApiError::bad_request("watch one object by fieldSelector=metadata.name=…"));
        }
        if from_now {
            let newest = ListQuery { limit: Some(1), ..ListQuery::default() };
            query.after = Some(objects.listing(self.kind, self.scope(), &newest).await?.revision());
        }
        let stream = self.stream()?;
        let watching = objects.watch(self.kind, self.scope(), &query).await?;
        let lasts = match self.query.count("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds).min(LASTS_MAX),
            _ => self.door.limits.watch_lasts(),
        };
        Ok(Watch { watching, render, clock: objects.clock().clone(), lasts, stream }.answer())
    }

    fn write_options(&self, of: &str) -> Result<WriteOptions, ApiError> {
        let mut options = self.query.write(of, header(self.headers, &USER_AGENT))?;
        options.user.clone_from(&self.user.name);
        options.guard = self.door.authorizer.guard(self.user, self.verb.name());
        Ok(options)
    }

    async fn create(&self) -> Result<Reply, ApiError> {
        let render = self.render()?;
        let mut options = self.write_options("CreateOptions")?;
        let document = body::document(self.headers, &self.body)?;
        options.duplicates = document.duplicates;
        let object = document.value;
        if !self.resource.subresource.is_empty() {
            let answer = self.act(object, &options).await?;
            return Ok(self.object(StatusCode::CREATED, answer, Render::Whole, &[]));
        }
        if !self.resource.name.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        if !self.kind.is_stored() {
            let object = typed(self.kind, object)?;
            let doors = (&self.door.authenticator, &self.door.authorizer);
            let answer = review(doors, self.kind, self.namespace(), object, self.user).await?;
            return Ok(self.object(StatusCode::CREATED, answer, Render::Whole, &[]));
        }
        let written = self.door.objects.create(self.kind, self.namespace(), object, &options).await?;
        Ok(self.written(written, render))
    }

    /// What is posted to a part of an object: something to be done with it.
    async fn act(&self, body: Value, options: &WriteOptions) -> Result<Value, ApiError> {
        let (namespace, name) = (self.namespace(), self.resource.name.as_str());
        match self.resource.subresource.as_str() {
            "token" => self.door.authenticator.accounts().request(namespace, name, &body, self.user).await,
            sub => self.door.objects.act(self.kind, namespace, name, sub, body, options).await,
        }
    }

    async fn update(&self) -> Result<Reply, ApiError> {
        let render = self.render()?;
        let mut options = self.write_options("UpdateOptions")?;
        let document = body::document(self.headers, &self.body)?;
        options.duplicates = document.duplicates;
        let Resource { name, subresource, .. } = self.resource;
        let objects = &self.door.objects;
        let written = objects.update(self.kind, self.namespace(), name, subresource, document.value, &options).await?;
        Ok(self.written(written, render))
    }

    async fn patch(&self) -> Result<Reply, ApiError> {
        let render = self.render()?;
        let (of, document) = body::patch(self.headers, &self.body)?;
        let force = self.query.force(of == PatchType::Apply)?;
        let mut options = self.write_options("PatchOptions")?;
        options.duplicates = document.duplicates;
        let patch = match of {
            PatchType::Json => Patch::Json(document.value),
            PatchType::Merge => Patch::Merge(document.value),
            PatchType::Strategic => Patch::Strategic(document.value),
            PatchType::Apply => Patch::Apply { configuration: document.value, force },
        };
        let Resource { name, subresource, .. } = self.resource;
        let objects = &self.door.objects;
        let written = objects.patch(self.kind, self.namespace(), name, subresource, patch, &options).await?;
        Ok(self.written(written, render))
    }

    async fn delete(&self) -> Result<Reply, ApiError> {
        let render = self.render()?;
        let body = body::options(self.headers, &self.body)?;
        let options = self.query.delete(body.as_ref())?;
        let name = &self.resource.name;
        let Deleted { object, gone } = self.door.objects.delete(self.kind, self.namespace(), name, &options).await?;
        if gone {
            return Ok(reply::json(StatusCode::OK, JSON, &done(self.kind, &object), self.pretty));
        }
        Ok(self.object(StatusCode::OK, object, render, &[]))
    }

    async fn delete_collection(&self) -> Result<Reply, ApiError> {
        let render = self.render()?;
        let body = body::options(self.headers, &self.body)?;
        let options = self.query.delete(body.as_ref())?;
        let query = self.query.list(self.kind)?;
        let mut writer = self.writer(render);
        let deleting = self.door.objects.delete_collection(self.kind, self.scope(), &query, &options, |object| {
            writer.add(object);
        });
        let revision = deleting.await?;
        Ok(reply::bytes(StatusCode::OK, JSON, writer.end(list::metadata(revision, (None, None)))))
    }
}

/// An object that says what it is; what it says must be the kind of the path.
fn typed(kind: &Kind, mut object: Value) -> Result<Value, ApiError> {
    for (field, wanted) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        match object[field].as_str() {
            None | Some("") if object.is_object() => object[field] = wanted.into(),
            Some(said) if said == wanted => {}
            said => {
                let said = said.unwrap_or_default();
                return Err(ApiError::bad_request(format!("{field} is {said:?} where {wanted:?} is expected")));
            }
        }
    }
    Ok(object)
}

/// The Status of an object that is no more.
fn done(kind: &Kind, object: &Value) -> Value {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    success(kind, text("name"), text("uid"))
}
