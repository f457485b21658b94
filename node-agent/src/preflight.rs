//! What the node must have before anything can be programmed, and what it should have, each in one sentence.

use anyhow::{Context, bail};

use crate::nft::driver::Tables;

/// The oldest kernel that has everything the table uses.
const KERNEL: (u32, u32) = (5, 15);

/// Checks what nothing works without.
///
/// # Errors
/// One sentence.
pub async fn require(tables: &Tables) -> anyhow::Result<()> {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    if !new_enough(&release) {
        bail!(
            "kernel {} is too old: Fairlead needs Linux {}.{} or later",
            release.trim(),
            KERNEL.0,
            KERNEL.1
        );
    }
    match tables.probe().await {
        Ok(()) => Ok(()),
        Err(error) if error.is_permission() => {
            bail!("not allowed to change nftables: the node agent needs CAP_NET_ADMIN")
        }
        Err(error) => bail!("the kernel offers no usable nf_tables ({error}): load the module nf_tables"),
    }
}

/// Looks at settings that keep traffic from flowing as it should, without being wrong in every case.
pub fn warnings() -> Vec<String> {
    judge(|name| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
        Some(text.trim().to_owned())
    })
}

fn judge(setting: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let is = |name: &str, value: &str| setting(name).as_deref() == Some(value);
    let mut warnings = Vec::new();
    if is("ipv4/ip_forward", "0") {
        warnings.push("net.ipv4.ip_forward is 0, so no packet reaches a pod: set it to 1".to_owned());
    }
    if is("netfilter/nf_conntrack_tcp_loose", "0") {
        warnings.push(
            "net.netfilter.nf_conntrack_tcp_loose is 0, so clients of a node that died wait for their time-outs \
             instead of being reset: set it to 1"
                .to_owned(),
        );
    }
    warnings
}

fn new_enough(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return true; // a version that cannot be read is no reason to refuse
    };
    (major, minor) >= KERNEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        for (release, expected) in [
            ("5.15.0-100-generic\n", true),
            ("6.1.0", true),
            ("5.10.0-30-amd64", false),
            ("4.18.0-513.el8", false),
            ("10.0", true),
            ("custom", true),
        ] {
            assert_eq!(new_enough(release), expected, "{release}");
        }
    }

    #[test]
    fn each_wrong_setting_has_its_sentence_and_an_absent_one_has_none() {
        assert!(judge(|_| None).is_empty());
        assert!(judge(|_| Some("1".into())).is_empty());
        let warnings = judge(|_| Some("0".into()));
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("ip_forward") && warnings[1].contains("tcp_loose"));
    }
}
