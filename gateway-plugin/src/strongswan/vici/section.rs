//! The tree that a vici message is: sections, lists and values by name.
//!
//! Values are octets; charon writes text, numbers as decimal text, SPIs in
//! hexadecimal. They may hold a secret (`load-shared`), so they are zeroized,
//! and `Debug` shows names and lengths alone.

use std::{fmt, net::IpAddr, str::FromStr};

use zeroize::Zeroizing;

pub(super) use self::wire::{Octets, write_name};
use super::error::AnswerError;

/// Most octets in the name of an element: its length is one octet.
pub const MAX_NAME: usize = u8::MAX as usize;
/// Most octets in a value: its length is two octets.
pub const MAX_VALUE: usize = u16::MAX as usize;
/// Deepest nesting of sections that is read or written. charon's deepest answer
/// (`child-rekey`) has four.
pub const MAX_NESTING: usize = 16;

/// A value: octets, in practice text.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Zeroizing<Vec<u8>>);

impl Value {
    /// The octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// The text; what is no UTF-8 is replaced. For what a peer may have chosen,
    /// such as an identity.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl From<&[u8]> for Value {
    fn from(octets: &[u8]) -> Self {
        Self(Zeroizing::new(octets.to_vec()))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} octets>", self.0.len())
    }
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A value.
    Value(Value),
    /// A list of values.
    List(Vec<Value>),
    /// Further names.
    Section(Section),
}

/// Named items, in the order in which they came. Where a name stands twice, the
/// getters see the first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Section {
    entries: Vec<(String, Item)>,
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(name, item)| (name, item))).finish()
    }
}

impl Section {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.entries.push((name.to_owned(), Item::Value(value.into())));
        self
    }

    /// Adds a list.
    #[must_use]
    pub fn with_list<V: Into<Value>>(
        mut self,
        name: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        self.entries.push((name.to_owned(), Item::List(values)));
        self
    }

    /// Adds a section.
    #[must_use]
    pub fn with_section(mut self, name: &str, section: Self) -> Self {
        self.entries.push((name.to_owned(), Item::Section(section)));
        self
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.entries.iter().map(|(name, item)| (name.as_str(), item))
    }

    /// The sections in it, in order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.iter().filter_map(|(name, item)| match item {
            Item::Section(section) => Some((name, section)),
            _ => None,
        })
    }

    /// The only section in it: charon's events hold one, named after the
    /// connection.
    ///
    /// # Errors
    /// There is none.
    pub fn only_section(&self) -> Result<(&str, &Self), AnswerError> {
        self.sections().next().ok_or_else(|| AnswerError::missing("(a section)"))
    }

    fn find(&self, name: &str) -> Option<&Item> {
        self.entries.iter().find(|(n, _)| n == name).map(|(_, item)| item)
    }
}

/// Getters. Those named `optional` give `None` for a name that is not there;
/// what is there and not as it should be is an error in either.
impl Section {
    /// A section that may be missing.
    ///
    /// # Errors
    /// The name holds something else.
    pub fn optional_section(&self, name: &str) -> Result<Option<&Self>, AnswerError> {
        match self.find(name) {
            None => Ok(None),
            Some(Item::Section(section)) => Ok(Some(section)),
            Some(_) => Err(AnswerError::bad(name, "is not a section")),
        }
    }

    /// A section.
    ///
    /// # Errors
    /// It is missing, or the name holds something else.
    pub fn section(&self, name: &str) -> Result<&Self, AnswerError> {
        self.optional_section(name)?.ok_or_else(|| AnswerError::missing(name))
    }

    /// A value that may be missing.
    ///
    /// # Errors
    /// The name holds something else.
    pub fn optional_value(&self, name: &str) -> Result<Option<&Value>, AnswerError> {
        match self.find(name) {
            None => Ok(None),
            Some(Item::Value(value)) => Ok(Some(value)),
            Some(_) => Err(AnswerError::bad(name, "is not a value")),
        }
    }

    /// Text that may be missing. What is no UTF-8 in it is replaced.
    ///
    /// # Errors
    /// The name holds something else.
    pub fn optional_text(&self, name: &str) -> Result<Option<String>, AnswerError> {
        Ok(self.optional_value(name)?.map(Value::lossy))
    }

    /// Text. What is no UTF-8 in it is replaced.
    ///
    /// # Errors
    /// It is missing, or the name holds something else.
    pub fn text(&self, name: &str) -> Result<String, AnswerError> {
        self.optional_text(name)?.ok_or_else(|| AnswerError::missing(name))
    }

    /// A decimal number, an address or what else `T` reads from text, that may
    /// be missing.
    ///
    /// # Errors
    /// The value is not one.
    pub fn optional_parsed<T: FromStr>(
        &self,
        name: &str,
        what: &'static str,
    ) -> Result<Option<T>, AnswerError> {
        self.optional_text(name)?
            .map(|text| text.parse().map_err(|_| AnswerError::bad_value(name, &text, what)))
            .transpose()
    }

    /// A decimal number that may be missing.
    ///
    /// # Errors
    /// The value is not one, or too large.
    pub fn optional_number<T: FromStr>(&self, name: &str) -> Result<Option<T>, AnswerError> {
        self.optional_parsed(name, "a number that fits")
    }

    /// A decimal number.
    ///
    /// # Errors
    /// It is missing, not a number, or too large.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<T, AnswerError> {
        self.optional_number(name)?.ok_or_else(|| AnswerError::missing(name))
    }

    /// An IP address.
    ///
    /// # Errors
    /// It is missing or not an address.
    pub fn address(&self, name: &str) -> Result<IpAddr, AnswerError> {
        self.optional_parsed(name, "an IP address")?.ok_or_else(|| AnswerError::missing(name))
    }

    /// A hexadecimal number of at most 64 bits that may be missing.
    ///
    /// # Errors
    /// The value is not one.
    pub fn optional_hex(&self, name: &str) -> Result<Option<u64>, AnswerError> {
        self.optional_text(name)?
            .map(|text| {
                u64::from_str_radix(&text, 16)
                    .map_err(|_| AnswerError::bad_value(name, &text, "a hexadecimal number"))
            })
            .transpose()
    }

    /// A hexadecimal number of at most 32 bits that may be missing.
    ///
    /// # Errors
    /// The value is not one, or too large.
    pub fn optional_hex32(&self, name: &str) -> Result<Option<u32>, AnswerError> {
        self.optional_hex(name)?
            .map(|n| u32::try_from(n).map_err(|_| AnswerError::bad(name, "exceeds 32 bits")))
            .transpose()
    }

    /// Whether the value is `yes` or `1`; charon leaves out what is not.
    ///
    /// # Errors
    /// The name holds no value.
    pub fn flag(&self, name: &str) -> Result<bool, AnswerError> {
        Ok(self.optional_value(name)?.is_some_and(|v| matches!(v.octets(), b"yes" | b"1")))
    }

    /// The texts of a list; empty where there is none. What is no UTF-8 in them
    /// is replaced.
    ///
    /// # Errors
    /// The name holds something else.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, AnswerError> {
        match self.find(name) {
            None => Ok(Vec::new()),
            Some(Item::List(values)) => Ok(values.iter().map(Value::lossy).collect()),
            Some(_) => Err(AnswerError::bad(name, "is not a list")),
        }
    }

    /// The addresses of a list; empty where there is none.
    ///
    /// # Errors
    /// The name holds something else, or an item is not an address.
    pub fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, AnswerError> {
        self.texts(name)?
            .iter()
            .map(|t| t.parse().map_err(|_| AnswerError::bad_value(name, t, "an IP address")))
            .collect()
    }
}

mod wire;

#[cfg(test)]
mod tests;
