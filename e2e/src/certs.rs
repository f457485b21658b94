//! Keys and certificates of a cluster (ECDSA P-256), and the kubeconfigs made of them.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::{
    error::{Doing, LabError, Result},
    state::{Paths, write_whole},
    topology::Place,
};

/// Where the programs of the cluster find the API server.
const API_INSIDE: &str = "https://172.30.0.2:6443";
/// Names and addresses under which the API server is reached.
const API_NAMES: [&str; 10] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    "172.30.0.2",
    "fd00:30::2",
    "10.96.0.1",
    "fd00:10:96::1",
];
/// Users of the API: file name, user name, group.
const USERS: [(&str, &str, Option<&str>); 6] = [
    ("admin", "lab-admin", Some("system:masters")),
    ("kube-controller-manager", "system:kube-controller-manager", None),
    ("kube-scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
    ("coredns", "system:coredns", None),
    (
        "kube-apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
    ),
];

/// A file of the lab's `pki` directory.
pub(crate) fn file(paths: &Paths, name: &str) -> PathBuf {
    paths.pki().join(name)
}

/// Makes all keys, certificates and kubeconfigs, once: the last file written tells that all are there.
pub(crate) fn ensure(paths: &Paths, nodes: u8, api_port: u16) -> Result<()> {
    let complete = file(paths, "complete");
    if complete.exists() {
        return Ok(());
    }
    let dir = paths.pki();
    fs::create_dir_all(&dir).doing(format!("create {}", dir.display()))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).doing("protect the keys")?;

    let ca = authority(&dir, "ca", "kubernetes")?;
    for (name, user, group) in USERS {
        let pair = client(&ca, user, group)?;
        pair.write(&dir, name)?;
        kubeconfig(&dir.join(format!("{name}.kubeconfig")), API_INSIDE, &ca, &pair)?;
        if name == "admin" {
            kubeconfig(
                &paths.kubeconfig(),
                &format!("https://127.0.0.1:{api_port}"),
                &ca,
                &pair,
            )?;
        }
    }
    server(&ca, "kube-apiserver", &API_NAMES.map(str::to_owned))?.write(&dir, "kube-apiserver")?;
    for node in (1..=nodes).map(Place::Node) {
        let name = node.name();
        let pair = client(&ca, &format!("system:node:{name}"), Some("system:nodes"))?;
        kubeconfig(&dir.join(format!("{name}.kubeconfig")), API_INSIDE, &ca, &pair)?;
        let mut names = vec![name.clone()];
        names.extend(
            node.uplink()
                .into_iter()
                .flat_map(|i| [i.v4.to_string(), i.v6.to_string()]),
        );
        server(&ca, &format!("system:node:{name}"), &names)?.write(&dir, &format!("{name}-serving"))?;
    }
    let front = authority(&dir, "front-proxy-ca", "front-proxy-ca")?;
    client(&front, "front-proxy-client", None)?.write(&dir, "front-proxy-client")?;
    let account = KeyPair::generate()?;
    write_whole(
        &dir.join("service-account.key"),
        account.serialize_pem().as_bytes(),
    )?;
    write_whole(
        &dir.join("service-account.pub"),
        account.public_key_pem().as_bytes(),
    )?;
    write_whole(&complete, b"")
}

type Authority = CertifiedIssuer<'static, KeyPair>;

struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn write(&self, dir: &Path, name: &str) -> Result<()> {
        write_whole(&dir.join(format!("{name}.crt")), self.certificate.as_bytes())?;
        write_whole(&dir.join(format!("{name}.key")), self.key.as_bytes())
    }
}

fn params(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params
}

fn authority(dir: &Path, file: &str, name: &str) -> Result<Authority> {
    let mut params = params(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    Pair {
        certificate: ca.pem(),
        key: ca.key().serialize_pem(),
    }
    .write(dir, file)?;
    Ok(ca)
}

fn signed(ca: &Authority, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Pair> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn client(ca: &Authority, user: &str, group: Option<&str>) -> Result<Pair> {
    signed(ca, params(user, group), ExtendedKeyUsagePurpose::ClientAuth)
}

fn server(ca: &Authority, name: &str, also: &[String]) -> Result<Pair> {
    let mut params = params(name, None);
    for entry in also {
        params.subject_alt_names.push(match entry.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(entry.as_str().try_into()?),
        });
    }
    signed(ca, params, ExtendedKeyUsagePurpose::ServerAuth)
}

/// A kubeconfig that holds all it needs, so that it can be copied elsewhere. JSON is YAML.
fn kubeconfig(path: &Path, api: &str, ca: &Authority, user: &Pair) -> Result<()> {
    // ByteString serialises as base64.
    let encoded = |pem: &str| ByteString(pem.as_bytes().to_vec());
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": api,
            "certificate-authority-data": encoded(&ca.pem()),
        }}],
        "users": [{"name": "lab", "user": {
            "client-certificate-data": encoded(&user.certificate),
            "client-key-data": encoded(&user.key),
        }}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    let text = serde_json::to_vec_pretty(&config).map_err(|source| LabError::Json {
        what: path.display().to_string(),
        source,
    })?;
    write_whole(path, &text)
}
