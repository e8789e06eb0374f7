//! Values with units on the command line: durations and sizes.

use std::time::Duration;

/// Reads a duration: a whole number and `us`, `ms`, `s`, `m`, `h` or `d`; without a unit, seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 30s, 5m, 2h, 500ms or 100us".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "us" => return Ok(Duration::from_micros(number)),
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3_600),
        "d" => number.checked_mul(86_400),
        _ => return Err(wrong()),
    };
    // A century is more than anything here waits for, and keeps additions to times of day from overflowing.
    seconds
        .filter(|seconds| *seconds <= 100 * 365 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| "too long".to_owned())
}

/// Reads how long connections live on the way between agents and server. Shorter lives would be spent on opening them.
pub fn parse_connection_lifetime(text: &str) -> Result<Duration, String> {
    let limit = parse_duration(text)?;
    if limit < Duration::from_secs(5) { Err("must be at least 5s".to_owned()) } else { Ok(limit) }
}

/// Reads how long a thread looks for more before it sleeps. A longer wait is not worth a core.
pub fn parse_busy_poll(text: &str) -> Result<Duration, String> {
    let limit = parse_duration(text)?;
    if limit > Duration::from_millis(1) { Err("must be at most 1ms".to_owned()) } else { Ok(limit) }
}

/// Reads a size in bytes: a whole number and nothing, `KiB`, `MiB`, `GiB` or `TiB` (also `K`, `M`, `G`, `T`), or `kB`,
/// `MB`, `GB`, `TB` in powers of a thousand.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 512MiB, 2GiB or 1000000".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "K" | "Ki" | "KiB" => 1 << 10,
        "M" | "Mi" | "MiB" => 1 << 20,
        "G" | "Gi" | "GiB" => 1 << 30,
        "T" | "Ti" | "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// Reads how long a head may be. Shorter ones would keep out browsers and tokens; longer ones are held in memory before
/// anybody is known.
pub fn parse_head_limit(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(|size| between(size, (8 << 10, "8KiB"), (1 << 20, "1MiB")))
}

/// Reads how long a body of the management API may be. The texts of a definition alone can have several times 64 KiB; a
/// body is held in memory.
pub fn parse_api_body_limit(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(|size| between(size, (64 << 10, "64KiB"), (16 << 20, "16MiB")))
}

fn between(size: u64, (least, at_least): (u64, &str), (most, at_most): (u64, &str)) -> Result<u64, String> {
    match size {
        size if size < least => Err(format!("must be at least {at_least}")),
        size if size > most => Err(format!("must be at most {at_most}")),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("0", 0), ("30", 30), ("30s", 30), ("5m", 300), ("2h", 7_200), ("1d", 86_400)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_connection_lifetime("5s"), Ok(Duration::from_secs(5)));
        assert!(parse_connection_lifetime("4s").is_err());
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_busy_poll("100us"), Ok(Duration::from_micros(100)));
        assert_eq!(parse_busy_poll("1ms"), Ok(Duration::from_millis(1)));
        assert!(parse_busy_poll("1001us").is_err());
        for wrong in ["", "s", "-1s", "1.5h", "1 week", "99999999999999999999", "18446744073709551615d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1000", 1_000), ("512MiB", 512 << 20), ("2G", 2 << 30), ("3 GB", 3_000_000_000)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (parse, least, most) in [
            (parse_head_limit as fn(&str) -> Result<u64, String>, 8 << 10, 1 << 20),
            (parse_api_body_limit, 64 << 10, 16 << 20),
        ] {
            for size in [least, most] {
                assert_eq!(parse(&size.to_string()), Ok(size));
            }
            assert!(parse(&(least - 1).to_string()).unwrap_err().starts_with("must be at least "));
            assert!(parse(&(most + 1).to_string()).unwrap_err().starts_with("must be at most "));
            assert!(parse("large").unwrap_err().starts_with("expected a size"));
        }
        for wrong in ["", "MiB", "-1", "1.5G", "1XB", "18446744073709551615K"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
