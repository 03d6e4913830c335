//! Named rules first, then all histories.

mod histories;
mod model;
mod order;
mod rules;
