//! Object storage: a folder, or a bucket of S3 or a service like it. docs/persistence.md says what an object holds.
//!
//! A batch is one object, named by its source and the numbers of its first and last change. No object is ever written with
//! another content of older date: what is newer has larger numbers in its name, or is the same batch once more.

use super::super::Tls;
use super::Destination;
use super::record::Batch;
use crate::config::{Archive, S3Config};
use crate::types::{Error, Result, Status};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{ClientConfigKey, ClientOptions, HttpClient, HttpConnector};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// The form of the objects.
const FORMAT: u32 = 1;
/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long an object may take, apart from its size.
const OBJECT_TIME: Duration = Duration::from_secs(30);
/// The slowest line that objects are shipped over, in bytes a second.
const SLOWEST: u64 = 32 * 1024;
/// What of the environment is heeded where no key is configured, as the tools of AWS do.
const KEYS: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// See the module's head.
pub struct Objects {
    store: Box<dyn ObjectStore>,
    prefix: Path,
    /// The folder, if it is one.
    folder: Option<PathBuf>,
    is_swept: OnceLock<()>,
    name: String,
}

/// The first line of an object.
#[derive(Debug, Serialize, Deserialize)]
pub struct Head {
    kind: String,
    /// The form of what follows.
    format: u32,
    /// The database.
    source: String,
    /// The first change that was ever shipped of it to this place.
    pub begins: i64,
    /// The first change in this object.
    pub first: i64,
    /// The last.
    pub last: i64,
}

impl Objects {
    /// Reaches an archive. Opens no connection yet.
    pub fn open(archive: &Archive, tls: Tls) -> Result<Self> {
        let name = archive.name();
        let unusable = |error: &dyn std::error::Error| trouble(&name, "cannot be used", error);
        let (store, prefix, folder): (Box<dyn ObjectStore>, _, _) = match archive {
            Archive::Folder { path } => {
                let folder = PathBuf::from(path);
                make_private(&folder).map_err(|error| unusable(&error))?;
                let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| unusable(&error))?;
                (Box::new(store.with_fsync(true)), Path::default(), Some(folder))
            }
            Archive::S3(config) => {
                let store = bucket(config, tls)?.build().map_err(|error| unusable(&error))?;
                (Box::new(store), Path::from(config.prefix.as_str()), None)
            }
            Archive::Postgres(_) => {
                return Err(Error::new(
                    Status::Unsupported,
                    "what was forwarded to PostgreSQL is not read back by this",
                )
                .with_path("params.from")
                .with_hint("it is a database already: see \"Two tiers\" in docs/persistence.md"));
            }
        };
        Ok(Self { store, prefix, folder, is_swept: OnceLock::new(), name })
    }

    /// The databases whose changes are here.
    pub async fn sources(&self) -> Result<Vec<String>> {
        let found = self.store.list_with_delimiter(Some(&self.prefix)).await;
        let found = found.map_err(|error| trouble(&self.name, "cannot be listed", &error))?;
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// The objects of a database, oldest first.
    pub async fn list(&self, source: &str) -> Result<Vec<Path>> {
        let found: Vec<_> = self
            .store
            .list(Some(&self.prefix.clone().join(source)))
            .map_ok(|object| object.location)
            .try_filter(|path| std::future::ready(path.as_ref().ends_with(".jsonl.gz")))
            .try_collect()
            .await
            .map_err(|error| trouble(&self.name, "cannot be listed", &error))?;
        let mut found = found;
        // The numbers in their names have as many digits as any.
        found.sort_unstable();
        Ok(found)
    }

    /// Reads an object: its head, and its records as lines.
    pub async fn read(&self, path: &Path) -> Result<(Head, String)> {
        let unreadable =
            |error: &dyn std::error::Error| trouble(&self.name, &format!("holds {path}, which cannot be read"), error);
        let object = self.store.get(path).await.map_err(|error| unreadable(&error))?;
        let packed = object.bytes().await.map_err(|error| unreadable(&error))?;
        let mut text = String::new();
        MultiGzDecoder::new(&*packed).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let head: Head = serde_json::from_str(first).map_err(|error| unreadable(&error))?;
        if head.kind != "head" || head.format > FORMAT {
            let message = format!("{path} has the form {}, and this library knows {FORMAT}", head.format);
            return Err(Error::new(Status::Unsupported, message).with_hint("use a newer library"));
        }
        let rest = rest.to_owned();
        Ok((head, rest))
    }
}

impl Destination for Objects {
    fn ship<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let packed = pack(batch).map_err(|error| Error::internal(format!("a batch cannot be packed: {error}")))?;
            let size = packed.len() as u64;
            let source = self.prefix.clone().join(&*batch.source);
            if let Some(folder) = &self.folder {
                let own = folder.join(&*batch.source);
                let made =
                    make_private(&own).and_then(|()| if self.is_swept.set(()).is_ok() { sweep(&own) } else { Ok(()) });
                made.map_err(|error| trouble(&self.name, "cannot be written to", &error))?;
            }
            let path = source.join(format!("{:020}-{:020}.jsonl.gz", batch.first, batch.last));
            let time = OBJECT_TIME + Duration::from_secs(size / SLOWEST);
            match tokio::time::timeout(time, self.store.put(&path, packed.into())).await {
                Ok(Ok(_)) => Ok(size),
                Ok(Err(error)) => Err(trouble(&self.name, "cannot be written to", &error)),
                Err(error) => Err(trouble(&self.name, "does not answer", &error)),
            }
        })
    }
}

fn pack(batch: &Batch) -> std::io::Result<Vec<u8>> {
    let Batch { source, begins, first, last, records, is_full: _, whole_sessions: _ } = batch;
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    let head = Head {
        kind: "head".into(),
        format: FORMAT,
        source: source.to_string(),
        begins: *begins,
        first: *first,
        last: *last,
    };
    serde_json::to_writer(&mut packed, &head)?;
    packed.write_all(b"\n")?;
    for record in records {
        serde_json::to_writer(&mut packed, record)?;
        packed.write_all(b"\n")?;
    }
    packed.finish()
}

/// Makes a folder that is its owner's alone, unless it is there. The one it is in must be: it may be a volume that is not
/// mounted.
fn make_private(folder: &std::path::Path) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes what a process was writing when it was killed. Nobody else writes here: whoever ships has the lock.
fn sweep(folder: &std::path::Path) -> std::io::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        if file.file_name().to_string_lossy().contains(".jsonl.gz#") {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

fn bucket(config: &S3Config, tls: Tls) -> Result<AmazonS3Builder> {
    let S3Config { bucket, prefix: _, endpoint, region, access_key_id, secret_access_key, session_token } = config;
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let region = region.clone().or_else(|| set("AWS_REGION")).or_else(|| set("AWS_DEFAULT_REGION"));
    let allow_http = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_allow_http(allow_http)
        .with_http_connector(Connector(tls))
        // What fails is tried again by whoever ships, who tells it.
        .with_retry(RetryConfig { max_retries: 2, retry_timeout: CONNECT_TIME * 2, ..RetryConfig::default() });
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    let at = "config.persistence.forward.to";
    match (access_key_id, secret_access_key) {
        (Some(id), Some(key)) => {
            builder = builder
                .with_access_key_id(id.reveal(&format!("{at}.access_key_id"))?)
                .with_secret_access_key(key.reveal(&format!("{at}.secret_access_key"))?);
            if let Some(token) = session_token {
                builder = builder.with_token(token.reveal(&format!("{at}.session_token"))?);
            }
        }
        _ => {
            for name in KEYS {
                if let (Some(value), Ok(key)) = (set(name), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()) {
                    builder = builder.with_config(key, value);
                }
            }
        }
    }
    Ok(builder)
}

/// Connects as everything else of ours does.
struct Connector(Tls);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "S3", source };
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured((self.0)().map_err(|error| failed(error.to_string().into()))?)
            .user_agent(concat!("libpar/", env!("CARGO_PKG_VERSION")))
            .https_only(!allow_http)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME)
            .read_timeout(OBJECT_TIME)
            .build()
            .map_err(|error| failed(Box::new(error)))?;
        Ok(HttpClient::new(client))
    }
}

/// An error with its causes.
fn trouble(name: &str, what: &str, error: &dyn std::error::Error) -> Error {
    let mut said = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Most repeat their cause.
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
        cause = error.source();
    }
    Error::new(Status::Io, format!("{name} {what}: {}", said.join(": ")))
        .with_code("archive_unavailable")
        .with_retryable(true)
        .with_hint("check the place, its keys, and the way there; nothing is lost meanwhile")
}
