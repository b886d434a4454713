//! The home-made backup systems that dbkeep replaces, one file each.

mod narrowed;
mod system_a;
mod system_b;
mod system_c;
mod system_d;
mod system_e;
