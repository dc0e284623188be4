//! The certificates of users and gateways, where they prove by them who they are.

use std::{fs, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::config::SWANCTL;

/// A certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "end users and gateways");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Puts the certificate of this identity, its key and the authority's own
    /// certificate where swanctl looks for them, below charon's folder.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn certify(&self, id: &str, folder: &Path) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, id);
        let name = id.try_into()?;
        let name =
            if id.contains('@') { SanType::Rfc822Name(name) } else { SanType::DnsName(name) };
        params.subject_alt_names = vec![name];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let swanctl = folder.join(SWANCTL);
        for (place, name, text) in [
            ("x509ca", "authority", self.certificate.clone()),
            ("x509", id, certificate.pem()),
            ("private", id, key.serialize_pem()),
        ] {
            fs::create_dir_all(swanctl.join(place))?;
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(swanctl.join(place).join(format!("{name}.pem")))?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
        }
        Ok(())
    }
}
