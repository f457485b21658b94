//! Schemas of fields that appear in several kinds, with the CEL rules that the API server checks them by.
//!
//! Every list and every text has a limit: the API server estimates what a rule costs at the most before it accepts it.
//! Rules stand on the single entry, so that an error names the entry's place and its message can quote it.

mod bgp;

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

pub(crate) use bgp::*;

/// Texts of the two ends of a range `first-last`.
const FIRST: &str = "self.substring(0, self.indexOf('-')).trim()";
const LAST: &str = "self.substring(self.indexOf('-') + 1).trim()";

/// CIDRs, ranges and single addresses.
pub(crate) fn addresses(_: &mut SchemaGenerator) -> Schema {
    list(256, text(1, 100, &address_rules()))
}

fn address_rules() -> Vec<Value> {
    let is_range = format!("(self.contains('-') && isIP({FIRST}) && isIP({LAST}))");
    let families_differ = format!("ip({FIRST}).family() != ip({LAST}).family()");
    vec![
        // `isIP` and `isCIDR` take no IPv4-mapped address, no zone, no leading zeros.
        rule(
            &format!("isCIDR(self) || isIP(self) || {is_range}"),
            "self.lowerAscii().matches('(^|-) *(0*:)+ffff:') ? \
             '\"' + self + '\" is an IPv4-mapped IPv6 address; write it as IPv4' : \
             '\"' + self + '\" is neither a CIDR (192.0.2.0/24), nor a range (192.0.2.10-192.0.2.20), nor an IP address'",
        ),
        rule(
            "!isCIDR(self) || cidr(self) == cidr(self).masked()",
            "'\"' + self + '\" has bits set outside its prefix: write 192.0.2.0/24, not 192.0.2.1/24'",
        ),
        rule(
            "!isCIDR(self) || cidr(self).prefixLength() >= 8",
            "'\"' + self + '\" is too large: at the most a /8'",
        ),
        rule(
            &format!(
                "isCIDR(self) ? cidr(self).ip().isGlobalUnicast() : isIP(self) ? ip(self).isGlobalUnicast() : \
                 !{is_range} || (ip({FIRST}).isGlobalUnicast() && ip({LAST}).isGlobalUnicast())"
            ),
            "'\"' + self + '\" is no use for Services: an unspecified, loopback, link-local, multicast or broadcast address'",
        ),
        rule(
            &format!("!{is_range} || !({families_differ})"),
            "'\"' + self + '\" mixes IPv4 and IPv6'",
        ),
        rule(
            &format!("!{is_range} || {families_differ} || {}", in_order()),
            "'\"' + self + '\" ends before it begins'",
        ),
    ]
}

/// Is the first end of a range not behind the last? CEL has no order on addresses. But of two that differ the first is
/// the smaller one exactly if it has 0 where they differ first: if the network of the bits they have in common begins
/// where the first one's network of one bit more begins.
///
/// The bits in common are counted by eights, then one by one. Lengths of prefixes come out of a table, since the API
/// server takes `string(n)` for a text without limit; lists of one element give names to values.
fn in_order() -> String {
    let table: String = (0..=128)
        .map(|bits| format!("{:<4}", format!("/{bits}")))
        .collect();
    let network = |bits: &str| format!("cidr(f + lengths.substring(4 * ({bits}), 4 * ({bits}) + 4).trim())");
    let both_in = |bits: &str| format!("{}.containsIP(l)", network(bits));
    format!(
        "[{FIRST}].exists(f, [{LAST}].exists(l, ip(f) == ip(l) || ['{table}'].exists(lengths, \
         [8 * [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120]\
         .filter(b, (b < 32 || ip(f).family() == 6) && {}).size() - 8].exists(b, \
         [b + [0, 1, 2, 3, 4, 5, 6, 7].filter(k, {}).size() - 1].exists(n, \
         {}.masked().ip() == {}.masked().ip())))))",
        both_in("b"),
        both_in("b + k"),
        network("n + 1"),
        network("n"),
    )
}

/// Names of namespaces.
pub(crate) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    let name = rule(
        "!format.dns1123Label().validate(self).hasValue()",
        "'\"' + self + '\" is not the name of a namespace: lower-case letters, digits and \"-\"'",
    );
    list(256, text(1, 63, &[name]))
}

/// Names of AddressPools.
pub(crate) fn pool_names(_: &mut SchemaGenerator) -> Schema {
    let name = rule(
        "!format.dns1123Subdomain().validate(self).hasValue()",
        "'\"' + self + '\" is not the name of an AddressPool: lower-case letters, digits, \"-\" and \".\"'",
    );
    list(256, text(1, 253, &[name]))
}

/// Names of network interfaces, as the kernel allows them, and patterns of names.
pub(crate) fn interfaces(_: &mut SchemaGenerator) -> Schema {
    let name = rule(
        r"self.matches('^!?[^!/:\\s\\[\\]{}][^/:\\s\\[\\]{}]{0,14}$') && !self.matches('^!?[.][.]?$')",
        "'\"' + self + '\" is neither the name of a network interface nor a pattern of names'",
    );
    list(64, text(1, 16, &[name]))
}

/// Weights with label selectors.
pub(crate) fn preferences(_: &mut SchemaGenerator) -> Schema {
    let entry = json!({
        "description": "Nodes that come before others.",
        "type": "object",
        "required": ["weight", "preference"],
        "properties": {
            "weight": {
                "description": "How much they are preferred.",
                "type": "integer",
                "format": "int32",
                "minimum": 1,
                "maximum": 100,
            },
            "preference": described("Which nodes.", selector_value()),
        },
    });
    list(16, entry)
}

/// From the start of one probe to the start of the next.
pub(crate) fn probe_interval(_: &mut SchemaGenerator) -> Schema {
    schema(duration("100ms", "60s", ""))
}

/// For one whole probe.
pub(crate) fn probe_timeout(_: &mut SchemaGenerator) -> Schema {
    schema(duration("50ms", "60s", ""))
}

/// Rule on an object with both. What is no duration is told where it stands.
pub(crate) const TIMEOUT_WITHIN_INTERVAL: &str = "!has(self.interval) || !has(self.timeout) || \
     !self.interval.matches('^([0-9]{1,6}(ms|s|m|h))+$') || !self.timeout.matches('^([0-9]{1,6}(ms|s|m|h))+$') || \
     duration(self.timeout) <= duration(self.interval)";

/// A duration, or `Never`.
pub(crate) fn preempt_after(_: &mut SchemaGenerator) -> Schema {
    schema(duration("0s", "24h", "Never"))
}

/// A duration within bounds, or this word.
fn duration(least: &str, most: &str, word: &str) -> Value {
    let form = "self.matches('^([0-9]{1,6}(ms|s|m|h))+$')";
    let (other, or_word) = match word {
        "" => (String::new(), String::new()),
        word => (format!("self == '{word}' || "), format!(", nor {word}")),
    };
    let readable = rule(
        &format!("{other}{form}"),
        &format!("'\"' + self + '\" is not a duration like 300ms, 2s or 1m30s{or_word}'"),
    );
    // Read only if it has the form, so that it is the rule above that speaks.
    let within = rule(
        &format!(
            "!{form} || (duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))"
        ),
        &format!("'\"' + self + '\" is not between {least} and {most}'"),
    );
    text(1, 16, &[readable, within])
}

/// A label selector.
pub(crate) fn selector(_: &mut SchemaGenerator) -> Schema {
    schema(selector_value())
}

/// A list of label selectors.
pub(crate) fn selectors(_: &mut SchemaGenerator) -> Schema {
    list(64, selector_value())
}

/// A short list of label selectors.
pub(crate) fn few_selectors(_: &mut SchemaGenerator) -> Schema {
    list(16, selector_value())
}

fn selector_value() -> Value {
    // By hand, since the API server takes the format `labelValue` for more costly than it is. The length is limited.
    let label_value = rule(
        "self == '' || self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
        "'\"' + self + '\" cannot be the value of a label'",
    );
    let key = rule(
        "!format.qualifiedName().validate(self).hasValue()",
        "'\"' + self + '\" cannot be the name of a label'",
    );
    let values = rule(
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
        "'operator ' + self.operator + ' of \"' + self.key + '\" ' + \
         (self.operator in ['In', 'NotIn'] ? 'needs values' : 'takes no values')",
    );
    json!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels that must be there, with these values.",
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": text(0, 63, std::slice::from_ref(&label_value)),
            },
            "matchExpressions": {
                "description": "Requirements on labels; all must hold.",
                "type": "array",
                "maxItems": 16,
                "items": {
                    "description": "A requirement on one label.",
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": described("The name of the label.", text(1, 317, &[key])),
                        "operator": {
                            "description": "`In` and `NotIn` need values, `Exists` and `DoesNotExist` take none.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values of `In` and `NotIn`.",
                            "type": "array",
                            "maxItems": 32,
                            "items": text(0, 63, &[label_value]),
                        },
                    },
                    "x-kubernetes-validations": [values],
                },
            },
        },
    })
}

fn list(most: usize, items: Value) -> Schema {
    schema(json!({"type": "array", "maxItems": most, "items": items}))
}

fn text(shortest: usize, longest: usize, rules: &[Value]) -> Value {
    json!({"type": "string", "minLength": shortest, "maxLength": longest, "x-kubernetes-validations": rules})
}

fn described(description: &str, mut value: Value) -> Value {
    value["description"] = json!(description);
    value
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "messageExpression": message})
}

fn schema(value: Value) -> Schema {
    match value {
        Value::Object(map) => map.into(),
        _ => Schema::default(),
    }
}
