//! Value parsers with bounds, for `#[arg(value_parser = …)]`: a setting without a bound is a limit nobody chose.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Why a value cannot be read. Never holds the value, which might be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The empty string.
    #[error("must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("is longer than {max} bytes")]
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// Not digits only.
    #[error("is not a whole number")]
    Number,
    /// Not digits with an optional unit.
    #[error("is not a number of bytes, such as 65536 or 64KiB")]
    Bytes,
    /// Outside its bounds.
    #[error("is not between {min} and {max}")]
    Range {
        /// The least allowed.
        min: String,
        /// The most allowed.
        max: String,
    },
    /// No `scheme://rest`.
    #[error("is not a URL of the form scheme://[user:password@]host[:port]")]
    Url,
    /// Another scheme than this setting knows.
    #[error("its scheme is not one of {}", .schemes.join(", "))]
    Scheme {
        /// Those it knows.
        schemes: &'static [&'static str],
    },
    /// Not tracing directives.
    #[error("is not a level or a list of target=level")]
    LogFilter,
}

/// A whole number within bounds.
pub fn number<T>(
    bounds: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, ValueError> + Clone + Send + Sync + 'static
where
    T: std::str::FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |value| within(&bounds, value.parse().map_err(|_| ValueError::Number)?)
}

/// A duration given in whole milliseconds.
pub fn millis(
    bounds: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Duration, ValueError> + Clone + Send + Sync + 'static {
    let number = number(bounds);
    move |value| number(value).map(Duration::from_millis)
}

/// A size in bytes, optionally with `KiB`, `MiB` or `GiB`.
pub fn bytes(
    bounds: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, ValueError> + Clone + Send + Sync + 'static {
    move |value| {
        let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
            .into_iter()
            .find_map(|(unit, shift)| value.strip_suffix(unit).map(|digits| (digits.trim_end(), shift)))
            .unwrap_or((value, 0));
        let count: usize = digits.parse().map_err(|_| ValueError::Bytes)?;
        within(&bounds, count.checked_mul(1 << shift).ok_or(ValueError::Bytes)?)
    }
}

/// Text that is not empty and at most this long.
pub fn text(bytes_max: usize) -> impl Fn(&str) -> Result<String, ValueError> + Clone + Send + Sync + 'static {
    move |value| match value.len() {
        0 => Err(ValueError::Empty),
        length if length > bytes_max => Err(ValueError::TooLong { max: bytes_max }),
        _ => Ok(value.to_owned()),
    }
}

pub(super) fn log_filter(value: &str) -> Result<String, ValueError> {
    let filter = tracing_subscriber::EnvFilter::builder().parse(value);
    if value.trim().is_empty() || filter.is_err() { Err(ValueError::LogFilter) } else { Ok(value.to_owned()) }
}

fn within<T: PartialOrd + Display>(bounds: &RangeInclusive<T>, value: T) -> Result<T, ValueError> {
    if bounds.contains(&value) {
        Ok(value)
    } else {
        Err(ValueError::Range { min: bounds.start().to_string(), max: bounds.end().to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_within_their_bounds() {
        assert_eq!(number(1_u32..=10)("10"), Ok(10));
        assert_eq!(millis(0..=5_000)("250"), Ok(Duration::from_millis(250)));
        for (text, count) in
            [("0", 0), ("100", 100), ("64KiB", 65_536), ("2 MiB", 2 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(0..=usize::MAX)(text), Ok(count), "{text}");
        }
        let range = ValueError::Range { min: "1".into(), max: "10".into() };
        assert_eq!(number(1_u32..=10)("11"), Err(range.clone()));
        assert_eq!(number(1_u32..=10)("ten"), Err(ValueError::Number));
        assert_eq!(bytes(1..=10)("1KiB"), Err(range));
        for bad in ["", "KiB", "-1", "1kb", "99999999999GiB", "18446744073709551615"] {
            assert!(bytes(0..=1 << 40)(bad).is_err(), "{bad}");
        }
        assert_eq!(text(2)("abc"), Err(ValueError::TooLong { max: 2 }));
        assert_eq!(text(2)(""), Err(ValueError::Empty));
        assert!(log_filter("info,herald=debug").is_ok());
        assert!(log_filter("a=b=c").is_err());
    }
}
