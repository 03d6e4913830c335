//! In which order a merged list stands: as the patch has it, or as `$setElementOrder` says.

use std::collections::BTreeMap;

use serde_json::Value;

use super::PatchError;
use super::strategic::refused;
use crate::api::interleave::interleave;
use crate::api::schema::{List, Patch};

/// The order that a patch asks for.
pub struct Order {
    key: Option<&'static str>,
    /// The place of each item, by what tells it apart.
    places: Places,
}

/// Where the items of a list stood, by what tells them apart.
pub type Places = BTreeMap<String, usize>;

impl Order {
    /// Of `$setElementOrder`.
    pub fn read(wanted: &Value, list: &List, path: &str) -> Result<Order, PatchError> {
        let items = wanted.as_array().ok_or_else(|| refused(path, "$setElementOrder must be a list"))?;
        let order = Order::of(items, list);
        if items.iter().any(|item| order.identity(item).is_none()) {
            return Err(refused(path, "an item of $setElementOrder has no key"));
        }
        Ok(order)
    }

    /// In which these items stand themselves.
    pub fn of(items: &[Value], list: &List) -> Order {
        let key = match list.patch {
            Patch::ByKey(key) => Some(key),
            Patch::Union | Patch::Replace => None,
        };
        let mut order = Order { key, places: Places::new() };
        order.places = order.places_in(items);
        order
    }

    pub fn places_in(&self, items: &[Value]) -> Places {
        let mut places = Places::new();
        for (place, item) in items.iter().enumerate() {
            if let Some(identity) = self.identity(item) {
                places.entry(identity).or_insert(place);
            }
        }
        places
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
            let place = self.place(item);
            let place = place.ok_or_else(|| refused(path, "$setElementOrder does not name every item of the patch"))?;
            if last.is_some_and(|last| last > place) {
                return Err(refused(path, "the items of the patch stand in another order than $setElementOrder has"));
            }
            last = Some(place);
        }
        Ok(())
    }

    /// Items that are named stand as the order has them, the others where they were (`interleave`).
    pub fn arrange(&self, items: Vec<Value>, before: &Places) -> Vec<Value> {
        let was = |item: &Value| self.identity(item).and_then(|i| before.get(&i).copied());
        let (mut named, others): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|i| self.place(i).is_some());
        // What tells an item apart is made of it: once, not for each comparison.
        named.sort_by_cached_key(|item| self.place(item));
        let placed = |item: Value| (was(&item), item);
        let named = named.into_iter().map(placed).map(|(was, item)| (item, was)).collect();
        // What a patch adds without naming it comes last.
        let others = others.into_iter().map(placed).map(|(was, item)| (item, was.unwrap_or(usize::MAX))).collect();
        interleave(named, others)
    }
}
