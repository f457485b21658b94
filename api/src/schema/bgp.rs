//! Schemas of the fields of `BGPPeer` and `BGPAdvertisement`.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::{duration, list, rule, schema, text};

/// Rule on a peer. What is no address is told where it stands.
pub(crate) const SAME_FAMILY: &str = "!has(self.sourceAddress) || !has(self.address) || \
     !isIP(self.sourceAddress) || !isIP(self.address) || \
     ip(self.sourceAddress).family() == ip(self.address).family()";

/// Rule on a peer. What is no duration is told where it stands.
pub(crate) const KEEPALIVE_BELOW_HOLD: &str = "!has(self.keepaliveTime) || \
     !self.keepaliveTime.matches('^([0-9]{1,6}(s|m|h))+$') || \
     (has(self.holdTime) && !self.holdTime.matches('^([0-9]{1,6}(s|m|h))+$')) || \
     duration(self.keepaliveTime) < duration(has(self.holdTime) ? self.holdTime : '90s')";

/// An autonomous system number that routers may have: 1 to 4294967294, without AS_TRANS and the last of two bytes.
pub(crate) fn asn(_: &mut SchemaGenerator) -> Schema {
    // No `messageExpression`: the API server takes `string(n)` for a text without limit.
    schema(json!({
        "type": "integer", "format": "int64", "minimum": 1, "maximum": 4_294_967_294_u32,
        "x-kubernetes-validations": [{
            "rule": "!(self in [23456, 65535])",
            "message": "23456 and 65535 are reserved: no router may have them",
        }],
    }))
}

/// The same, `internal` or `external`.
pub(crate) fn remote_asn(_: &mut SchemaGenerator) -> Schema {
    schema(json!({
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": [{
            "rule": "type(self) == int ? self >= 1 && self <= 4294967294 && !(self in [23456, 65535]) : \
                     self in ['internal', 'external']",
            "message": "must be an autonomous system number (1 to 4294967294, but neither 23456 nor 65535, which are \
                        reserved), internal or external",
        }],
    }))
}

/// The address of a router.
pub(crate) fn peer_address(_: &mut SchemaGenerator) -> Schema {
    schema(address(
        "is a link-local address: name the interface in spec.interface instead",
    ))
}

/// An address of a node.
pub(crate) fn source_address(_: &mut SchemaGenerator) -> Schema {
    schema(address("is a link-local address"))
}

fn address(link_local: &str) -> Value {
    let readable = rule("isIP(self)", "'\"' + self + '\" is not an IP address'");
    let v6_link_local = "ip(self).family() == 6 && ip(self).isLinkLocalUnicast()";
    let numbered = rule(
        &format!("!isIP(self) || !({v6_link_local})"),
        &format!("'\"' + self + '\" {link_local}'"),
    );
    let usable = rule(
        "!isIP(self) || ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast()",
        "'\"' + self + '\" is no address of a router: it is unspecified, loopback, multicast or broadcast'",
    );
    text(1, 45, &[readable, numbered, usable])
}

/// The name of a network interface.
pub(crate) fn interface(_: &mut SchemaGenerator) -> Schema {
    let name = rule(
        r"self.matches('^[^!*?/:\\s\\[\\]{}]{1,15}$') && !self.matches('^[.][.]?$')",
        "'\"' + self + '\" is not the name of a network interface'",
    );
    schema(text(1, 15, &[name]))
}

/// A TCP port.
pub(crate) fn port(_: &mut SchemaGenerator) -> Schema {
    number(1, 65_535)
}

/// TTL of an eBGP session over several hops.
pub(crate) fn ebgp_multihop(_: &mut SchemaGenerator) -> Schema {
    number(2, 255)
}

/// Hops.
pub(crate) fn ttl_security(_: &mut SchemaGenerator) -> Schema {
    number(1, 254)
}

/// How many packets of BFD may be missing.
pub(crate) fn bfd_multiplier(_: &mut SchemaGenerator) -> Schema {
    number(2, 255)
}

/// Length of IPv4 networks.
pub(crate) fn aggregation_v4(_: &mut SchemaGenerator) -> Schema {
    number(1, 32)
}

/// Length of IPv6 networks.
pub(crate) fn aggregation_v6(_: &mut SchemaGenerator) -> Schema {
    number(1, 128)
}

/// 32 bits.
pub(crate) fn unsigned_32(_: &mut SchemaGenerator) -> Schema {
    number(0, u32::MAX)
}

/// How often to prepend.
pub(crate) fn prepend(_: &mut SchemaGenerator) -> Schema {
    number(0, 10)
}

fn number(least: u32, most: u32) -> Schema {
    schema(json!({"type": "integer", "format": "int64", "minimum": least, "maximum": most}))
}

/// Without a message for this long a session is over.
pub(crate) fn hold_time(_: &mut SchemaGenerator) -> Schema {
    seconds("3s", "65535s")
}

/// Between two messages that keep a session alive.
pub(crate) fn keepalive_time(_: &mut SchemaGenerator) -> Schema {
    seconds("1s", "21845s")
}

/// Between two attempts to connect.
pub(crate) fn connect_retry_time(_: &mut SchemaGenerator) -> Schema {
    seconds("2s", "3600s")
}

/// The 12 bits of RFC 4724.
pub(crate) fn restart_time(_: &mut SchemaGenerator) -> Schema {
    seconds("1s", "4095s")
}

/// The 24 bits of RFC 9494.
pub(crate) fn long_lived_time(_: &mut SchemaGenerator) -> Schema {
    seconds("1s", "16777215s")
}

/// Between two packets of BFD.
pub(crate) fn bfd_interval(_: &mut SchemaGenerator) -> Schema {
    schema(duration("10ms", "60s", ""))
}

/// A duration as BGP can tell it.
fn seconds(least: &str, most: &str) -> Schema {
    let form = "self.matches('^([0-9]{1,6}(s|m|h))+$')";
    let readable = rule(
        form,
        "'\"' + self + '\" is not a number of whole seconds like 9s, 90s or 1m30s'",
    );
    let within = rule(
        &format!(
            "!{form} || (duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))"
        ),
        &format!("'\"' + self + '\" is not between {least} and {most}'"),
    );
    schema(text(1, 16, &[readable, within]))
}

/// The name of a Secret.
pub(crate) fn secret_name(_: &mut SchemaGenerator) -> Schema {
    schema(text(1, 253, &[object_name("a Secret")]))
}

/// Names of BGPPeers.
pub(crate) fn peer_names(_: &mut SchemaGenerator) -> Schema {
    list(64, text(1, 253, &[object_name("a BGPPeer")]))
}

fn object_name(kind: &str) -> Value {
    rule(
        "!format.dns1123Subdomain().validate(self).hasValue()",
        &format!("'\"' + self + '\" is not the name of {kind}: lower-case letters, digits, \"-\" and \".\"'"),
    )
}

/// Families of routes.
pub(crate) fn families(_: &mut SchemaGenerator) -> Schema {
    schema(json!({
        "type": "array", "maxItems": 2, "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": ["IPv4", "IPv6"]},
    }))
}

/// Communities, large communities and names of well-known ones.
pub(crate) fn communities(_: &mut SchemaGenerator) -> Schema {
    let plain = "self.matches('^[0-9]{1,5}:[0-9]{1,5}$')";
    let large = "self.matches('^large:[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$')";
    let names: Vec<String> = fairlead_core::config::WELL_KNOWN_COMMUNITIES
        .iter()
        .map(|(name, _)| format!("'{name}'"))
        .collect();
    let readable = rule(
        &format!("{plain} || {large} || self in [{}]", names.join(", ")),
        "'\"' + self + '\" is neither a community (65000:1), nor a large one (large:65000:1:2), nor the name of a \
         well-known one'",
    );
    let parts = |form: &str, from: usize, most: u64| {
        rule(
            &format!("!{form} || self.substring({from}).split(':').all(part, int(part) <= {most})"),
            &format!("'\"' + self + '\" has a part of more than {most}'"),
        )
    };
    let entry = text(
        1,
        40,
        &[
            readable,
            parts(plain, 0, u64::from(u16::MAX)),
            parts(large, 6, u64::from(u32::MAX)),
        ],
    );
    list(32, entry)
}
