//! Connections to providers: one reqwest client per endpoint configuration, made on first use.
//!
//! A pool belongs to one tokio runtime, since a connection lives on the runtime that opened it: the workers share one,
//! and each blocking call borrows a driver that has its own (`runtime/driver.rs`).

use crate::types::{Error, Result, Status, lookup};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;

/// How a client connects. Clients are shared by everything that connects alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Whether TLS is needed: without it no certificate store is read.
    pub tls: bool,
    /// How long connecting may take; none without a bound.
    pub connect_timeout: Option<Duration>,
    /// A proxy, other than the environment's.
    pub proxy: Option<String>,
    /// Certificates to trust besides the system's.
    pub ca_file: Option<String>,
}

/// See the module's head.
#[derive(Default)]
pub struct HttpPool {
    clients: Mutex<Vec<(Connection, reqwest::Client)>>,
}

impl HttpPool {
    /// The client for such connections.
    pub fn client(&self, connection: &Connection) -> Result<reqwest::Client> {
        let mut clients = self.clients.lock();
        if let Some((_, client)) = clients.iter().find(|(other, _)| other == connection) {
            return Ok(client.clone());
        }
        let client = build(connection)?;
        clients.push((connection.clone(), client.clone()));
        Ok(client)
    }
}

fn build(connection: &Connection) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(match (&connection.ca_file, connection.tls) {
            (Some(file), true) => trusting_also(file)?,
            (None, true) => trusting()?,
            (_, false) => trusting_nobody()?,
        })
        .user_agent(concat!("libpar/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(System))
        .pool_idle_timeout(Duration::from_secs(90));
    if let Some(timeout) = connection.connect_timeout {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(proxy) = &connection.proxy {
        let proxy = reqwest::Proxy::all(proxy)
            .map_err(|error| Error::new(Status::Schema, format!("the proxy cannot be used: {}", chain(&error))))?;
        builder = builder.proxy(proxy);
    }
    builder
        .build()
        .map_err(|error| Error::new(Status::Internal, format!("the HTTP client cannot be built: {}", chain(&error))))
}

/// The resolver of the operating system.
struct System;

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        // The port is the URL's; this one is replaced.
        Box::pin(async move { Ok(Box::new(lookup(name.as_str(), 0).await?.into_iter()) as Addrs) })
    }
}

/// The certificates of the operating system; where it has none, those Mozilla trusts. Read once, by the first client that
/// needs them.
pub fn trusting() -> Result<ClientConfig> {
    static CONFIG: OnceCell<ClientConfig> = OnceCell::new();
    let read = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = tls_builder(Arc::clone(&provider))?;
        Ok(match rustls_platform_verifier::Verifier::new(provider) {
            Ok(verifier) => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
            }
            Err(error) => {
                tracing::warn!("no system certificates ({error}); using the built-in roots");
                let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        })
    };
    CONFIG.get_or_try_init(read).cloned()
}

/// The same, and the certificates of a file.
fn trusting_also(file: &str) -> Result<ClientConfig> {
    let wrong = |why: String| {
        Error::new(Status::Schema, format!("the certificates of {file:?} cannot be used: {why}"))
            .with_hint("ca_file is a PEM file with one or more certificates")
    };
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<std::result::Result<Vec<_>, _>>())
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("there are none in it".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(certificates, Arc::clone(&provider))
        .map_err(|error| wrong(error.to_string()))?;
    let builder = tls_builder(provider)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// For clients that never speak TLS: reqwest wants a configuration all the same.
fn trusting_nobody() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(tls_builder(provider)?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn tls_builder(
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("TLS cannot be set up: {error}")))
}

/// A failure of the connection, as a host gets it.
pub fn connection_error(provider: &str, url: &str, error: &reqwest::Error) -> Error {
    let cause = chain(error);
    let (message, hint) = if error.is_connect() && cause.contains("dns error") {
        (format!("the host of {url} cannot be resolved"), "check base_url and the machine's DNS")
    } else if is_tls(error) {
        (format!("no trusted TLS connection to {url}"), "check base_url, the server's certificate, and SSL_CERT_FILE")
    } else if error.is_connect() && error.is_timeout() {
        (format!("connecting to {url} took too long"), "check base_url, or raise timeouts.connect_ms")
    } else if error.is_connect() {
        (format!("no connection to {url}"), "check base_url, and that the server runs")
    } else {
        (format!("the connection to {url} broke"), "the server or a proxy closed it; the call may be repeated")
    };
    Error::new(Status::Network, format!("{message}: {cause}"))
        .with_hint(hint)
        .with_code("network")
        .with_provider(crate::types::ProviderDetail { provider: provider.to_owned(), ..Default::default() })
}

/// Whether TLS is what failed: rustls reports through I/O errors, which may be wrapped in each other.
fn is_tls(error: &reqwest::Error) -> bool {
    fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        error.is::<rustls::Error>() || wrapped.is_some_and(|inner| is_tls(inner)) || error.source().is_some_and(is_tls)
    }
    is_tls(error)
}

/// An error with its causes, without the URL, which may be long.
fn chain(error: &reqwest::Error) -> String {
    let mut said = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push(error.to_string());
        cause = error.source();
    }
    if said.is_empty() {
        said.push(error.to_string());
    }
    said.dedup();
    said.join(": ")
}
