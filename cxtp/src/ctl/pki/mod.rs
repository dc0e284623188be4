//! `pki`: a public key infrastructure for tests and first steps.
//!
//! In its directory stand `ca.pem` and `ca.key`, and for each peer `NAME.pem` and
//! `NAME.key`, for a gateway `NAME.seal.key` and `NAME.seal.pub` (X25519, in
//! hexadecimal), for a controller `NAME.order.key` (Ed25519, PKCS#8 in PEM) and
//! `NAME.order.pub` (in hexadecimal).

pub(super) mod config;

use std::{
    fmt::Display,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use protocol_spec::id::{Identity, Name, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType,
};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{
    args::RoleArg,
    files::{self, NewFiles, PRIVATE, PUBLIC},
    outcome::{Answer, Exit, Problem},
};
use crate::service::seal::{SealKey, to_hex};

/// The authority's name: the same in each, since its key tells it from others.
const AUTHORITY: &str = "CXTP test authority";

/// Makes a certificate authority.
pub(super) fn init(dir: &Path, days: u16) -> Result<Answer, Problem> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Problem::file(format!("{} cannot be made: {error}", dir.display())))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = authority(days)?.self_signed(&key).map_err(failed)?;

    let mut files = NewFiles::default();
    files.add(&dir.join("ca.pem"), PUBLIC, certificate.pem())?;
    files.add(&dir.join("ca.key"), PRIVATE, key.serialize_pem())?;
    let names = files.write()?;
    let text = format!(
        "a test authority for {days} days is in {0}\nnext: cxtpctl pki issue --dir {0} gateway NAME",
        dir.display()
    );
    Ok(Answer::done(text, &json!({"dir": dir.display().to_string(), "days": days, "files": names})))
}

/// Issues a certificate, and the further keys that the role needs.
pub(super) fn issue(dir: &Path, role: RoleArg, name: &Name, days: u16) -> Result<Answer, Problem> {
    let identity = Identity { role: role.into(), name: name.clone() };
    let issuer = Issuer::new(authority(days)?, authority_key(dir)?);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = peer(&identity, days)?.signed_by(&key, &issuer).map_err(failed)?;

    let at = |ending: &str| dir.join(format!("{name}.{ending}"));
    let mut files = NewFiles::default();
    files.add(&at("pem"), PUBLIC, certificate.pem())?;
    files.add(&at("key"), PRIVATE, key.serialize_pem())?;
    match identity.role {
        Role::Gateway => {
            let key = SealKey::generate();
            let public = key.public().map_err(failed)?;
            files.add(&at("seal.key"), PRIVATE, key.to_text().as_bytes())?;
            files.add(&at("seal.pub"), PUBLIC, format!("{public}\n"))?;
        }
        Role::Controller => {
            let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
            files.add(&at("order.key"), PRIVATE, key.serialize_pem())?;
            files.add(
                &at("order.pub"),
                PUBLIC,
                format!("{}\n", to_hex(key.public_key_raw()).as_str()),
            )?;
        }
        Role::Client => (),
    }
    let names = files.write()?;
    let text = format!("{identity} for {days} days:\n  {}", names.join("\n  "));
    let facts = json!({"identity": identity.to_string(), "days": days, "files": names});
    Ok(Answer::done(text, &facts))
}

fn authority_key(dir: &Path) -> Result<KeyPair, Problem> {
    let path = dir.join("ca.key");
    if !fs::exists(&path).unwrap_or(false) {
        return Err(Problem::file(format!(
            "{} is not there: make the authority first with `cxtpctl pki init --dir {}`",
            path.display(),
            dir.display()
        )));
    }
    let pem = files::read_private(&path)?;
    KeyPair::from_pem(&pem).map_err(|_| {
        Problem::file(format!("{} is not a private key in PEM (PKCS#8)", path.display()))
    })
}

fn authority(days: u16) -> Result<CertificateParams, Problem> {
    let mut params = valid_for(days)?;
    params.distinguished_name = named(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn peer(identity: &Identity, days: u16) -> Result<CertificateParams, Problem> {
    let mut params = valid_for(days)?;
    params.distinguished_name = named(identity.name.as_str());
    let uri = identity.to_string().try_into().map_err(failed)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn valid_for(days: u16) -> Result<CertificateParams, Problem> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    let now = OffsetDateTime::now_utc();
    // Clocks of two machines differ a little.
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(days.into());
    Ok(params)
}

fn failed(error: impl Display) -> Problem {
    Problem::new(Exit::NotDone, "pki", format!("the key or certificate cannot be made: {error}"))
}
