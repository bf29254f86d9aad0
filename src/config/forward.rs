//! Where a local database is forwarded to: `forward` of `persistence`.

use super::{PostgresConfig, Secret};
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

/// Whether what the database keeps is also kept elsewhere. A file that once forwards marks what changes until it is told
/// `"off"`, also while nobody ships it.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Forward {
    /// `"off"`: no more. What was not shipped yet stays in the database alone.
    #[schemars(with = "String", extend("const" = "off"))]
    Off,
    /// What is kept is shipped.
    On(Box<ForwardConfig>),
}

/// What is shipped where, and how soon.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardConfig {
    /// Where to.
    pub to: Archive,
    /// The longest that what was kept waits to be shipped, 0.05 to 3600. Default 5.
    #[serde(default = "interval_seconds")]
    pub interval_seconds: f64,
    /// About how many bytes one object holds before it is packed, 65536 to 1073741824. Default 8 MiB. What is larger by itself
    /// goes alone.
    #[serde(default = "max_batch_bytes")]
    pub max_batch_bytes: usize,
}

fn interval_seconds() -> f64 {
    5.0
}

fn max_batch_bytes() -> usize {
    8 << 20
}

/// A place for what is forwarded: an object with `type`, or in short `"file:///archive/par"` or `"s3://bucket/prefix"`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case")]
pub enum Archive {
    /// A folder, such as that of a mounted volume. Made, readable for its owner alone, if the folder it is in is there.
    Folder {
        /// Its path.
        path: String,
    },
    /// A bucket of Amazon S3, or of a service that speaks like it.
    S3(S3Config),
    /// A schema of a PostgreSQL database, which is this database's alone; default `par_archive`.
    Postgres(PostgresConfig),
}

/// A bucket. Keys that are not given are looked for as the tools of AWS do: in the environment (`AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), then by the role of the pod, task or machine.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Its name. It must be there.
    pub bucket: String,
    /// What the names of all objects begin with: letters, digits and `-_.=!*()'` between slashes. Default: nothing.
    #[serde(default)]
    pub prefix: String,
    /// The service, if it is not Amazon's: `https://host`, or `http://host` for one that is reached without TLS.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Default: `AWS_REGION`, `AWS_DEFAULT_REGION`, or `us-east-1`.
    #[serde(default)]
    pub region: Option<String>,
    /// The id of the key.
    #[serde(default)]
    pub access_key_id: Option<Secret>,
    /// The key.
    #[serde(default)]
    pub secret_access_key: Option<Secret>,
    /// What belongs to a key that is only valid for a while.
    #[serde(default)]
    pub session_token: Option<Secret>,
}

impl ForwardConfig {
    /// Refuses what makes no sense.
    pub fn check(&self, path: &str) -> Result<()> {
        if !(0.05..=3_600.0).contains(&self.interval_seconds) {
            return Err(Error::schema(format!("{path}.interval_seconds"), "0.05 to 3600 seconds are needed"));
        }
        if !(65_536..=1_073_741_824).contains(&self.max_batch_bytes) {
            return Err(Error::schema(format!("{path}.max_batch_bytes"), "65536 to 1073741824 bytes are needed"));
        }
        self.to.check(&format!("{path}.to"))
    }
}

impl Archive {
    /// Refuses what cannot be one, and secrets that are not there.
    pub fn check(&self, path: &str) -> Result<()> {
        let not_built = |what: &str, feature: &str| {
            Err(Error::new(crate::types::Status::Unsupported, format!("this library was built without {what}"))
                .with_path(path)
                .with_hint(format!("use one with the cargo feature {feature:?}, which is on by default")))
        };
        match self {
            Self::Folder { .. } | Self::S3(_) if !cfg!(feature = "object-store") => {
                not_built("object storage", "object-store")
            }
            Self::Postgres(_) if !cfg!(feature = "postgres") => not_built("PostgreSQL", "postgres"),
            Self::Folder { path: folder } if folder.is_empty() || folder.contains('\0') => {
                Err(Error::schema(format!("{path}.path"), format!("{folder:?} cannot be the path of a folder")))
            }
            Self::Folder { .. } => Ok(()),
            Self::S3(bucket) => bucket.check(path),
            Self::Postgres(database) => database.url.reveal(&format!("{path}.url")).map(drop),
        }
    }

    /// What tells it from other places, without secrets.
    pub fn name(&self) -> String {
        match self {
            Self::Folder { path } => {
                let whole = std::path::absolute(path).unwrap_or_else(|_| Path::new(path).to_owned());
                format!("file://{}", whole.display())
            }
            Self::S3(S3Config { bucket, prefix, endpoint, .. }) => {
                let at = endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
                format!("s3://{bucket}/{}{at}", prefix.trim_matches('/'))
            }
            Self::Postgres(PostgresConfig { url, schema, .. }) => {
                // Neither who, nor how.
                let url = url.reveal("").unwrap_or_default();
                let place = url.rsplit_once('@').map_or(&*url, |(_, place)| place);
                let place = place.split_once("://").map_or(place, |(_, place)| place);
                format!("postgres://{} schema {schema}", place.split('?').next().unwrap_or_default())
            }
        }
    }

    fn from_url(text: &str) -> Result<Self, String> {
        // Not repeated: it may hold a password.
        let wrong = || "expected \"file:///folder\", \"s3://bucket/prefix\" or \"postgres://…\"".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self::Folder { path: rest.to_owned() }),
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(Self::S3(S3Config {
                    bucket: bucket.to_owned(),
                    prefix: prefix.to_owned(),
                    endpoint: None,
                    region: None,
                    access_key_id: None,
                    secret_access_key: None,
                    session_token: None,
                }))
            }
            "postgres" | "postgresql" => {
                Ok(Self::Postgres(PostgresConfig { schema: ARCHIVE.into(), ..PostgresConfig::at(text.to_owned()) }))
            }
            _ => Err(wrong()),
        }
    }
}

/// The schema of an archive, where no other is given: not the one that runtimes use.
const ARCHIVE: &str = "par_archive";

impl S3Config {
    fn check(&self, path: &str) -> Result<()> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if self.bucket.is_empty() || !self.bucket.chars().all(legal) {
            return Err(Error::schema(
                format!("{path}.bucket"),
                format!("{:?} cannot be the name of a bucket", self.bucket),
            ));
        }
        let is_part = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.=!*()'".contains(c))
        };
        let prefix = self.prefix.trim_matches('/');
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            let message = format!("{:?} cannot be what the names of objects begin with", self.prefix);
            return Err(Error::schema(format!("{path}.prefix"), message).with_hint(
                "use letters, digits and -_.=!*()' between slashes: other characters are trouble in many tools",
            ));
        }
        if let Some(endpoint) = &self.endpoint {
            super::provider::check_url(endpoint, &format!("{path}.endpoint"))?;
        }
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => {
                return Err(Error::schema(format!("{path}.secret_access_key"), "the key to access_key_id is missing"));
            }
            (None, Some(_)) => {
                return Err(Error::schema(format!("{path}.access_key_id"), "the id of secret_access_key is missing"));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        for (name, secret) in [
            ("access_key_id", &self.access_key_id),
            ("secret_access_key", &self.secret_access_key),
            ("session_token", &self.session_token),
        ] {
            secret.as_ref().map_or(Ok(String::new()), |secret| secret.reveal(&format!("{path}.{name}")))?;
        }
        Ok(())
    }
}

/// The object form. Which keys belong to which type is said here, not by a variant, since the type has a short form, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    r#type: Kind,
    path: Option<String>,
    bucket: Option<String>,
    prefix: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
    access_key_id: Option<Secret>,
    secret_access_key: Option<Secret>,
    session_token: Option<Secret>,
    url: Option<Secret>,
    password: Option<Secret>,
    schema: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Folder,
    S3,
    Postgres,
}

impl TryFrom<Shape> for Archive {
    type Error = String;

    fn try_from(shape: Shape) -> Result<Self, String> {
        let Shape {
            r#type,
            path,
            bucket,
            prefix,
            endpoint,
            region,
            access_key_id,
            secret_access_key,
            session_token,
            ..
        } = shape;
        let is_bucket = prefix.is_some()
            || endpoint.is_some()
            || region.is_some()
            || access_key_id.is_some()
            || secret_access_key.is_some()
            || session_token.is_some();
        let is_database = shape.url.is_some() || shape.password.is_some() || shape.schema.is_some();
        match (r#type, path, bucket) {
            (Kind::Folder, Some(path), None) if !is_bucket && !is_database => Ok(Self::Folder { path }),
            (Kind::Folder, _, _) => Err("a folder has a \"path\", and no other key".into()),
            (Kind::S3, None, Some(bucket)) if !is_database => Ok(Self::S3(S3Config {
                bucket,
                prefix: prefix.unwrap_or_default(),
                endpoint,
                region,
                access_key_id,
                secret_access_key,
                session_token,
            })),
            (Kind::S3, _, _) => Err("\"s3\" has a \"bucket\", and neither a \"path\" nor a \"url\"".into()),
            (Kind::Postgres, None, None) if !is_bucket => {
                let usual = PostgresConfig { schema: ARCHIVE.into(), ..PostgresConfig::at(String::new()) };
                let database = PostgresConfig {
                    url: shape.url.ok_or("a postgres database needs its \"url\"")?,
                    password: shape.password,
                    schema: shape.schema.unwrap_or(usual.schema.clone()),
                    ..usual
                };
                database.check().map(|()| Self::Postgres(database))
            }
            (Kind::Postgres, _, _) => {
                Err("\"postgres\" has \"url\", \"password\" and \"schema\", and no other key".into())
            }
        }
    }
}

/// Reads what is either a text or an object.
struct Either<T>(&'static str, PhantomData<T>);

trait FromEither: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
    fn from_object<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

impl<'de, T: FromEither> Visitor<'de> for Either<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_object(map)
    }
}

impl FromEither for Archive {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_url(text)
    }

    fn from_object<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        Shape::deserialize(MapAccessDeserializer::new(map))?.try_into().map_err(A::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Archive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "\"file:///folder\", \"s3://bucket/prefix\", \"postgres://…\", or an object with \"type\"";
        deserializer.deserialize_struct("Archive", &[], Either(expected, PhantomData))
    }
}

impl FromEither for Forward {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => Err(format!("expected \"off\" or an object with \"to\", got {text:?}")),
        }
    }

    fn from_object<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        ForwardConfig::deserialize(MapAccessDeserializer::new(map)).map(|config| Self::On(Box::new(config)))
    }
}

impl<'de> Deserialize<'de> for Forward {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Forward", &[], Either("\"off\" or an object with \"to\"", PhantomData))
    }
}
