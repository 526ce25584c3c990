//! The commands of the worker, run as by a user.

mod classify;
mod pull;
mod train_mnist;
mod train_sql;
