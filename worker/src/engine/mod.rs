//! The fast inference path: fused kernels for the instruction set of this CPU.
