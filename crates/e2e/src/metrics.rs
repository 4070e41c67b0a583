//! Reads what `/metrics` serves: the Prometheus text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

/// One reading.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
    declared: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the text; panics at a line that is not of the format.
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self { samples: Vec::new(), declared: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                metrics.declared.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                metrics.samples.push(sample(line).unwrap_or_else(|| panic!("not a sample: {line}")));
            }
        }
        metrics
    }

    /// The sum over all samples of `name` that carry these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(carries).map(|sample| sample.value).sum()
    }

    /// Every metric by its declared name, as a histogram has one name and not three.
    pub fn names(&self) -> BTreeSet<String> {
        self.declared.keys().cloned().collect()
    }

    /// `counter`, `gauge`, `histogram` or `summary`.
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.declared.get(name).map(String::as_str)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut found = BTreeMap::new();
    // none of our label values holds a quote
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once("=\"")?;
        found.insert(key.to_owned(), value.trim_end_matches('"').to_owned());
    }
    Some(Sample { name: name.to_owned(), labels: found, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let text = "# HELP a_total What\n# TYPE a_total counter\na_total{k=\"x\",l=\"1\"} 2\na_total{k=\"y\"} 3\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\"} 7\nh_sum 1.5\nh_count 7\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total", &[]), 5.0);
        assert_eq!(metrics.sum("a_total", &[("k", "x")]), 2.0);
        assert_eq!(metrics.sum("a_total", &[("k", "z")]), 0.0);
        assert_eq!(metrics.sum("h_count", &[]), 7.0);
        assert_eq!(metrics.names().into_iter().collect::<Vec<_>>(), ["a_total", "h"]);
        assert_eq!(metrics.kind("h"), Some("histogram"));
    }
}
