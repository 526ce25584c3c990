//! Tile products in registers, to measure the peak rate of the tile unit.
#![allow(unsafe_code, reason = "tile instructions")]

use super::tile::{Permit, Tiles, dot, zero};

/// Operations of one product of 16 rows, 16 columns and a depth of 32: two per multiply-add.
const OPERATIONS: f64 = 16.0 * 16.0 * 32.0 * 2.0;

/// Multiplies four tiles `turns` times and returns the operations of one turn; `None` without
/// tiles.
pub(crate) fn spin(turns: u32) -> Option<f64> {
    let _tiles = Tiles::configure(Permit::request()?);
    // SAFETY: tiles are configured on this thread; nothing but tiles is touched.
    unsafe {
        zero!(0);
        zero!(1);
        zero!(2);
        zero!(3);
        zero!(4);
        zero!(5);
        for _ in 0..turns {
            dot!(0, 4, 5);
            dot!(1, 4, 5);
            dot!(2, 4, 5);
            dot!(3, 4, 5);
        }
    }
    Some(4.0 * OPERATIONS)
}
