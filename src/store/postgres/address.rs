//! Where the database is and how it is spoken to: a libpq URL, read as libpq does.
//!
//! `sslmode` and `sslrootcert` mean what they mean there (PostgreSQL documentation, 34.19.1, "Client Verification of Server
//! Certificates"): `prefer`, the default, and `require` encrypt without asking who answers, unless there is a root
//! certificate; `verify-ca` asks whose the certificate is, `verify-full` for which host, too.

use crate::config::PostgresConfig;
use crate::types::{Error, Result, Status};
use percent_encoding::percent_decode_str;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long connecting may take, where the URL does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what was sent may stay without an answer of the other machine.
const SILENCE: Duration = Duration::from_secs(15);

/// See the module's head.
pub struct Address {
    pub config: tokio_postgres::Config,
    pub tls: MakeRustlsConnect,
}

/// Makes a TLS configuration that trusts whom the machine trusts.
pub type TrustedTls = fn() -> Result<ClientConfig>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verify {
    Nothing,
    Authority,
    Full,
}

impl Address {
    /// Reads the URL.
    pub fn read(config: &PostgresConfig, trusted: TrustedTls) -> Result<Self> {
        let url = config.url.reveal("config.persistence.url")?;
        let (url, mode, roots) = split(&url)?;
        let mut read: tokio_postgres::Config = url.parse().map_err(|error: tokio_postgres::Error| {
            // The message names the part, never the password.
            wrong(chain(&error))
        })?;
        if read.get_password().is_none() {
            match &config.password {
                Some(secret) => read.password(secret.reveal("config.persistence.password")?),
                None => read.password(std::env::var("PGPASSWORD").unwrap_or_default()),
            };
        }
        if read.get_user().is_none() {
            return Err(wrong("it names no user".into()));
        }
        let is_remote = read.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
        if read.get_hosts().is_empty() {
            return Err(wrong("it names no host".into()));
        }
        let (ssl_mode, verify) = match mode.as_deref() {
            _ if !is_remote => (SslMode::Disable, Verify::Nothing),
            Some("disable") => (SslMode::Disable, Verify::Nothing),
            None | Some("prefer") => (SslMode::Prefer, Verify::Nothing),
            Some("require") => (SslMode::Require, if roots.is_some() { Verify::Authority } else { Verify::Nothing }),
            Some("verify-ca") => (SslMode::Require, Verify::Authority),
            Some("verify-full") => (SslMode::Require, Verify::Full),
            Some(other) => {
                return Err(wrong(format!(
                    "sslmode {other:?} is none of disable, prefer, require, verify-ca and verify-full"
                )));
            }
        };
        read.ssl_mode(ssl_mode);
        if read.get_connect_timeout().is_none() {
            read.connect_timeout(CONNECT_TIMEOUT);
        }
        if read.get_tcp_user_timeout().is_none() {
            read.tcp_user_timeout(SILENCE);
        }
        if read.get_application_name().is_none() {
            read.application_name("libpar");
        }
        let given = read.get_options().map(|options| format!("{options} ")).unwrap_or_default();
        // A transaction of ours that hangs must not keep others waiting for ever.
        let ours = "-c idle_in_transaction_session_timeout=60s -c lock_timeout=30s -c client_min_messages=warning";
        read.options(format!("{given}{ours} -c search_path={}", config.schema));
        Ok(Self { config: read, tls: MakeRustlsConnect::new(tls(verify, roots.as_deref(), trusted)?) })
    }
}

/// The URL without what the client library does not know as libpq means it: that, and `sslmode`, and `sslrootcert`.
fn split(url: &str) -> Result<(String, Option<String>, Option<String>)> {
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), None, None)) };
    let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = || {
            let decoded = percent_decode_str(value).decode_utf8();
            decoded.map(String::from).map_err(|_| wrong(format!("the value of {key:?} is not UTF-8")))
        };
        match key {
            "sslmode" => mode = Some(value()?),
            "sslrootcert" => roots = Some(value()?),
            _ => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    Ok((url, mode, roots))
}

fn tls(verify: Verify, roots: Option<&str>, trusted: TrustedTls) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match roots {
        None | Some("system") => None,
        Some(file) => Some(read_roots(file)?),
    };
    let webpki = |roots: RootCertStore| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| wrong(format!("the root certificates cannot be used: {error}")))
    };
    let lenient = |authority| -> Arc<dyn ServerCertVerifier> {
        Arc::new(Lenient { authority, algorithms: provider.signature_verification_algorithms })
    };
    let verifier: Arc<dyn ServerCertVerifier> = match (verify, roots) {
        (Verify::Full, None) => return trusted(),
        (Verify::Full, Some(roots)) => webpki(roots)?,
        (Verify::Authority, Some(roots)) => lenient(Some(webpki(roots)?)),
        (Verify::Authority, None) => {
            return Err(wrong("verify-ca needs sslrootcert, a PEM file".into()));
        }
        (Verify::Nothing, _) => lenient(None),
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn read_roots(file: &str) -> Result<RootCertStore> {
    let refused = |why: String| wrong(format!("sslrootcert {file:?} cannot be used: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| refused(error.to_string()))? {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() { Err(refused("there is no certificate in it".into())) } else { Ok(roots) }
}

/// Asks less than the name and the authority of a certificate: what `sslmode` means below `verify-full`.
#[derive(Debug)]
struct Lenient {
    /// Whose certificate it must be; none: anybody's.
    authority: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // Looked at last, after all else was found right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn wrong(why: String) -> Error {
    Error::new(Status::Schema, format!("the address of the database cannot be used: {why}"))
        .with_path("config.persistence.url")
        .with_hint("postgres://user:password@host:5432/database?sslmode=verify-full")
}

/// An error and what caused it, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
