//! The query string of a request, decoded as an HTML form.

use std::ops::RangeInclusive;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::call::Stop;

/// Longest delay that a caller may ask for.
const MAX_DELAY: Duration = Duration::from_secs(600);

/// Names and values in order. A name without `=` has an empty value.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes what stands behind the `?`. Never fails: what is no valid encoding stays as it is.
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether `name` is there and neither `0` nor `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "0" | "false"))
    }

    /// The number `name`, or `default` when it is absent.
    ///
    /// # Errors
    /// A 400 when it is not a number in `allowed`.
    pub fn number(&self, name: &str, default: u64, allowed: RangeInclusive<u64>) -> Result<u64, Stop> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(|| {
            let (low, high) = (allowed.start(), allowed.end());
            Stop::bad_request(format!("`{name}` must be a whole number from {low} to {high}, not {value:?}"))
        })
    }

    /// The delay `name` in milliseconds, or `default` when it is absent.
    ///
    /// # Errors
    /// A 400 when it is not a number, or longer than ten minutes.
    pub fn millis(&self, name: &str, default: Duration) -> Result<Duration, Stop> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.number(name, millis(default), 0..=millis(MAX_DELAY)).map(Duration::from_millis)
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Sleeps. A delay of nothing still gives the connection its turn, so that what was produced so far is sent on.
pub async fn pause(delay: Duration) {
    if delay.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_like_a_form() {
        let query = Query::parse(Some("a=1&b=x%20y+z&flag&a=2&&off=0&bad=%zz"));
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), Some("x y z"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert!(query.flag("flag"));
        assert!(!query.flag("off"));
        assert!(!query.flag("absent"));
    }

    #[test]
    fn numbers_are_checked() {
        let query = Query::parse(Some("n=7&much=99&word=x"));
        assert_eq!(query.number("n", 1, 0..=10).unwrap(), 7);
        assert_eq!(query.number("absent", 1, 0..=10).unwrap(), 1);
        assert!(query.number("much", 1, 0..=10).is_err());
        assert!(query.number("word", 1, 0..=10).is_err());
        assert_eq!(query.millis("n", Duration::ZERO).unwrap(), Duration::from_millis(7));
    }
}
