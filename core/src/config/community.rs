//! Communities as people write them.

/// A community, plain or large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Community {
    /// RFC 1997: the 32 bits.
    Plain(u32),
    /// RFC 8092: the three parts.
    Large([u32; 3]),
}

/// Communities with a name, in IANA's registry "BGP Well-known Communities"; `local-as` is what some routers call
/// `no-export-subconfed`.
pub const WELL_KNOWN_COMMUNITIES: &[(&str, u32)] = &[
    ("graceful-shutdown", 0xFFFF_0000),
    ("accept-own", 0xFFFF_0001),
    ("llgr-stale", 0xFFFF_0006),
    ("no-llgr", 0xFFFF_0007),
    ("blackhole", 0xFFFF_029A),
    ("no-export", 0xFFFF_FF01),
    ("no-advertise", 0xFFFF_FF02),
    ("no-export-subconfed", 0xFFFF_FF03),
    ("local-as", 0xFFFF_FF03),
    ("no-peer", 0xFFFF_FF04),
];

/// Reads `65000:1`, `large:65000:1:2` or the name of a well-known one.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse(text: &str) -> Result<Community, String> {
    if let Some((_, bits)) = WELL_KNOWN_COMMUNITIES.iter().find(|(name, _)| *name == text) {
        return Ok(Community::Plain(*bits));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let community = match parts[..] {
        [high, low] => {
            let half = |part: &str| digits(part)?.try_into().ok().map(|half: u16| u32::from(half));
            half(high)
                .zip(half(low))
                .map(|(high, low)| Community::Plain(high << 16 | low))
        }
        ["large", global, first, second] => {
            let read = || Some([digits(global)?, digits(first)?, digits(second)?]);
            read().map(Community::Large)
        }
        _ => None,
    };
    community.ok_or_else(|| {
        format!(
            "\"{text}\" is neither a community (65000:1), nor a large one (large:65000:1:2), nor the name of a \
             well-known one"
        )
    })
}

/// Digits alone: `u32::from_str` would take a sign, too.
fn digits(text: &str) -> Option<u32> {
    text.bytes()
        .all(|c| c.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_numbers() {
        for (text, expected) in [
            ("65000:1", Community::Plain(0xFDE8_0001)),
            ("0:0", Community::Plain(0)),
            ("65535:65535", Community::Plain(u32::MAX)),
            ("graceful-shutdown", Community::Plain(0xFFFF_0000)),
            ("65535:666", parse("blackhole").unwrap()),
            ("local-as", parse("no-export-subconfed").unwrap()),
            (
                "large:4200000000:1:4294967295",
                Community::Large([4_200_000_000, 1, u32::MAX]),
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            ":",
            "1",
            "65536:1",
            "1:65536",
            "+1:1",
            "1:-1",
            "1:1:1",
            "large:1:1",
            "large:1:1:4294967296",
            "Large:1:1:1",
            "no-such",
            "no-export ",
            "1: 1",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("\"{text}\" is neither")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_numbers_are_read_back(high: u16, low: u16, large: [u32; 3]) {
            let plain = u32::from(high) << 16 | u32::from(low);
            prop_assert_eq!(parse(&format!("{high}:{low}")), Ok(Community::Plain(plain)));
            let [a, b, c] = large;
            prop_assert_eq!(parse(&format!("large:{a}:{b}:{c}")), Ok(Community::Large(large)));
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,30}") {
            let _ = parse(&text);
        }
    }
}
