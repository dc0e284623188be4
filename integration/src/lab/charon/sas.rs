//! What `swanctl --list-sas --raw` prints.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// An IKE SA as charon tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeSa {
    /// Name of its connection.
    pub name: String,
    /// charon's number of it.
    pub id: u64,
    /// `ESTABLISHED`, ….
    pub state: String,
    /// The SPIs of initiator and responder, in hexadecimal.
    pub spis: [String; 2],
    /// Address and port of the peer.
    pub remote: String,
    /// Virtual addresses that it has, or that its peer has of it.
    pub virtual_ips: Vec<String>,
    /// Its Child SAs.
    pub children: Vec<ChildSa>,
}

/// A Child SA as charon tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSa {
    /// Its name in the configuration.
    pub name: String,
    /// `INSTALLED`, ….
    pub state: String,
    /// SPI of what comes in, in hexadecimal.
    pub spi_in: String,
    /// SPI of what goes out, in hexadecimal.
    pub spi_out: String,
}

impl IkeSa {
    /// Whether it is up.
    pub fn established(&self) -> bool {
        self.state == "ESTABLISHED"
    }

    /// The installed Child SA of this name, if there is just one.
    pub fn child(&self, name: &str) -> Option<&ChildSa> {
        let mut found = self.children.iter().filter(|child| child.name == name);
        let child = found.next().filter(|child| child.state == "INSTALLED")?;
        found.next().is_none().then_some(child)
    }
}

/// Reads the answer: one line `list-sa event {NAME {key=value … [list] {section}}}`
/// for each IKE SA.
pub(super) fn parse(text: &str) -> Result<Vec<IkeSa>> {
    let mut sas = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("list-sa event ") else { continue };
        let mut reader = Reader(rest.trim());
        let section = reader.section().with_context(|| format!("not understood: {line}"))?;
        for (name, sa) in section {
            sas.push(ike_sa(name, &sa).with_context(|| format!("not understood: {line}"))?);
        }
    }
    Ok(sas)
}

fn ike_sa(name: String, sa: &Value) -> Option<IkeSa> {
    let text = |key: &str| sa[key].as_str().map(str::to_owned);
    let lists = [&sa["local-vips"], &sa["remote-vips"]];
    let vips = lists.iter().filter_map(|list| list.as_array()).flatten();
    let children = sa["child-sas"].as_object().into_iter().flatten();
    Some(IkeSa {
        name,
        id: text("uniqueid")?.parse().ok()?,
        state: text("state")?,
        spis: [text("initiator-spi")?, text("responder-spi")?],
        remote: format!("{}[{}]", text("remote-host")?, text("remote-port")?),
        virtual_ips: vips.filter_map(|ip| ip.as_str().map(str::to_owned)).collect(),
        children: children.map(|(_, child)| child_sa(child)).collect::<Option<_>>()?,
    })
}

fn child_sa(child: &Value) -> Option<ChildSa> {
    let text = |key: &str| child[key].as_str().map(str::to_owned);
    Some(ChildSa {
        name: text("name")?,
        state: text("state")?,
        // Not there while it is being made.
        spi_in: text("spi-in").unwrap_or_default(),
        spi_out: text("spi-out").unwrap_or_default(),
    })
}

/// Reads sections, lists and values.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn skip(&mut self, token: char) -> bool {
        self.0 = self.0.trim_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Up to one of these, which stays.
    fn until(&mut self, ends: &[char]) -> Option<&'a str> {
        let at = self.0.find(ends)?;
        let (word, rest) = self.0.split_at(at);
        self.0 = rest;
        Some(word.trim())
    }

    fn section(&mut self) -> Option<Map<String, Value>> {
        if !self.skip('{') {
            return None;
        }
        let mut section = Map::new();
        while !self.skip('}') {
            let key = self.until(&['=', '{'])?.to_owned();
            let value = if self.skip('=') {
                if self.skip('[') { self.list()? } else { self.until(&[' ', '}'])?.into() }
            } else {
                Value::Object(self.section()?)
            };
            section.insert(key, value);
        }
        Some(section)
    }

    fn list(&mut self) -> Option<Value> {
        let words = self.until(&[']'])?.split_whitespace();
        let words = words.map(Value::from).collect();
        self.skip(']');
        Some(Value::Array(words))
    }
}
