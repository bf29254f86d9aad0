//! The tables, and how an older file becomes one of today.
//!
//! `user_version` counts the steps in [`STEPS`] that a file has gone. A file that has gone more was made by a newer version
//! and is refused.

use super::failed;
use crate::types::{Error, Result, Status};
use rusqlite::{Connection, TransactionBehavior};

/// What says that a file is ours: "PAR1".
const APPLICATION_ID: i32 = 0x5041_5231;

/// What was done, version by version. Never changed, only added to.
pub const STEPS: &[&str] = &[include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// Makes the tables, or brings them to this version.
pub fn prepare(connection: &mut Connection, in_memory: bool) -> Result<()> {
    let (version, application, tables) = look(connection).map_err(failed)?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(Error::new(Status::Persistence, "it is a database of another program")
            .with_code("store_foreign")
            .with_hint("give another path: a new file is made"));
    }
    let newest = STEPS.len();
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    if done > newest {
        return Err(Error::new(
            Status::Persistence,
            format!("it was written by a newer version: its schema is {version}, this library knows {newest}"),
        )
        .with_code("store_newer")
        .with_hint("use a newer library, or another file"));
    }
    if tables == 0 {
        // Only of effect before there is any table.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    }
    if !in_memory {
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(failed)?;
        connection.pragma_update(None, "journal_size_limit", 67_108_864).map_err(failed)?;
    }
    connection.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    if done < newest {
        migrate(connection, newest).map_err(failed)?;
    }
    Ok(())
}

/// The version, the application and the number of tables, in one look: another process may be making them.
fn look(connection: &mut Connection) -> rusqlite::Result<(i32, i32, i64)> {
    let snapshot = connection.transaction()?;
    let tables = snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let number = |name: &str| snapshot.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok((number("user_version")?, number("application_id")?, tables))
}

fn migrate(connection: &mut Connection, newest: usize) -> rusqlite::Result<()> {
    // Another process may have been faster: asked again once nobody else can.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for step in STEPS.iter().skip(usize::try_from(done).unwrap_or(newest)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", i32::try_from(newest).unwrap_or(i32::MAX))?;
    transaction.commit()
}
