//! A plot as SVG, written by hand: few points, two logarithmic axes.

use std::fmt::Write as _;

/// A line of a plot.
pub struct Series<'a> {
    /// What it is called.
    pub name: &'a str,
    /// A colour that SVG knows.
    pub colour: &'a str,
    /// Points; only positive values can be drawn.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// The decades that hold all values.
#[derive(Clone, Copy)]
struct Axis {
    first: i32,
    last: i32,
}

impl Axis {
    #[expect(clippy::cast_possible_truncation, reason = "decades of finite numbers are small")]
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|v| v.is_finite() && *v > 0.0)
            .map(f64::log10)
            .fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self { first: 0, last: 1 };
        }
        let first = low.floor() as i32;
        Self { first, last: (high.ceil() as i32).max(first + 1) }
    }

    /// 0 at the beginning, 1 at the end.
    fn place(self, value: f64) -> f64 {
        (value.log10() - f64::from(self.first)) / f64::from(self.last - self.first)
    }

    fn decades(self) -> impl Iterator<Item = f64> {
        (self.first..=self.last).map(|exponent| 10_f64.powi(exponent))
    }
}

/// Draws the lines over two logarithmic axes.
pub fn svg(title: &str, across: &str, up: &str, series: &[Series<'_>]) -> String {
    let points = || series.iter().flat_map(|s| s.points.iter().copied());
    let (x, y) = (Axis::around(points().map(|p| p.0)), Axis::around(points().map(|p| p.1)));
    let at_x = |value| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let at_y = |value| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    let mut out = String::new();
    let mut put = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{line}");
    };
    put(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">"#
    ));
    put(r#"<rect width="100%" height="100%" fill="white"/>"#.to_owned());
    put(label(WIDTH / 2.0, 24.0, "middle", title));
    put(label((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14.0, "middle", across));
    put(format!(
        r#"<text transform="translate(18 {}) rotate(-90)" text-anchor="middle">{}</text>"#,
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escaped(up)
    ));
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for decade in x.decades() {
        let at = at_x(decade);
        put(format!(r#"<path d="M{at:.1} {TOP}V{bottom}" stroke="lightgray"/>"#));
        put(label(at, bottom + 18.0, "middle", &number(decade)));
    }
    for decade in y.decades() {
        let at = at_y(decade);
        put(format!(r#"<path d="M{LEFT} {at:.1}H{right}" stroke="lightgray"/>"#));
        put(label(LEFT - 6.0, at + 4.0, "end", &number(decade)));
    }
    for (place, line) in series.iter().enumerate() {
        let drawn = line.points.iter().filter(|p| p.0 > 0.0 && p.1 > 0.0);
        let drawn: Vec<_> = drawn.map(|p| format!("{:.1},{:.1}", at_x(p.0), at_y(p.1))).collect();
        let colour = line.colour;
        put(format!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            drawn.join(" ")
        ));
        for point in &drawn {
            let (cx, cy) = point.split_once(',').unwrap_or_default();
            put(format!(r#"<circle cx="{cx}" cy="{cy}" r="4" fill="{colour}"/>"#));
        }
        let row = TOP + 16.0 * (place as f64 + 1.0);
        put(format!(
            r#"<text x="{}" y="{row}" text-anchor="end" fill="{colour}">{}</text>"#,
            right - 8.0,
            escaped(line.name)
        ));
    }
    put("</svg>".to_owned());
    out
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(text))
}

fn number(value: f64) -> String {
    if value < 1.0 { format!("{value}") } else { grouped(value) }
}

/// With a thin space between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_point_is_drawn_inside() {
        let points = vec![(1e3, 2e4), (1e6, 3.5e5)];
        let text = svg("a & b", "x", "y", &[Series { name: "<one>", colour: "navy", points }]);
        assert_eq!(text.matches("<circle").count(), 2);
        assert!(text.contains("a &amp; b") && text.contains("&lt;one&gt;"), "{text}");
        assert!(text.contains(r#"cx="90.0""#) && text.contains(r#"cx="700.0""#), "{text}");
        assert!(text.contains("1\u{2009}000\u{2009}000"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn nothing_to_draw_is_still_a_plot() {
        let text = svg("t", "x", "y", &[]);
        assert!(text.ends_with("</svg>\n") && !text.contains("NaN"));
    }
}
