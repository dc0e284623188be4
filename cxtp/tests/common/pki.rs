//! Certificates, good and bad.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// Two authorities: the one that the daemons believe, and another.
pub(crate) struct Pki {
    pem: String,
    ours: Issuer<'static, KeyPair>,
    other: Issuer<'static, KeyPair>,
}

/// A certificate with its private key.
pub(crate) struct Paper {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    certificate_pem: String,
    key_pem: String,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let (pem, ours) = authority("ours");
        let (_, other) = authority("ours");
        Self { pem, ours, other }
    }

    /// A good certificate for a role and a name.
    pub(crate) fn paper(&self, uri: &str) -> Paper {
        issue(&self.ours, &[uri], valid_days(-1, 1))
    }

    /// One with several URIs, or none.
    pub(crate) fn paper_for(&self, uris: &[&str]) -> Paper {
        issue(&self.ours, uris, valid_days(-1, 1))
    }

    /// One that was good until yesterday.
    pub(crate) fn expired(&self, uri: &str) -> Paper {
        issue(&self.ours, &[uri], valid_days(-3, -1))
    }

    /// One that will be good tomorrow.
    pub(crate) fn not_yet_valid(&self, uri: &str) -> Paper {
        issue(&self.ours, &[uri], valid_days(1, 3))
    }

    /// One of the other authority, which even has the same name.
    pub(crate) fn of_other_authority(&self, uri: &str) -> Paper {
        issue(&self.other, &[uri], valid_days(-1, 1))
    }

    /// Writes what a daemon needs to a directory: `ca.pem`, `NAME.pem`, `NAME.key`.
    pub(crate) fn write(&self, name: &str, directory: &Path) {
        let paper = self.paper(&format!("cxtp://gateway/{name}"));
        fs::write(directory.join("ca.pem"), &self.pem).unwrap();
        fs::write(directory.join(format!("{name}.pem")), &paper.certificate_pem).unwrap();
        let key = directory.join(format!("{name}.key"));
        fs::write(&key, &paper.key_pem).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

impl Paper {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
}

fn valid_days(from: i64, to: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now + Duration::days(from), now + Duration::days(to))
}

fn issue(
    by: &Issuer<'static, KeyPair>,
    uris: &[&str],
    valid: (OffsetDateTime, OffsetDateTime),
) -> Paper {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = valid;
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    Paper {
        chain: vec![certificate.der().clone()],
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        key: PrivatePkcs8KeyDer::from(key.serialize_der()),
    }
}
