//! Histograms of the Prometheus text format: read, added up, subtracted, and what they say of a quantile. Pure.

/// One metric's histogram, all its label sets together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram {
    /// A bound, and how many values are not above it; ascending, and the last bound is infinite.
    buckets: Vec<(f64, f64)>,
    sum: f64,
}

/// Two histograms do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("its buckets differ from those of another one")]
    Bounds,
    #[error("it began anew: the process was restarted")]
    Restart,
}

impl Histogram {
    /// What a text says of a metric; `None` if it has no such histogram.
    pub(crate) fn read(text: &str, metric: &str) -> Option<Self> {
        let mut read = Self::default();
        for line in text.lines().filter(|line| line.starts_with(metric)) {
            let Some((name, labels, value)) = sample(line) else { continue };
            match &name[metric.len()..] {
                "_sum" => read.sum += value,
                "_bucket" => {
                    let Some(bound) = label(labels, "le").and_then(|le| le.parse::<f64>().ok()) else {
                        continue;
                    };
                    match read.buckets.iter_mut().find(|bucket| bucket.0 == bound) {
                        Some(bucket) => bucket.1 += value,
                        None => read.buckets.push((bound, value)),
                    }
                }
                _ => {}
            }
        }
        read.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        (read.buckets.last()?.0 == f64::INFINITY).then_some(read)
    }

    /// Adds one of the same kind.
    pub(crate) fn add(&mut self, other: &Self) -> Result<(), Mismatch> {
        if self.buckets.is_empty() {
            self.clone_from(other);
            return Ok(());
        }
        self.combine(other, |ours, theirs| ours + theirs)
    }

    /// What came since an earlier state of the same one.
    pub(crate) fn since(&self, earlier: &Self) -> Result<Self, Mismatch> {
        let mut since = self.clone();
        since.combine(earlier, |now, then| now - then)?;
        if since.buckets.iter().any(|bucket| bucket.1 < 0.0) {
            return Err(Mismatch::Restart);
        }
        Ok(since)
    }

    fn combine(&mut self, other: &Self, how: impl Fn(f64, f64) -> f64) -> Result<(), Mismatch> {
        let bounds = |histogram: &Self| histogram.buckets.iter().map(|bucket| bucket.0).collect::<Vec<_>>();
        if bounds(self) != bounds(other) {
            return Err(Mismatch::Bounds);
        }
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            ours.1 = how(ours.1, theirs.1);
        }
        self.sum = how(self.sum, other.sum);
        Ok(())
    }

    pub(crate) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.1)
    }

    /// Exact.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count()
    }

    /// As coarse as the buckets: within one, values are taken to be spread evenly, and what is above the highest bound
    /// counts as that bound. So does Prometheus' `histogram_quantile`.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.count();
        let (mut low, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= rank && bound.is_infinite() {
                return low;
            }
            if count >= rank && count > below {
                return low + (bound - low) * (rank - below) / (count - below);
            }
            (low, below) = (bound, count);
        }
        low
    }
}

/// The name, the labels and the value of a line.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let (name, rest) = line.split_at(line.find(|c: char| c == '{' || c.is_whitespace())?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => {
            let end = unquoted(rest, '}')?;
            (&rest[..end], &rest[end + 1..])
        }
        None => ("", rest),
    };
    // a timestamp may follow
    Some((name, labels, rest.split_whitespace().next()?.parse().ok()?))
}

/// A label's value, as it stands between its quotes.
fn label<'a>(mut labels: &'a str, name: &str) -> Option<&'a str> {
    loop {
        let end = unquoted(labels, ',').unwrap_or(labels.len());
        let (key, value) = labels[..end].split_once('=')?;
        if key.trim() == name {
            return value.trim().strip_prefix('"')?.strip_suffix('"');
        }
        labels = labels.get(end + 1..)?;
    }
}

/// Where a character is first that is not within quotes.
fn unquoted(text: &str, wanted: char) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c if c == wanted && !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
