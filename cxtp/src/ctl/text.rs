//! Text for a person: tables, times, and words of others made harmless.

use serde_json::Value;
use time::OffsetDateTime;

/// Text that came from elsewhere, without what could steer a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Columns under headings, two spaces apart, the last one as long as it likes.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut all = vec![headings.map(str::to_owned)];
    all.extend_from_slice(rows);
    columns(&all)
}

/// The same without headings.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| one_line(cell))).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let padded: [String; N] =
            std::array::from_fn(|i| format!("{:width$}", row[i], width = widths[i]));
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn one_line(text: &str) -> String {
    clean(text).replace('\n', " ")
}

/// A time in microseconds in the unit that suits it.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// `1 session`, `2 sessions`.
pub(super) fn sessions(count: usize) -> String {
    format!("{count} session{}", if count == 1 { "" } else { "s" })
}

/// Milliseconds since 1970-01-01 UTC as RFC 3339 writes them.
pub(super) fn timestamp(unix_ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    let Ok(at) = at else { return format!("{unix_ms} ms") };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// A JSON value as indented `name: value` lines.
pub(super) fn outline(value: &Value) -> String {
    let mut text = String::new();
    outline_into(value, 0, &mut text);
    text
}

fn outline_into(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                nested(&format!("{indent}{}:", clean(name)), value, depth, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                nested(&format!("{indent}-"), item, depth, text);
            }
        }
        plain => text.push_str(&format!("{indent}{}\n", scalar(plain))),
    }
}

fn nested(head: &str, value: &Value, depth: usize, text: &mut String) {
    let empty = match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        _ if empty => text.push_str(&format!("{head} none\n")),
        Value::Object(_) | Value::Array(_) => {
            text.push_str(&format!("{head}\n"));
            outline_into(value, depth + 1, text);
        }
        plain => text.push_str(&format!("{head} {}\n", scalar(plain))),
    }
}

/// A value without structure, in one line.
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => one_line(text),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "text/tests.rs"]
mod tests;
