//! State tables as data: what a table answers, and how it is written down.

use std::fmt::{Debug, Write};

/// What an event does to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// It leads here; entering has its own acts.
    To(S),
    /// It is late, or repeated, and changes nothing.
    Ignored,
    /// It cannot happen here: whoever caused it did what is not allowed.
    Refused,
}

/// A table: one machine's states, events and steps.
pub trait Table {
    /// Where something stands.
    type State: Copy + Debug + PartialEq + 'static;
    /// What happens to it.
    type Event: Copy + Debug + PartialEq + 'static;
    /// Every state, in the order of a good day; the first is where it begins.
    const STATES: &'static [Self::State];
    /// Every event.
    const EVENTS: &'static [Self::Event];
    /// States that nothing leaves.
    const ENDS: &'static [Self::State];
    /// The table itself.
    fn step(state: Self::State, event: Self::Event) -> Step<Self::State>;
}

/// Every cell, one state a paragraph and one event a line.
pub fn cells<T: Table>() -> String {
    let mut text = String::new();
    for state in T::STATES {
        let _ = writeln!(text, "{state:?}");
        for event in T::EVENTS {
            let cell = match T::step(*state, *event) {
                Step::To(next) => format!("-> {next:?}"),
                Step::Ignored => "ignored".to_owned(),
                Step::Refused => "refused".to_owned(),
            };
            let _ = writeln!(text, "  {:<14} {cell}", format!("{event:?}"));
        }
    }
    text
}

/// The machine as a mermaid state diagram. Events that lead from one state to
/// the same other one share an arrow.
pub fn diagram<T: Table>() -> String {
    let mut text = String::from("stateDiagram-v2\n");
    if let Some(first) = T::STATES.first() {
        let _ = writeln!(text, "    [*] --> {first:?}");
    }
    for from in T::STATES {
        for to in T::STATES {
            let events: Vec<String> = T::EVENTS
                .iter()
                .filter(|event| T::step(*from, **event) == Step::To(*to))
                .map(|event| format!("{event:?}"))
                .collect();
            if !events.is_empty() {
                let _ = writeln!(text, "    {from:?} --> {to:?}: {}", events.join(", "));
            }
        }
        if T::ENDS.contains(from) {
            let _ = writeln!(text, "    {from:?} --> [*]");
        }
    }
    text
}

/// The diagram as a page of the normative text.
pub fn page<T: Table>(name: &str) -> String {
    format!(
        "<!-- Written by the tests of cxtp from engine/{name}.rs. Do not edit. -->\n\n```mermaid\n{}```\n",
        diagram::<T>()
    )
}

/// That the page of the normative text is the machine's, or is written anew.
#[cfg(test)]
pub(super) fn is_drawn<T: Table>(name: &str) {
    let drawn = page::<T>(name);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol-spec/spec/diagrams");
    let path = format!("{folder}/{name}.md");
    if std::env::var_os("UPDATE_DIAGRAMS").is_some() {
        std::fs::write(&path, &drawn).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, drawn, "run the tests of cxtp with UPDATE_DIAGRAMS=1");
}

/// That the ends are ends, that each state is reached, and that no other state
/// is a trap.
#[cfg(test)]
pub(super) fn check<T: Table>() {
    let steps = |from: T::State| {
        T::EVENTS.iter().filter_map(move |event| match T::step(from, *event) {
            Step::To(to) => Some(to),
            Step::Ignored | Step::Refused => None,
        })
    };
    for state in T::STATES {
        let is_end = T::ENDS.contains(state);
        let left = steps(*state).any(|to| to != *state);
        assert_eq!(is_end, !left, "{state:?}");
        let mut others = T::STATES.iter().filter(|other| *other != state);
        let reached = others.any(|other| steps(*other).any(|to| to == *state));
        // A machine may also begin in a state: owned sessions that are found
        // paused, sessions that nothing is known of.
        assert!(reached || T::STATES.first() == Some(state), "{state:?} is never reached");
    }
}
