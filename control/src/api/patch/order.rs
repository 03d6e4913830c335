//! `$setElementOrder`: in which order a merged list stands.

use std::collections::BTreeMap;

use serde_json::Value;

use super::PatchError;
use super::strategic::refused;
use crate::api::schema::{List, Patch};

/// The order that a patch asks for.
pub struct Order {
    key: Option<&'static str>,
    /// The place of each item, by what tells it apart.
    places: BTreeMap<String, usize>,
}

impl Order {
    pub fn read(wanted: &Value, list: &List, path: &str) -> Result<Order, PatchError> {
        let key = match list.patch {
            Patch::ByKey(key) => Some(key),
            Patch::Union | Patch::Replace => None,
        };
        let mut order = Order { key, places: BTreeMap::new() };
        let items = wanted.as_array().ok_or_else(|| refused(path, "$setElementOrder must be a list"))?;
        for (place, item) in items.iter().enumerate() {
            let identity = order.identity(item);
            let identity = identity.ok_or_else(|| refused(path, "an item of $setElementOrder has no key"))?;
            order.places.entry(identity).or_insert(place);
        }
        Ok(order)
    }

    fn identity(&self, item: &Value) -> Option<String> {
        match self.key {
            Some(key) => item.get(key).map(Value::to_string),
            None => Some(item.to_string()),
        }
    }

    fn place(&self, item: &Value) -> Option<usize> {
        self.places.get(&self.identity(item)?).copied()
    }

    /// The patch's own items must be named, in the order in which it has them.
    pub fn check(&self, patched: Option<&Value>, path: &str) -> Result<(), PatchError> {
        let items = patched.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut last = None;
        for item in items.iter().filter(|i| i.get("$patch").is_none()) {
            let place = self
                .place(item)
                .ok_or_else(|| refused(path, "$setElementOrder does not name every item of the patch"))?;
            if last.is_some_and(|last| last > place) {
                return Err(refused(path, "the items of the patch stand in another order than $setElementOrder has"));
            }
            last = Some(place);
        }
        Ok(())
    }

    /// Items that are named stand as the order has them. The others keep their order, each before the named ones unless it stood behind them
    /// in the list as it was before.
    pub fn arrange(&self, items: Vec<Value>, before: Option<&Value>) -> Vec<Value> {
        let stood = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let stood: BTreeMap<String, usize> =
            stood.iter().enumerate().filter_map(|(n, item)| Some((self.identity(item)?, n))).collect();
        let was = |item: &Value| self.identity(item).and_then(|i| stood.get(&i).copied());
        let (mut named, others): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|i| self.place(i).is_some());
        named.sort_by_key(|item| self.place(item));
        let mut arranged = Vec::with_capacity(named.len() + others.len());
        let mut named = named.into_iter().peekable();
        for other in others {
            let behind = |item: &Value| matches!((was(item), was(&other)), (Some(a), Some(b)) if a < b);
            while let Some(item) = named.next_if(behind) {
                arranged.push(item);
            }
            arranged.push(other);
        }
        arranged.extend(named);
        arranged
    }
}
