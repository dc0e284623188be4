//! Figures over many sessions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Percentiles of durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Longest.
    pub max: u64,
}

impl Spread {
    /// Of these durations; all zero where there is none.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        Self::of_micros(durations.into_iter().map(micros))
    }

    /// Of these microseconds; all zero where there is none.
    pub fn of_micros(values: impl IntoIterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        Self { p50: rank(&values, 50), p99: rank(&values, 99), max: rank(&values, 100) }
    }
}

/// The smallest value that `percent` of all do not exceed (nearest rank).
fn rank(sorted: &[u64], percent: usize) -> u64 {
    let place = (sorted.len() * percent).div_ceil(100);
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0)
}

/// Microseconds, as far as 64 bits go.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds as a person reads them.
pub fn human_micros(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} µs"),
        1_000..100_000 => format!("{}.{} ms", value / 1_000, value / 100 % 10),
        100_000..10_000_000 => format!("{} ms", value / 1_000),
        _ => format!("{} s", value / 1_000_000),
    }
}

/// A table for a person: the first column to the left, the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain(head.get(column).copied()).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let width = *width;
            match column {
                0 => line.push_str(&format!("{cell:<width$}")),
                _ => line.push_str(&format!("  {cell:>width$}")),
            }
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    text.push_str(&line(
        &mut widths.iter().map(|w| "─".repeat(*w)).collect::<Vec<_>>().iter().map(String::as_str),
    ));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        assert_eq!(Spread::of_micros(1..=200), Spread { p50: 100, p99: 198, max: 200 });
        assert_eq!(Spread::of_micros([7]), Spread { p50: 7, p99: 7, max: 7 });
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn a_table_keeps_its_columns() {
        let rows =
            [vec!["one".to_owned(), "1".to_owned()], vec!["a".to_owned(), "1000".to_owned()]];
        let text = table(&["part", "n"], &rows);
        assert_eq!(text, "part     n\n────  ────\none      1\na     1000\n");
    }

    #[test]
    fn times_for_a_person() {
        let shown = [999, 1_250, 123_456, 12_345_678].map(human_micros);
        assert_eq!(shown, ["999 µs", "1.2 ms", "123 ms", "12 s"]);
    }
}
