//! The fast inference path: fused kernels for the instruction set of this CPU.

#[cfg(target_arch = "x86_64")]
pub mod amx;
