//! TLS as libpq's `sslmode` means it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::stream::is_nap;
use crate::conninfo::{Roots, Tls, TlsMode};
use crate::{Error, Result};

/// What a client of TLS needs to know; made once for each way to connect.
pub(crate) struct Protection {
    config: Arc<ClientConfig>,
}

impl Protection {
    /// Reads certificates and keys. `place` is for errors.
    pub(crate) fn new(tls: &Tls, place: &str) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let trust = match tls.mode {
            TlsMode::VerifyCa | TlsMode::VerifyFull => Some(Trust::read(&tls.roots, place)?),
            _ => None,
        };
        let verifier =
            Verifier { trust, checks_name: tls.mode == TlsMode::VerifyFull, provider: Arc::clone(&provider) };
        let versions: &[&rustls::SupportedProtocolVersion] =
            if tls.only_1_3 { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
        let wrong =
            |what: rustls::Error| Error::Tls { place: place.to_owned(), what: what.to_string(), hint: None };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &tls.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = read_certificates(certificate)?;
                builder.with_client_auth_cert(chain, read_key(key)?).map_err(wrong)?
            }
        };
        config.enable_sni = tls.server_name;
        // What tells a server of PostgreSQL from others, where TLS begins without a question.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// Shakes hands over a connection.
    pub(crate) fn protect(
        &self,
        stream: TcpStream,
        host: &str,
        place: &str,
        until: Instant,
    ) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let failed = |what: String, hint: Option<String>| Error::Tls { place: place.to_owned(), what, hint };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| failed(format!("{host:?} is no name that a certificate can have"), None))?;
        let connection = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| failed(error.to_string(), None))?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            match stream.conn.complete_io(&mut stream.sock) {
                Ok(_) => {}
                Err(error) if is_nap(&error) && Instant::now() < until => {}
                Err(error) => return Err(failed(error.to_string(), advice(&error))),
            }
        }
        Ok(stream)
    }
}

/// Returns what to do about a certificate that is not trusted.
fn advice(error: &std::io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(why) = inner else { return None };
    let hint = match why {
        CertificateError::UnknownIssuer => {
            "sslrootcert=FILE names the certificate of who signed the server's, sslrootcert=system those of the system"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "use the name that stands in the certificate, or sslmode=verify-ca, which does not look at it"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate of the server has expired"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The certificates that are trusted.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn read(roots: &Roots, place: &str) -> Result<Self> {
        let certificates = match roots {
            Roots::None => {
                return Err(Error::Tls {
                    place: place.to_owned(),
                    what: "there is no root certificate to check the server's with".to_owned(),
                    hint: Some(
                        "put it into ~/.postgresql/root.crt, name it with sslrootcert=FILE, or use sslrootcert=system"
                            .to_owned(),
                    ),
                });
            }
            Roots::File(path) => read_certificates(path)?,
            Roots::System => rustls_native_certs::load_native_certs().certs,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        Ok(Self { roots, certificates })
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |what: String| Error::Certificates { path: path.to_owned(), what };
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("there is no certificate in it".to_owned())) } else { Ok(found) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let wrong = |what: String| Error::Certificates { path: path.to_owned(), what };
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| wrong(format!("{error}; a key that has a password is not supported")))
}

/// Decides whether the certificate of a server is good enough.
#[derive(Debug)]
struct Verifier {
    /// Without it any certificate will do.
    trust: Option<Trust>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        // A server's own certificate, given as the root, is trusted as such, as OpenSSL does. It need not be one that
        // may sign others.
        if !trust.certificates.contains(end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &trust.roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if self.checks_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns what binds a login to a connection: the hash of the server's certificate, with the algorithm that its
/// signature uses, SHA-256 where that is weaker (RFC 5929, `tls-server-end-point`).
pub(crate) fn end_point<S: Read + Write>(stream: &StreamOwned<ClientConnection, S>) -> Option<Vec<u8>> {
    let certificate = stream.conn.peer_certificates()?.first()?;
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let oid = parsed.signature_algorithm.algorithm.to_id_string();
    Some(::ring::digest::digest(hash_of(&oid)?, certificate).as_ref().to_vec())
}

/// Returns the hash that an algorithm of signatures uses; none where it uses one that is its own (Ed25519, PSS).
fn hash_of(oid: &str) -> Option<&'static ::ring::digest::Algorithm> {
    Some(match oid {
        // MD5, SHA-1 and SHA-256, with RSA and ECDSA.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => &::ring::digest::SHA256,
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => &::ring::digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &::ring::digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &::ring::digest::SHA512,
        _ => return None,
    })
}
