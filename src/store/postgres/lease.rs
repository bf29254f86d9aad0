//! Who lives, and who works on which session.
//!
//! A runtime says again and again that it lives; one that has not been heard of for the length of a lease is taken for dead,
//! by the server's clock. A session's lease is void with its runtime. A server that was away does not count against
//! anybody: time begins anew when it is back. A runtime that was taken for dead and lives all the same can do no harm:
//! what it writes of runs and sessions that others have taken over is refused (see `write.rs`).

use super::link::{Link, UNWAITED, failed, unavailable};
use crate::store::{SessionKey, SessionLock};
use crate::types::Result;
use deadpool_postgres::{ClientWrapper, Pool};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// Whether the runtime of the row `runtimes` lives; `$1` is the length of a lease in seconds.
pub const LIVES: &str =
    "greatest(runtimes.seen_at, pg_postmaster_start_time()) + make_interval(secs => $1) > clock_timestamp()";

/// How long closing waits to give everything back.
const FAREWELL: Duration = Duration::from_secs(2);

/// See the module's head.
pub struct Leases {
    link: Arc<Link>,
    owner: Arc<str>,
    seconds: f64,
    listens: Arc<AtomicBool>,
    held: Registry,
}

/// The leases that are held, to be taken anew when the server has lost them.
type Registry = Arc<Mutex<HashMap<Uuid, SessionKey>>>;

struct Held {
    link: Arc<Link>,
    registry: Registry,
    token: Uuid,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.token);
        let (pool, token) = (self.link.pool(), self.token);
        // If it fails, the lease ends with the runtime at the latest, and is ours when we ask again.
        self.link.spawn(async move {
            if let Err(error) = release(&pool, token).await {
                tracing::debug!("a session's lease was not given back: {error}");
            }
        });
    }
}

async fn release(pool: &Pool, token: Uuid) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let client = pool.get().await?;
    let delete = client.prepare_cached("DELETE FROM leases WHERE token = $1").await?;
    client.execute(&delete, &[&token]).await?;
    Ok(())
}

impl Leases {
    /// The leases of this runtime, which says from now on that it lives.
    pub async fn begin(link: Arc<Link>, mut client: ClientWrapper, owner: &str, seconds: f64) -> Result<Self> {
        let listens = Arc::new(AtomicBool::new(false));
        let owner: Arc<str> = owner.into();
        let held = Registry::default();
        let begin = async {
            say_alive(&client, &owner, false).await?;
            // From here on nothing that is said here is waited for.
            client.batch_execute(UNWAITED).await
        };
        begin.await.map_err(|error| failed(&error))?;
        let (keeper, name, says) = (Arc::downgrade(&link), Arc::clone(&owner), Arc::clone(&listens));
        let registry = Arc::clone(&held);
        let pause = Duration::from_secs_f64(seconds / 3.0);
        link.spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                // On a connection of its own: it must not wait for those that read.
                let listens = says.load(Ordering::Acquire);
                if say_alive(&client, &name, listens).await.is_err() {
                    let Some(link) = keeper.upgrade() else { return };
                    match link.own_client().await {
                        Ok(new) => {
                            client = new;
                            let again = take_again(&client, &name, listens, &registry).await;
                            if let Err(error) = again {
                                tracing::warn!("the leases of sessions were not taken anew: {error}");
                            }
                        }
                        Err(error) => tracing::warn!("the database cannot be told that this runtime lives: {error}"),
                    }
                }
            }
        });
        Ok(Self { link, owner, seconds, listens, held })
    }

    /// Others are to say when they have written events.
    pub async fn listen(&self) -> Result<()> {
        if !self.listens.swap(true, Ordering::AcqRel) {
            let client = self.link.client().await?;
            say_alive(&client, &self.owner, true).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Leases a session, until the answer is dropped; none if another runtime that lives has it.
    pub async fn try_lock(&self, key: &SessionKey) -> Result<Option<SessionLock>> {
        let token = Uuid::new_v4();
        let client = self.link.client().await?;
        let lease = async {
            let insert = client
                .prepare_cached(&format!(
                    "INSERT INTO leases (scope, name, owner, token) VALUES ($2, $3, $4, $5) \
                     ON CONFLICT (scope, name) DO UPDATE SET owner = $4, token = $5 \
                     WHERE leases.owner = $4 OR NOT EXISTS \
                       (SELECT FROM runtimes WHERE runtimes.owner = leases.owner AND {LIVES})"
                ))
                .await?;
            let (scope, name) = (key.scope.as_str(), key.id.as_str());
            client.execute(&insert, &[&self.seconds, &scope, &name, &&*self.owner, &token]).await
        };
        let leased = lease.await.map_err(|error| failed(&error))?;
        Ok((leased == 1).then(|| {
            self.held.lock().insert(token, key.clone());
            let held = Held { link: Arc::clone(&self.link), registry: Arc::clone(&self.held), token };
            Arc::new(held) as SessionLock
        }))
    }

    /// Whether a runtime lives.
    pub async fn lives(&self, owner: &str) -> Result<bool> {
        let client = self.link.client().await?;
        let look = async {
            let query = client
                .prepare_cached(&format!("SELECT EXISTS (SELECT FROM runtimes WHERE owner = $2 AND {LIVES})"))
                .await?;
            client.query_one(&query, &[&self.seconds, &owner]).await
        };
        look.await.map(|row| row.get(0)).map_err(|error| failed(&error))
    }

    /// The length of a lease.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// This runtime lives no more: others need not wait for it.
    pub fn end(&self) -> Result<()> {
        let (pool, owner) = (self.link.pool(), Arc::clone(&self.owner));
        self.link.wait(async move {
            let end = async {
                let client = pool.get().await.map_err(|error| unavailable(&error.to_string()))?;
                let ended = async {
                    client.execute("DELETE FROM leases WHERE owner = $1", &[&&*owner]).await?;
                    client.execute("DELETE FROM runtimes WHERE owner = $1", &[&&*owner]).await
                };
                ended.await.map(drop).map_err(|error| failed(&error))
            };
            let ended = tokio::time::timeout(FAREWELL, end).await;
            ended.unwrap_or_else(|_| Err(unavailable("it did not answer")))
        })
    }
}

/// Says at once that the runtime lives, and takes the leases that the server may have lost.
async fn take_again(
    client: &ClientWrapper,
    owner: &str,
    listens: bool,
    held: &Registry,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(UNWAITED).await?;
    say_alive(client, owner, listens).await?;
    let leases: Vec<_> = held.lock().iter().map(|(token, key)| (*token, key.clone())).collect();
    for (token, key) in leases {
        client
            .execute(
                "INSERT INTO leases (scope, name, owner, token) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                &[&key.scope.as_str(), &key.id.as_str(), &owner, &token],
            )
            .await?;
        if !held.lock().contains_key(&token) {
            // Given back in this moment.
            client.execute("DELETE FROM leases WHERE token = $1", &[&token]).await?;
        }
    }
    Ok(())
}

async fn say_alive(client: &tokio_postgres::Client, owner: &str, listens: bool) -> Result<u64, tokio_postgres::Error> {
    client
        .execute(
            "INSERT INTO runtimes (owner, seen_at, listens) VALUES ($1, clock_timestamp(), $2) \
             ON CONFLICT (owner) DO UPDATE SET seen_at = clock_timestamp(), listens = $2",
            &[&owner, &listens],
        )
        .await
}
