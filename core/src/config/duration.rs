//! Durations as people write them: `300ms`, `2s`, `1m30s`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Reads a duration: whole numbers, each with one of the units `ms`, `s`, `m` and `h`, added up. Fractions are not read.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse(text: &str) -> Result<Duration, String> {
    let unreadable = || format!("\"{text}\" is not a duration like 300ms, 2s or 1m30s");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let number: u32 = number.parse().map_err(|_| unreadable())?;
        // `ms` before `m`, which it begins with.
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
        let (left, millis) = units
            .iter()
            .find_map(|(unit, millis)| Some((after.strip_prefix(unit)?, *millis)))
            .ok_or_else(unreadable)?;
        total = total.saturating_add(Duration::from_millis(u64::from(number) * millis));
        rest = left;
    }
    if text.is_empty() {
        Err(unreadable())
    } else {
        Ok(total)
    }
}

/// Reads a duration that must lie between two others.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse_within(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = parse(text)?;
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (bounds.start(), bounds.end());
    Err(format!("\"{text}\" is not between {least:?} and {most:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_and_what_is_not() {
        let millis = |text: &str| parse(text).map(|duration| duration.as_millis());
        for (text, expected) in [
            ("0s", 0),
            ("300ms", 300),
            ("2s", 2000),
            ("5m", 300_000),
            ("1m30s", 90_000),
            ("1h2m3s4ms", 3_723_004),
            ("4294967295h", 15_461_882_262_000_000),
        ] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "ms",
            "1.5s",
            "-1s",
            "+1s",
            "1 s",
            " 1s",
            "1s ",
            "1sm",
            "1d",
            "1µs",
            "1S",
            "Never",
            "٣s",
            "4294967296s",
        ] {
            assert!(
                millis(text).unwrap_err().contains(&format!("\"{text}\"")),
                "{text}"
            );
        }
    }

    #[test]
    fn bounds_are_inclusive() {
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
        assert!(parse_within("100ms", &bounds).is_ok() && parse_within("1m", &bounds).is_ok());
        assert!(parse_within("99ms", &bounds).is_err() && parse_within("60s1ms", &bounds).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9msh .-]{0,12}|\\PC{0,12}") {
            let _ = parse(&text);
        }
    }
}
