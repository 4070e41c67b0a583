//! Values that must not be shown: passwords, and URLs that hold one.

use std::fmt;
use std::str::FromStr;

use super::ValueError;

const HIDDEN: &str = "***";

/// A value that neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; it must not reach a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl FromStr for Secret {
    type Err = ValueError;

    fn from_str(value: &str) -> Result<Self, ValueError> {
        if value.is_empty() { Err(ValueError::Empty) } else { Ok(Self::new(value)) }
    }
}

/// A URL whose password, and query where there is one, neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The URL with its password; it must not reach a log.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What comes before `://`.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }
}

impl FromStr for SecretUrl {
    type Err = ValueError;

    fn from_str(value: &str) -> Result<Self, ValueError> {
        match value.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => Ok(Self(value.to_owned())),
            _ => Err(ValueError::Url),
        }
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", HIDDEN));
        // the last @ of all, so that a password with a raw / or ? in it is hidden too
        let (user, rest) = match rest.rsplit_once('@') {
            Some((userinfo, rest)) => (userinfo.split_once(':').map_or(userinfo, |(user, _)| user), rest),
            None => ("", rest),
        };
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        write!(f, "{scheme}://")?;
        if self.0.contains('@') {
            write!(f, "{user}:{HIDDEN}@")?;
        }
        f.write_str(place)?;
        if query.is_some() { write!(f, "?{HIDDEN}") } else { Ok(()) }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value parser for a URL with one of these schemes.
pub fn url(
    schemes: &'static [&'static str],
) -> impl Fn(&str) -> Result<SecretUrl, ValueError> + Clone + Send + Sync + 'static {
    move |value| {
        let url: SecretUrl = value.parse()?;
        if schemes.contains(&url.scheme()) { Ok(url) } else { Err(ValueError::Scheme { schemes }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        for (url, shown) in [
            ("redis://localhost:6379/0", "redis://localhost:6379/0"),
            ("redis://:hunter2@localhost", "redis://:***@localhost"),
            ("amqp://me:hunter2@rabbit:5672/%2f", "amqp://me:***@rabbit:5672/%2f"),
            ("amqp://me:hun/ter2?@rabbit", "amqp://me:***@rabbit"),
            ("amqp://me:hun@ter2@rabbit", "amqp://me:***@rabbit"),
            ("redis://a?password=hunter2", "redis://a?***"),
        ] {
            let parsed: SecretUrl = url.parse().unwrap();
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(format!("{parsed:?}"), shown);
            assert_eq!(parsed.expose(), url);
        }
        assert_eq!(format!("{:?} {}", Secret::new("hunter2"), Secret::new("hunter2")), "*** ***");
    }

    #[test]
    fn a_url_needs_a_scheme_that_is_known() {
        let redis = url(&["redis", "rediss"]);
        assert_eq!(redis("rediss://h").unwrap().scheme(), "rediss");
        for (value, error) in [
            ("", ValueError::Url),
            ("localhost:6379", ValueError::Url),
            ("redis://", ValueError::Url),
            ("http://h", ValueError::Scheme { schemes: &["redis", "rediss"] }),
        ] {
            assert_eq!(redis(value), Err(error), "{value}");
        }
    }
}
