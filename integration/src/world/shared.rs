//! Parts of a world that many worlds of a search have in common.

use std::{
    cell::Cell,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    rc::Rc,
};

/// A part that is copied only when one of its owners changes it, and hashed only
/// once between changes.
#[derive(Clone)]
pub struct Shared<T>(Rc<Part<T>>);

#[derive(Clone)]
struct Part<T> {
    value: T,
    hash: Cell<Option<u64>>,
}

impl<T: Clone + Hash> Shared<T> {
    /// A part of its own.
    pub fn new(value: T) -> Self {
        Self(Rc::new(Part { value, hash: Cell::new(None) }))
    }

    /// The part, to be changed.
    pub fn edit(&mut self) -> &mut T {
        let part = Rc::make_mut(&mut self.0);
        part.hash.set(None);
        &mut part.value
    }

    /// The hash of the part.
    pub fn fingerprint(&self) -> u64 {
        self.0.hash.get().unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            self.0.value.hash(&mut hasher);
            let hash = hasher.finish();
            self.0.hash.set(Some(hash));
            hash
        })
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.value
    }
}
