//! Commands of the worker as a user runs them.

mod classify;
mod pull;
mod train_mnist;
mod train_sql;
