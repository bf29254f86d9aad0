//! The tables: made, or brought to this version, by one process at a time.

use super::link::failed;
use crate::types::{Error, Result, Status};
use deadpool_postgres::ClientWrapper;
use tokio_postgres::Transaction;

/// The steps from nothing to this version. A step that was published is never changed, only added to.
pub const STEPS: &[&str] = &[include_str!("schema_1.sql")];

/// Makes the schema and its tables, or brings them to this version.
pub async fn prepare(client: &mut ClientWrapper, schema: &str) -> Result<()> {
    let transaction = client.transaction().await.map_err(|error| failed(&error))?;
    // Who comes second finds everything done.
    transaction
        .execute("SELECT pg_advisory_xact_lock(hashtextextended('par schema ' || $1, 0))", &[&schema])
        .await
        .map_err(|error| failed(&error))?;
    let done = version(&transaction, schema).await?;
    let newest = STEPS.len();
    if done > newest {
        return Err(Error::new(
            Status::Persistence,
            format!("the database was written by a newer version: its schema is {done}, this library knows {newest}"),
        )
        .with_code("store_newer")
        .with_hint("use a newer library, or another schema"));
    }
    if done == newest {
        return Ok(());
    }
    for step in STEPS.iter().skip(done) {
        transaction.batch_execute(step).await.map_err(|error| failed(&error))?;
    }
    transaction
        .execute(
            "INSERT INTO facts (name, value) VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = $1",
            &[&i64::try_from(newest).unwrap_or(i64::MAX)],
        )
        .await
        .map_err(|error| failed(&error))?;
    transaction.commit().await.map_err(|error| failed(&error))
}

/// The version of the tables; 0 if there are none.
async fn version(transaction: &Transaction<'_>, schema: &str) -> Result<usize> {
    let look = async {
        let row = transaction
            .query_one(
                "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1), \
                 (SELECT count(*) FROM pg_tables WHERE schemaname = $1), \
                 EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'facts')",
                &[&schema],
            )
            .await?;
        let (exists, tables, is_ours): (bool, i64, bool) = (row.get(0), row.get(1), row.get(2));
        if !exists {
            // Only letters, digits and _: the configuration saw to that.
            transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
        }
        let version = match is_ours {
            true => transaction.query_opt("SELECT value FROM facts WHERE name = 'schema'", &[]).await?,
            false => None,
        };
        Ok((tables, version.map(|row| row.get::<_, i64>(0))))
    };
    match look.await.map_err(|error| failed(&error))? {
        (0, _) => Ok(0),
        (_, Some(version)) => Ok(usize::try_from(version).unwrap_or(usize::MAX)),
        (_, None) => {
            Err(Error::new(Status::Persistence, format!("the schema {schema:?} has tables of another program"))
                .with_code("store_foreign")
                .with_hint("give another schema: config.persistence.schema; a new one is made"))
        }
    }
}
