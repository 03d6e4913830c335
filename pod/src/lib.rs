//! What a pod is.
