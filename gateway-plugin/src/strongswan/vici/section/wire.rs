//! A message as octets: six kinds of elements, one behind the other.

use super::{Item, MAX_NESTING, Section, Value};
use crate::strongswan::vici::error::{Malformed, Unwritable};

// Element types of the message format.
const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// The message as octets.
impl Section {
    /// Appends the message.
    ///
    /// # Errors
    /// A name or value too long for its length, or sections too deep.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        self.write_nested(out, 0)
    }

    fn write_nested(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), Unwritable> {
        for (name, item) in &self.entries {
            match item {
                Item::Value(value) => {
                    out.push(KEY_VALUE);
                    write_name(out, name)?;
                    write_value(out, value)?;
                }
                Item::List(values) => {
                    out.push(LIST_START);
                    write_name(out, name)?;
                    for value in values {
                        out.push(LIST_ITEM);
                        write_value(out, value)?;
                    }
                    out.push(LIST_END);
                }
                Item::Section(section) => {
                    if depth == MAX_NESTING {
                        return Err(Unwritable::Nesting);
                    }
                    out.push(SECTION_START);
                    write_name(out, name)?;
                    section.write_nested(out, depth + 1)?;
                    out.push(SECTION_END);
                }
            }
        }
        Ok(())
    }

    /// Reads a message, which must fill all of `octets`.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with them.
    pub fn read(octets: &[u8]) -> Result<Self, Malformed> {
        let mut rest = Octets(octets);
        // Sections that are open around `current`, with their names.
        let mut around: Vec<(Self, String)> = Vec::new();
        let mut current = Self::new();
        while let Some(kind) = rest.next() {
            match kind {
                SECTION_START => {
                    if around.len() == MAX_NESTING {
                        return Err(Malformed::Nesting);
                    }
                    let name = rest.name()?;
                    around.push((std::mem::take(&mut current), name));
                }
                SECTION_END => {
                    let (outer, name) = around.pop().ok_or(Malformed::Misplaced(kind))?;
                    let inner = std::mem::replace(&mut current, outer);
                    current.entries.push((name, Item::Section(inner)));
                }
                KEY_VALUE => {
                    let name = rest.name()?;
                    let value = rest.value()?;
                    current.entries.push((name, Item::Value(value)));
                }
                LIST_START => {
                    let name = rest.name()?;
                    let values = rest.list()?;
                    current.entries.push((name, Item::List(values)));
                }
                LIST_ITEM | LIST_END => return Err(Malformed::Misplaced(kind)),
                _ => return Err(Malformed::ElementType(kind)),
            }
        }
        if around.is_empty() { Ok(current) } else { Err(Malformed::Open) }
    }
}

/// A name with its length of one octet.
pub(in crate::strongswan::vici) fn write_name(
    out: &mut Vec<u8>,
    name: &str,
) -> Result<(), Unwritable> {
    out.push(u8::try_from(name.len()).map_err(|_| Unwritable::Name(name.len()))?);
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: &Value) -> Result<(), Unwritable> {
    let octets = value.octets();
    let length = u16::try_from(octets.len()).map_err(|_| Unwritable::Value(octets.len()))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(octets);
    Ok(())
}

/// What is still to be read.
pub(in crate::strongswan::vici) struct Octets<'a>(pub(in crate::strongswan::vici) &'a [u8]);

impl<'a> Octets<'a> {
    pub(in crate::strongswan::vici) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(in crate::strongswan::vici) fn name(&mut self) -> Result<String, Malformed> {
        let length = self.next().ok_or(Malformed::Truncated)?;
        let octets = self.take(usize::from(length))?;
        std::str::from_utf8(octets).map(str::to_owned).map_err(|_| Malformed::Name)
    }

    fn value(&mut self) -> Result<Value, Malformed> {
        let high = self.next().ok_or(Malformed::Truncated)?;
        let low = self.next().ok_or(Malformed::Truncated)?;
        self.take(usize::from(u16::from_be_bytes([high, low]))).map(Value::from)
    }

    fn list(&mut self) -> Result<Vec<Value>, Malformed> {
        let mut values = Vec::new();
        loop {
            match self.next().ok_or(Malformed::Open)? {
                LIST_ITEM => values.push(self.value()?),
                LIST_END => return Ok(values),
                kind @ SECTION_START..=LIST_START => return Err(Malformed::Misplaced(kind)),
                kind => return Err(Malformed::ElementType(kind)),
            }
        }
    }
}
