//! A small picture of how something grows: SVG, both axes logarithmic, medians with bars from the least to the most, and
//! lines for what the machine allows at best.

use std::fmt::Write as _;

/// What one value of the x axis came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) low: f64,
    pub(super) middle: f64,
    pub(super) high: f64,
}

/// Measured points, joined by a line.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) points: Vec<Point>,
}

/// A line without points.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) line: Vec<(f64, f64)>,
}

/// The picture.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) series: Vec<Series>,
    pub(super) limits: Vec<Limit>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;
const COLORS: [&str; 4] = ["#1f5fa8", "#c2571a", "#2f7d3b", "#7a3f98"];

/// A logarithmic axis between whole powers of ten, or a part of one.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Covers these values; what is not positive has no place on it.
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, 0f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            low = low.min(value);
            high = high.max(value);
        }
        if high == 0.0 {
            return None;
        }
        let (low, high) = (low.log10().floor(), high.log10().ceil());
        Some(Axis { low, high: if high > low { high } else { low + 1.0 }, from, to })
    }

    fn place(self, value: f64) -> f64 {
        let part = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// The powers of ten.
    fn decades(self) -> impl Iterator<Item = f64> {
        let count = (self.high - self.low).round() as u32;
        (0..=count).map(move |n| 10f64.powf(self.low + f64::from(n)))
    }
}

/// A value of an axis, short.
fn label(value: f64) -> String {
    match value {
        v if v >= 1000.0 => {
            let digits = format!("{v:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 1.0 => format!("{v:.0}"),
        v => format!("{v}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Plot {
    /// The picture as SVG; `None`: there is nothing to show.
    pub(super) fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let on_limits = || self.limits.iter().flat_map(|limit| &limit.line);
        points().next()?;
        let xs = points().map(|point| point.x).chain(on_limits().map(|(x, _)| *x));
        let ys = points()
            .flat_map(|point| [point.low, point.middle, point.high])
            .chain(on_limits().map(|(_, y)| *y));
        let x = Axis::over(xs, LEFT, WIDTH - RIGHT)?;
        let y = Axis::over(ys, HEIGHT - BOTTOM, TOP)?;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        self.frame(&mut svg, x, y);
        for limit in &self.limits {
            let line: Vec<(f64, f64)> =
                limit.line.iter().map(|(at, value)| (x.place(*at), y.place(*value))).collect();
            path(&mut svg, &line, "#888", " stroke-dasharray=\"6 4\"");
        }
        for (number, series) in self.series.iter().enumerate() {
            let color = COLORS[number % COLORS.len()];
            let line: Vec<(f64, f64)> =
                series.points.iter().map(|p| (x.place(p.x), y.place(p.middle))).collect();
            path(&mut svg, &line, color, "");
            for point in &series.points {
                let at = x.place(point.x);
                let (low, middle, high) =
                    (y.place(point.low), y.place(point.middle), y.place(point.high));
                let _ = writeln!(
                    svg,
                    "<line x1=\"{at:.1}\" y1=\"{low:.1}\" x2=\"{at:.1}\" y2=\"{high:.1}\" stroke=\"{color}\"/>\
                     <circle cx=\"{at:.1}\" cy=\"{middle:.1}\" r=\"3.5\" fill=\"{color}\"/>"
                );
            }
        }
        self.legend(&mut svg);
        svg.push_str("</svg>\n");
        Some(svg)
    }

    fn frame(&self, svg: &mut String, x: Axis, y: Axis) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in x.decades() {
            let at = x.place(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 18.0,
                label(value)
            );
        }
        for value in y.decades() {
            let at = y.place(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                at + 4.0,
                label(value)
            );
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#444\"/>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(20 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            right - LEFT,
            bottom - TOP,
            f64::midpoint(LEFT, right),
            HEIGHT - 14.0,
            escape(&self.x),
            f64::midpoint(TOP, bottom),
            escape(&self.y)
        );
    }

    fn legend(&self, svg: &mut String) {
        let named =
            self.series.iter().enumerate().map(|(number, series)| {
                (series.name.to_owned(), COLORS[number % COLORS.len()], "")
            });
        let limits = self
            .limits
            .iter()
            .map(|limit| (limit.name.clone(), "#888", " stroke-dasharray=\"6 4\""));
        for (row, (name, color, dashes)) in named.chain(limits).enumerate() {
            let at = TOP + 18.0 + 17.0 * f64::from(u32::try_from(row).unwrap_or(0));
            let _ = writeln!(
                svg,
                "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{color}\" stroke-width=\"2\"{dashes}/>\
                 <text x=\"{}\" y=\"{at}\">{}</text>",
                LEFT + 12.0,
                at - 4.0,
                LEFT + 40.0,
                at - 4.0,
                LEFT + 48.0,
                escape(&name)
            );
        }
    }
}

fn path(svg: &mut String, line: &[(f64, f64)], color: &str, more: &str) {
    let places: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"{more}/>",
        places.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ratios_are_equal_distances() {
        let axis = Axis::over([64.0, 8192.0].into_iter(), 0.0, 300.0).unwrap();
        assert_eq!(axis.decades().collect::<Vec<_>>(), [10.0, 100.0, 1000.0, 10000.0]);
        let step = axis.place(200.0) - axis.place(100.0);
        assert!((axis.place(2000.0) - axis.place(1000.0) - step).abs() < 1e-9);
        assert!(
            (axis.place(10.0) - 0.0).abs() < 1e-9 && (axis.place(10000.0) - 300.0).abs() < 1e-9
        );
    }

    #[test]
    fn one_value_has_an_axis_and_none_has_none() {
        assert!(Axis::over([100.0].into_iter(), 0.0, 1.0).unwrap().high > 2.0);
        assert!(Axis::over([0.0, -1.0].into_iter(), 0.0, 1.0).is_none());
    }

    #[test]
    fn a_picture_has_every_point_and_says_what_it_shows() {
        let point = |x: f64| Point { x, low: x / 20.0, middle: x / 10.0, high: x };
        let plot = Plot {
            title: "a < b".to_owned(),
            x: "MiB".to_owned(),
            y: "ms".to_owned(),
            series: vec![Series { name: "freeze", points: vec![point(64.0), point(1024.0)] }],
            limits: vec![Limit {
                name: "disk".to_owned(),
                line: vec![(64.0, 1.0), (1024.0, 16.0)],
            }],
        };
        let svg = plot.svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.contains(">freeze<") && svg.contains(">disk<"));
        assert!(svg.contains(">10,000<"), "{svg}");
        assert!(Plot { series: Vec::new(), ..plot }.svg().is_none());
    }
}
