//! Who is who: TLS 1.3 with certificates on both sides, all under one
//! authority. A certificate says who it is for in exactly one `cxtp://` URI
//! (subject alternative name), and nothing else in it counts as a name.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol_spec::{
    id::{Identity, Name, Role},
    message::ALPN,
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::{hkdf, hmac};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::service::config::TlsFiles;

/// Why credentials cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others than the owner can read a secret.
    #[error(
        "{}: its mode is {mode:04o}, so that others can read this private key; run `chmod 600 {}` and think about a new key",
        path.display(),
        path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The pieces do not fit together.
    #[error("{0}")]
    Unusable(String),
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadCertificate {
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It has no URI of ours.
    #[error("the certificate has no cxtp:// URI as subject alternative name")]
    NoName,
    /// It has more than one.
    #[error("the certificate has more than one cxtp:// URI as subject alternative name")]
    ManyNames,
    /// The URI is not one of ours.
    #[error("the certificate's {0}")]
    BadName(#[from] protocol_spec::id::BadIdentity),
}

/// Who a certificate is for: exactly one `cxtp://` URI names it.
///
/// # Errors
/// [`BadCertificate`].
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, BadCertificate> {
    let certificate =
        webpki::EndEntityCert::try_from(certificate).map_err(|_| BadCertificate::Unreadable)?;
    let mut names = certificate.valid_uri_names().filter(|uri| uri.starts_with("cxtp://"));
    //= spec CXTP-2.2-1
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.parse()?),
        (None, _) => Err(BadCertificate::NoName),
        (Some(_), Some(_)) => Err(BadCertificate::ManyNames),
    }
}

/// Reads a file that only its owner may read.
///
/// # Errors
/// [`TlsError::Exposed`] if others can read it.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |error| TlsError::File { path: path.to_owned(), error };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    fs::read(path).map(Zeroizing::new).map_err(failed)
}

/// What proves who we are, and whom we believe.
pub struct Credentials {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    /// Reads the files and checks that they fit together and name `this` gateway.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(files: &TlsFiles, this: &Name, now: UnixTime) -> Result<Self, TlsError> {
        let content =
            |path: &Path, problem: String| TlsError::Content { path: path.to_owned(), problem };
        let mut roots = RootCertStore::empty();
        for authority in read_certificates(&files.ca)? {
            roots.add(authority).map_err(|error| content(&files.ca, error.to_string()))?;
        }
        let chain = read_certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read_private(&files.key)?).map_err(|error| {
            content(&files.key, format!("{error}; it must be a private key in PEM form"))
        })?;
        let credentials = Self::new(roots, chain, key);
        let own = credentials.identity().map_err(|error| {
            content(&files.certificate, format!("{error}; issue one for cxtp://gateway/{this}"))
        })?;
        if own != (Identity { role: Role::Gateway, name: this.clone() }) {
            let problem = format!(
                "it is for {own}, and the configuration's `name` is `{this}`: make them agree"
            );
            return Err(content(&files.certificate, problem));
        }
        credentials.check_own_chain(now).map_err(|error| {
            let problem =
                format!("{error}; issue a new one under the authority in {}", files.ca.display());
            content(&files.certificate, problem)
        })?;
        credentials.server()?;
        Ok(credentials)
    }

    /// Credentials from parts, unchecked.
    pub fn new(
        roots: RootCertStore,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        // The one line that chooses the cryptography of TLS.
        let provider = rustls::crypto::ring::default_provider();
        Self { roots: Arc::new(roots), chain, key, provider: Arc::new(provider) }
    }

    /// Who we are by our own certificate.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn identity(&self) -> Result<Identity, BadCertificate> {
        identity_of(self.chain.first().ok_or(BadCertificate::Unreadable)?)
    }

    fn check_own_chain(&self, now: UnixTime) -> Result<(), rustls::Error> {
        let expected = self.identity().map_err(not_the_peer)?;
        let verifier = ExpectedPeer::new(self, expected);
        let (own, others) =
            self.chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        verifier.check(own, others, now)
    }

    /// For those who dial us: any certificate of our authority; who it is, is
    /// looked at once the handshake is done.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if key and certificate do not belong together.
    pub fn server(&self) -> Result<QuicServerConfig, TlsError> {
        let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
        //= spec CXTP-2.1-2
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| unusable(&error))?;
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| {
                TlsError::Unusable(format!("`tls.key` does not fit `tls.certificate`: {error}"))
            })?;
        //= spec CXTP-2.1-1
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves anew who it is, and nothing is said before:
        // no tickets, no resumption, no early data.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        //= spec CXTP-2.1-3
        config.max_early_data_size = 0;
        QuicServerConfig::try_from(config).map_err(|error| unusable(&error))
    }

    /// For dialling `expected`, and nobody else.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if key and certificate do not belong together.
    pub fn client(&self, expected: Identity) -> Result<QuicClientConfig, TlsError> {
        let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ExpectedPeer::new(self, expected)))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| {
                TlsError::Unusable(format!("`tls.key` does not fit `tls.certificate`: {error}"))
            })?;
        //= spec CXTP-2.1-1
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        //= spec CXTP-2.1-3
        config.enable_early_data = false;
        QuicClientConfig::try_from(config).map_err(|error| unusable(&error))
    }

    /// Makes the tokens of stateless resets (RFC 9000 section 10.3.2): the next life of
    /// a daemon that was killed makes the same ones, by which its peers learn at once
    /// that their connections are gone.
    pub(super) fn reset_key(&self) -> hmac::Key {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"cxtp/1 stateless reset");
        let secret = salt.extract(self.key.secret_der());
        let key = secret.expand(&[], hmac::HMAC_SHA256);
        // It fails only for keys that are longer than HKDF can make.
        key.map_or_else(|_| unreachable!("32 octets"), hmac::Key::from)
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), error })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(TlsError::Content {
            path: path.to_owned(),
            problem: "it holds no certificate in PEM form".to_owned(),
        }),
        Err(error) => Err(TlsError::Content { path: path.to_owned(), problem: error.to_string() }),
    }
}

fn not_the_peer(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

#[derive(Debug, Error)]
#[error("the certificate is for {found}, and {expected} was dialled")]
struct SomebodyElse {
    found: Identity,
    expected: Identity,
}

/// Accepts the server that was dialled: chain and validity as webpki checks
/// them, and the URI instead of a DNS name.
#[derive(Debug)]
struct ExpectedPeer {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Identity,
}

impl ExpectedPeer {
    fn new(credentials: &Credentials, expected: Identity) -> Self {
        let algorithms = credentials.provider.signature_verification_algorithms;
        Self { roots: Arc::clone(&credentials.roots), algorithms, expected }
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        //= spec CXTP-2.1-2
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            others,
            now,
            self.algorithms.all,
        )?;
        let found = identity_of(certificate).map_err(not_the_peer)?;
        //= spec CXTP-2.2-3
        if found == self.expected {
            Ok(())
        } else {
            Err(not_the_peer(SomebodyElse { found, expected: self.expected.clone() }))
        }
    }
}

impl ServerCertVerifier for ExpectedPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
