//! Named rules first, then all histories.

mod after;
mod deadline;
mod histories;
mod model;
mod order;
mod resize;
mod rules;
