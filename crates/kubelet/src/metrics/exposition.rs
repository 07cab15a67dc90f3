//! The two formats Prometheus reads, chosen by `Accept`.
//!
//! The library writes OpenMetrics 1.0. The older text format (0.0.4), which a kubelet answers
//! with, differs in lines: a counter's HELP and TYPE carry the whole name with `_total`, there is
//! no unit and no end mark, numbers have no `.0`, a bucket's bound is the last label, and a
//! histogram's sum and count come last. Label values here are fixed words: none needs an escape.

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// A format of the answer to `GET /metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus's text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one the caller likes best; the text format unless OpenMetrics is named with a quality
    /// that is not lower.
    pub(crate) fn negotiate(accept: &str) -> Self {
        let (mut text, mut open) = (None, None);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut quality = 1.0_f32;
            let mut version = None;
            for part in parts {
                match part.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim_matches('"')),
                    _ => {}
                }
            }
            let best = match &*media {
                "application/openmetrics-text" if !matches!(version, Some("0.0.1")) => &mut open,
                "text/plain" | "text/*" | "*/*" => &mut text,
                _ => continue,
            };
            *best = Some(best.map_or(quality, |seen: f32| seen.max(quality)));
        }
        match open {
            Some(open) if open > 0.0 && open >= text.unwrap_or(0.0) => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    pub(super) fn write(self, registry: &Registry) -> String {
        let mut open = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut open, registry);
        match self {
            Self::OpenMetrics => open,
            Self::Text => older(&open),
        }
    }
}

/// OpenMetrics as text 0.0.4.
fn older(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    let mut help = "";
    // A histogram's sum and count, until its buckets are written.
    let mut held: Vec<&str> = Vec::new();
    for line in open.lines() {
        let is_bucket = !line.starts_with('#') && name(line).ends_with("_bucket");
        if held.len() == 2 && !is_bucket {
            flush(&mut out, &mut held);
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            let text = help.split_once(' ').map_or("", |(_, text)| text);
            out.push_str(&format!("# HELP {family}{suffix} {text}\n"));
            out.push_str(&format!("# TYPE {family}{suffix} {kind}\n"));
        } else if line.starts_with('#') {
            // A unit, or the end.
        } else if name(line).ends_with("_sum") || name(line).ends_with("_count") {
            held.push(line);
        } else {
            sample(&mut out, line);
        }
    }
    flush(&mut out, &mut held);
    out
}

fn flush(out: &mut String, held: &mut Vec<&str>) {
    for line in held.drain(..) {
        sample(out, line);
    }
}

/// The metric's name at the beginning of a line of values.
fn name(line: &str) -> &str {
    line.find(['{', ' ']).map_or(line, |end| &line[..end])
}

/// Writes one line of values. The bound of a bucket, which the library puts first, goes last.
fn sample(out: &mut String, line: &str) {
    let line = line.strip_suffix(".0").unwrap_or(line);
    let bucket = line.split_once("{le=\"").and_then(|(name, rest)| {
        let (bound, rest) = rest.split_once('"')?;
        Some((name, bound.strip_suffix(".0").unwrap_or(bound), rest))
    });
    let line = match bucket {
        Some((name, bound, rest)) => match rest.strip_prefix(',') {
            Some(rest) => {
                let (labels, value) = rest.rsplit_once("} ").unwrap_or((rest, ""));
                format!("{name}{{{labels},le=\"{bound}\"}} {value}")
            }
            None => format!("{name}{{le=\"{bound}\"{rest}"),
        },
        None => line.replacen("{} ", " ", 1),
    };
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::histogram::Histogram;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let counter = Family::<Vec<(&str, &str)>, Counter>::default();
        counter.get_or_create(&vec![("a", "b")]).inc();
        registry.register("calls", "Calls", counter);
        let histogram = Histogram::new([0.5, 1.0]);
        histogram.observe(1.0);
        registry.register("took_seconds", "Time", histogram);
        registry
    }

    #[test]
    fn the_older_format_is_what_a_kubelet_prints() {
        let expected = "\
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{a=\"b\"} 1
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{le=\"0.5\"} 0
took_seconds_bucket{le=\"1\"} 1
took_seconds_bucket{le=\"+Inf\"} 1
took_seconds_sum 1
took_seconds_count 1
";
        assert_eq!(Format::Text.write(&registry()), expected);
    }

    #[test]
    fn the_newer_format_ends_with_its_mark() {
        let text = Format::OpenMetrics.write(&registry());
        assert!(text.starts_with("# HELP calls Calls.\n# TYPE calls counter\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn histograms_of_several_labels_stay_apart() {
        let mut registry = Registry::default();
        let family =
            Family::<Vec<(&str, &str)>, Histogram>::new_with_constructor(|| Histogram::new([1.0]));
        family.get_or_create(&vec![("x", "1")]).observe(0.5);
        family.get_or_create(&vec![("x", "2")]).observe(2.0);
        registry.register("h", "H", family);
        let text = Format::Text.write(&registry);
        for value in ["1", "2"] {
            let place = |part: &str| text.find(&format!("h_{part}{{x=\"{value}\"")).unwrap();
            assert!(place("bucket") < place("sum") && place("sum") < place("count"), "{text}");
        }
        assert_eq!(text.lines().count(), 2 + 2 * 4);
    }

    #[test]
    fn the_callers_preference_decides() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=values;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html", Format::Text),
            ("text/plain", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"", Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0.1,text/plain;q=0.2", Format::Text),
            (prometheus, Format::OpenMetrics),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept}");
        }
    }
}
