//! What nft notes about rules and sets for itself: comments, and how to print types. The kernel only keeps it. Short
//! records of kind, length and value; numbers are in the order of the host.

use super::object::{DataSpec, Field, Origin, SetSpec, Type};

/// Of a rule: its comment.
const RULE_COMMENT: u8 = 0;
/// Of a set: order of the bytes of keys, of data, expressions that have the type of the key, of the data, and whether
/// data are ranges.
const KEY_ORDER: u8 = 0;
const DATA_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_RANGE: u8 = 6;
/// Order of bytes: none, that of the host, or big-endian.
const NO_ORDER: u32 = 0;
const HOST_ORDER: u32 = 1;
const BIG_ENDIAN: u32 = 2;
/// Kinds of expressions (`enum expr_types` of nft).
const PAYLOAD: u32 = 7;
const META: u32 = 9;
const CONCAT: u32 = 13;
const NUMGEN: u32 = 23;

/// A rule's comment as user data. Longer than 128 bytes is more than nft takes.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let mut record = Vec::new();
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    put(&mut record, RULE_COMMENT, &bytes);
    record
}

/// Reads the comment in the user data of a rule.
pub(crate) fn read_comment(mut data: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = data {
        let (value, after) = rest.split_at_checked(usize::from(*length))?;
        if *kind == RULE_COMMENT {
            return std::str::from_utf8(value.strip_suffix(&[0])?).ok();
        }
        data = after;
    }
    None
}

/// User data of a set.
pub(crate) fn set(spec: &SetSpec) -> Vec<u8> {
    let mut data = Vec::new();
    number(&mut data, KEY_ORDER, order(&spec.key));
    match &spec.data {
        None => {}
        Some(DataSpec::Verdict) => number(&mut data, DATA_ORDER, NO_ORDER),
        Some(DataSpec::Fields(fields)) => number(&mut data, DATA_ORDER, order(fields)),
    }
    type_of(&mut data, KEY_TYPEOF, &spec.key);
    if let Some(DataSpec::Fields(fields)) = &spec.data {
        type_of(&mut data, DATA_TYPEOF, fields);
    }
    if spec.data.is_some() {
        number(&mut data, DATA_RANGE, 0);
    }
    data
}

fn order(fields: &[Field]) -> u32 {
    match fields {
        [one] if matches!(one.kind, Type::Integer | Type::Name) => HOST_ORDER,
        [_] => BIG_ENDIAN,
        _ => NO_ORDER,
    }
}

/// An expression with the type of the fields, if it takes one to say it. Several fields of named types are a
/// concatenation of nothing.
fn type_of(data: &mut Vec<u8>, kind: u8, fields: &[Field]) {
    if let [one] = fields {
        if let Some(origin) = one.origin {
            let mut expression = Vec::new();
            write_origin(&mut expression, origin);
            put(data, kind, &expression);
        }
        return;
    }
    let mut inner = Vec::new();
    for (index, field) in (0u8..).zip(fields) {
        let Some(origin) = field.origin else { continue };
        let mut expression = Vec::new();
        write_origin(&mut expression, origin);
        put(&mut inner, index, &expression);
    }
    let mut concat = Vec::new();
    expression(&mut concat, CONCAT, &inner);
    put(data, kind, &concat);
}

fn write_origin(data: &mut Vec<u8>, origin: Origin) {
    // Numbers of protocols and of their fields in nft.
    const IP: u32 = 12;
    const IP6: u32 = 13;
    const ANY_TRANSPORT: u32 = 11;
    const ICMPV6: u32 = 14;
    let (kind, values): (u32, &[u32]) = match origin {
        Origin::Source4 => (PAYLOAD, &[IP, 11]),
        Origin::Destination4 => (PAYLOAD, &[IP, 12]),
        Origin::Source6 => (PAYLOAD, &[IP6, 8]),
        Origin::Destination6 => (PAYLOAD, &[IP6, 9]),
        Origin::Port => (PAYLOAD, &[ANY_TRANSPORT, 2]),
        Origin::IcmpKind => (PAYLOAD, &[ICMPV6, 1]),
        Origin::Protocol => (META, &[16]),
        // One after another, below two, from nought.
        Origin::Number => (NUMGEN, &[0, 2, 0]),
    };
    let mut inner = Vec::new();
    for (index, value) in (0u8..).zip(values) {
        number(&mut inner, index, *value);
    }
    expression(data, kind, &inner);
}

fn expression(data: &mut Vec<u8>, kind: u32, inner: &[u8]) {
    number(data, 0, kind);
    put(data, 1, inner);
}

fn number(data: &mut Vec<u8>, kind: u8, value: u32) {
    put(data, kind, &value.to_ne_bytes());
}

fn put(data: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // No record of ours comes near the limit.
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    data.extend_from_slice(&[kind, length]);
    data.extend_from_slice(&value[..usize::from(length)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_comment_is_read_again(text in "[ -~]{0,120}") {
            let record = comment(&text);
            prop_assert_eq!(read_comment(&record), Some(text.as_str()));
        }

        #[test]
        fn garbage_is_no_comment_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_comment(&bytes);
        }
    }
}
