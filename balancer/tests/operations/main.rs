//! The program as an operator runs it: its logs, its signals, its workers, and how it ends.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod ending;
mod lists;
mod logs;
mod program;
mod settings;
mod workers;
