//! What a container gets, as values.
