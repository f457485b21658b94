//! Numbers within bounds.

use std::ops::RangeInclusive;

/// A number that may be left out.
///
/// # Errors
/// A sentence that begins with the name of the field.
pub(super) fn within<T: TryFrom<i64>>(
    field: &str,
    written: Option<i64>,
    bounds: RangeInclusive<i64>,
) -> Result<Option<T>, String> {
    let Some(written) = written else { return Ok(None) };
    let (least, most) = (bounds.start(), bounds.end());
    let read = T::try_from(written).ok().filter(|_| bounds.contains(&written));
    match read {
        Some(number) => Ok(Some(number)),
        None => Err(format!("{field}: {written} is not between {least} and {most}")),
    }
}
