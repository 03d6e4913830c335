//! The log keeper's protocol and its client side.
