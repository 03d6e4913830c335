//! Named rules first, then all histories of a small fleet.

mod build;
mod histories;
mod judge;
mod revisions;
mod rules;
mod updates;
mod world;
