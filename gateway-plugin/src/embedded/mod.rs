//! The gateway in user space.
