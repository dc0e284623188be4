//! The gateway in user space.

pub mod esp;
pub mod window;
