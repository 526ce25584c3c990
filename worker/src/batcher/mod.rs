//! Jobs waiting for a model.
