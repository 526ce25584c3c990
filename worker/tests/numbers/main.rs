//! Networks on every kernel, compared with the plain ones and with other runtimes.

#[path = "../networks/mod.rs"]
mod networks;

mod amx;
mod fused;
mod fused_digits;
mod mnist_golden;
mod parity;
mod placed;
mod precision;
